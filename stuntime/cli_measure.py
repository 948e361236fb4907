"""The commands that measure: run and suite, on whichever testbed."""

import argparse
import secrets
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stuntime import __version__, cli_kubevirt, cli_pipeline, cli_results, cli_sandbox, cli_ssh
from stuntime.cli_common import RECOVERY_HELP, Command, count, guarded, run_id, seconds, words
from stuntime.errors import ExitCode, UsageError
from stuntime.scenario import INITIATORS, IP_FAMILIES, NETWORKS, PATHS, Scenario, measuring_order, scenarios, select

if TYPE_CHECKING:
    from stuntime.store import OutputDirectory

#: Each testbed's own options, and how it measures what an output directory plans.
_TESTBEDS = {"sandbox": cli_sandbox, "kubevirt": cli_kubevirt, "ssh": cli_ssh}


def add_commands(commands: Any, command: Command) -> None:
    """Add the commands to the parser's subcommands."""
    listing = command(
        commands, "scenarios", _scenarios, "list the ids of the scenarios", "stuntime scenarios --ip-family ipv4,ipv6"
    )
    _add_selection(listing)

    run = command(
        commands, "run", _run, "measure one scenario", "stuntime run linux-bridge.from-static-node.static.ipv4"
    )
    run.add_argument("scenario", metavar="SCENARIO", help="a scenario id")
    run.set_defaults(resume=None)
    _add_measuring(run)

    suite = command(
        commands,
        "suite",
        _suite,
        "measure many scenarios",
        "stuntime suite --network linux-bridge --repeat 3 --capture",
    )
    _add_selection(suite)
    _add_measuring(suite)
    suite.add_argument("--resume", type=Path, metavar="DIR", help="go on with a run: measure what is missing in DIR")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("selection", nargs="?", metavar="SELECTION", help="a comma list of scenario ids, with *")
    parser.add_argument(
        "--network",
        type=_names,
        metavar="LIST",
        help=f"a comma list of {', '.join(NETWORKS)} or, on other platforms, of those of the inventory (default: all)",
    )
    for option, known, default in (
        ("path", PATHS, "all that there are nodes for"),
        ("initiator", INITIATORS, "all"),
        ("ip-family", IP_FAMILIES, "ipv4"),
    ):
        parser.add_argument(
            f"--{option}",
            type=words(known),
            metavar="LIST",
            help=f"a comma list of {', '.join(known)} (default: {default})",
        )


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--testbed", choices=list(_TESTBEDS), default="sandbox", help="where the VMs live (default: sandbox)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where results are written (default: results-RUN)")
    parser.add_argument("--run", type=run_id, metavar="ID", help="the id of the run (default: a new one)")
    parser.add_argument("--interval", type=seconds, default=0.1, metavar="S", help="ping's interval (default: 0.1)")
    parser.add_argument(
        "--repeat", type=count, default=1, metavar="N", help="measure each scenario N times (default: 1)"
    )
    parser.add_argument("--recovery-probes", type=count, metavar="N", help=RECOVERY_HELP)
    parser.add_argument(
        "--recovery-timeout",
        type=seconds,
        default=60.0,
        metavar="S",
        help="how long to wait for a recovery (default: 60)",
    )
    parser.add_argument(
        "--no-migrate", dest="migrate", action="store_false", help="the control run: nothing is migrated"
    )
    parser.add_argument(
        "--capture", action="store_true", help="keep a packet capture at the static VM's port, and compare"
    )
    for testbed in _TESTBEDS.values():
        testbed.add_options(parser)
    cli_results.add_policy(parser)
    parser.set_defaults(plain=lambda *positional: vars(parser.parse_args(positional)))


def _scenarios(arguments: argparse.Namespace) -> int:
    for scenario in selected(arguments):
        print(scenario.id)
    return ExitCode.OK


def selected(arguments: argparse.Namespace) -> list[Scenario]:
    """Return the scenarios that the arguments name."""
    elsewhere = "testbed" in arguments and arguments.testbed == "ssh"
    offered = cli_ssh.scenarios(arguments) if elsewhere else scenarios(ip_families=IP_FAMILIES)
    families: dict[str, list[str]] = {}
    for scenario in offered:
        families.setdefault(scenario.network, []).append(scenario.ip_family)
    for what, asked, has in (
        ("network", arguments.network, set(families)),
        ("ip family", arguments.ip_family, {family for of_one in families.values() for family in of_one}),
    ):
        if unknown := [word for word in asked or () if word not in has]:
            raise UsageError(f"there is no {what} {', '.join(unknown)}", f"known are {', '.join(sorted(has))}")
    # Without a word one family is measured, ipv4 if it can be; a selection may name any.
    known = [
        scenario
        for scenario in offered
        if scenario.network in (arguments.network or families)
        and scenario.path in (arguments.path or PATHS)
        and scenario.initiator in (arguments.initiator or INITIATORS)
        and scenario.ip_family
        in (arguments.ip_family or (IP_FAMILIES if arguments.selection else [min(families[scenario.network])]))
    ]
    if not known:
        raise UsageError("no scenario is left of this choice", "leave one of the options out")
    return select(arguments.selection, known) if arguments.selection else known


def _names(text: str) -> list[str]:
    """Return the names of networks in a comma list."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _run(arguments: argparse.Namespace) -> int:
    from stuntime import brief
    from stuntime.documents import load

    scenario = Scenario.parse(arguments.scenario)
    with _told_in_brief(arguments.result_file, scenario), cli_pipeline.policy(arguments):
        root, code = _measured(arguments, arguments.testbed, lambda *_: _new_output(arguments, [scenario]))
        errors = [found.result.error for found in load([root]).documents if found.result.error]
        if arguments.result_file is not None:
            brief.write(arguments.result_file, brief.of_scenario(root, scenario.id))
    return errors[0].exit_code if code == ExitCode.INVALID and errors else code


@contextmanager
def _told_in_brief(file: Path | None, scenario: Scenario) -> Iterator[None]:
    """Write what went wrong when the body fails."""
    try:
        yield
    except BaseException as error:
        if file is not None:
            from stuntime import brief

            brief.write(file, brief.of_failure(scenario.id, error))
        raise


def _suite(arguments: argparse.Namespace) -> int:
    from stuntime.store import OutputDirectory

    with cli_pipeline.policy(arguments):
        if arguments.resume:
            resumed = OutputDirectory.resume(arguments.resume)
            _require_plain(arguments, resumed.plan.testbed)
            vars(arguments).update(resumed.plan.settings | _differing(arguments, resumed.plan.settings))
            arguments.capture = resumed.plan.capture
            thresholds = cli_results.read_policy(arguments)[0].thresholds_file
            thresholds.require_used(map(Scenario.parse, resumed.plan.scenarios))
            return _measured(arguments, resumed.plan.testbed, lambda *_: resumed)[1]
        planned = measuring_order(selected(arguments))
        asked = arguments.path or arguments.selection  # what was asked for by name and cannot be is an error of its own

        def opened(*falling_away: str) -> "OutputDirectory":
            return _new_output(arguments, [one for one in planned if asked or one.path not in falling_away])

        return _measured(arguments, arguments.testbed, opened)[1]


def _require_plain(arguments: argparse.Namespace, testbed: str) -> None:
    """Raise UsageError when options are given that the plan of a resumed run has decided otherwise."""
    kept = {"resume", "verbose", *cli_results.POLICY_OPTIONS, *(o for t in _TESTBEDS.values() for o in t.OPTIONS)}
    if arguments.testbed == testbed:
        kept.add("testbed")
    if given := _given(arguments, set(arguments.plain()) - kept):
        raise UsageError(
            f"--resume goes on with the plan of the run; not with {', '.join(given)}",
            "leave that out, or begin a new run",
        )


def _require_own(arguments: argparse.Namespace, testbed: str) -> None:
    """Raise UsageError when options of another testbed are given."""
    others = {option for name, other in _TESTBEDS.items() if name != testbed for option in other.OPTIONS}
    if given := _given(arguments, others - set(_TESTBEDS[testbed].OPTIONS)):
        raise UsageError(
            f"the testbed {testbed} knows no {', '.join(given)}", "leave that out, or name another --testbed"
        )


def _given(arguments: argparse.Namespace, options: Container[str]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in _differing(arguments, options)]


def _differing(arguments: argparse.Namespace, options: Container[str]) -> dict[str, Any]:
    """Return those of the options that are not their defaults."""
    plain = arguments.plain(*([arguments.scenario] if "scenario" in arguments else []))
    return {name: value for name, value in vars(arguments).items() if name in options and value != plain[name]}


def _measured(
    arguments: argparse.Namespace, testbed: str, opened: "Callable[..., OutputDirectory]"
) -> tuple[Path, int]:
    """Measure on the testbed what an output directory plans; return the directory's path and the exit code."""
    policy = cli_results.read_policy(arguments)  # before an hour of measuring
    _require_own(arguments, testbed)
    output, code = _TESTBEDS[testbed].measured(arguments, opened)

    def judge() -> int:
        return cli_results.judge([output.root], output.root, policy, workspace=arguments.workspace, page=True)

    if code == ExitCode.OK:
        return output.root, judge()
    if code == ExitCode.INTERRUPTED or output.results():
        guarded(judge)  # what ended the run may end this, too, and is what the exit code says
    return output.root, code


def _new_output(arguments: argparse.Namespace, planned: Sequence[Scenario]) -> "OutputDirectory":
    from stuntime.store import OutputDirectory, Plan
    from stuntime.suite import options_of

    cli_results.read_policy(arguments)[0].thresholds_file.require_used(planned)
    now = datetime.now(UTC)
    run = arguments.run or f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    plan = Plan(
        run=run,
        tool_version=__version__,
        testbed=arguments.testbed,
        started=now.isoformat(timespec="seconds"),
        scenarios=tuple(scenario.id for scenario in planned),
        repeat=arguments.repeat,
        interval_s=arguments.interval,
        recovery_probes=arguments.recovery_probes,
        recovery_timeout_s=arguments.recovery_timeout,
        migrate=arguments.migrate,
        capture=arguments.capture,
        settings=_differing(arguments, _TESTBEDS[arguments.testbed].SETTINGS),
    )
    options_of(plan)  # raises before anything is made
    return OutputDirectory.create(arguments.output or Path(f"results-{run}"), plan)
