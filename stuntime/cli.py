"""The command line. Only the outermost layer prints, reads argv and exits; heavy imports happen where they are used."""

import argparse
import gc
import secrets
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from stuntime import __version__, cli_ranges, cli_results, logs
from stuntime.errors import ExitCode, StuntimeError, UsageError
from stuntime.scenario import INITIATORS, IP_FAMILIES, NETWORKS, PATHS, Scenario, measuring_order, scenarios, select

if TYPE_CHECKING:
    from stuntime.measure import Options
    from stuntime.sandbox.image import GuestImage
    from stuntime.store import OutputDirectory, Plan


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    arguments = _parser().parse_args(argv)
    logs.configure(verbose=arguments.verbose)
    try:
        return guarded(lambda: arguments.command(arguments))
    except Exception:  # noqa: BLE001 - a defect of ours is told whole, and is no verdict
        traceback.print_exc()
        return ExitCode.UNEXPECTED


def guarded(command: Callable[[], int]) -> int:
    """Run a command; print what is expected to go wrong in two lines and return its exit code."""
    try:
        return command()
    except StuntimeError as error:
        print(f"stuntime: {' '.join(str(error).split())}\n          {error.way_out}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stuntime: interrupted; what was measured is kept", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        return ExitCode.OK
    except OSError as error:
        print(f"stuntime: {error}\n          see whether the disk is full, and who may write there", file=sys.stderr)
        return ExitCode.TESTBED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stuntime", description="How long is a virtual machine unreachable while it is live-migrated?"
    )
    parser.add_argument("--version", action="version", version=f"stuntime {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell every step on stderr")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = _command(
        commands, "scenarios", _scenarios, "list the ids of the scenarios", "stuntime scenarios --ip-family ipv4,ipv6"
    )
    _add_selection(listing)

    run = _command(
        commands, "run", _run, "measure one scenario", "stuntime run linux-bridge.from-static-node.static.ipv4"
    )
    run.add_argument("scenario", metavar="SCENARIO", help="a scenario id")
    run.set_defaults(resume=None)
    _add_measuring(run)

    suite = _command(
        commands,
        "suite",
        _suite,
        "measure many scenarios",
        "stuntime suite --network linux-bridge --repeat 3 --capture",
    )
    _add_selection(suite)
    _add_measuring(suite)
    suite.add_argument("--resume", type=Path, metavar="DIR", help="go on with a run: measure what is missing in DIR")

    analyze = _command(
        commands,
        "analyze",
        _analyze,
        "judge the log of a ping, whoever took it",
        "stuntime analyze --ping-log ping.log --migration-start 1774185115 --migration-end 1774185127",
    )
    analyze.add_argument("--ping-log", type=Path, required=True, metavar="FILE", help="what `ping -n -D -O` printed")
    analyze.add_argument("--observer-log", type=Path, metavar="FILE", help="the observer's log, from the static VM")
    analyze.add_argument("--capture", type=Path, metavar="PCAP", help="a capture at the static VM's port")
    analyze.add_argument(
        "--initiator", choices=INITIATORS, default="static", help="the VM that pinged (default: static)"
    )
    for moment, meaning in (
        ("requested", "was asked for"),
        ("start", "began, as reported"),
        ("end", "ended, as reported"),
    ):
        analyze.add_argument(
            f"--migration-{moment}",
            type=_epoch,
            metavar="EPOCH",
            help=f"when the migration {meaning}, in the clock of the static VM's log",
        )
    analyze.add_argument(
        "--interval", type=_seconds, metavar="S", help="the spacing, where the log is too short to tell"
    )
    analyze.add_argument("--recovery-probes", type=_count, metavar="N", help=_RECOVERY_HELP)
    analyze.add_argument("--json", action="store_true", help="the measurement part of the result document")

    cli_results.add_commands(commands, _command)
    cli_ranges.add_commands(commands, _command)
    return parser


_RECOVERY_HELP = "how many good replies in a row are a lasting recovery (default: ten, or as many as one second holds)"


def _command(commands: Any, name: str, function: Any, summary: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=f"example: {example}"
    )
    if function is not None:
        parser.set_defaults(command=function)
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("selection", nargs="?", metavar="SELECTION", help="a comma list of scenario ids, with *")
    for option, known, default in (
        ("network", NETWORKS, NETWORKS),
        ("path", PATHS, PATHS),
        ("initiator", INITIATORS, INITIATORS),
        ("ip-family", IP_FAMILIES, None),
    ):
        parser.add_argument(
            f"--{option}",
            type=_words(known),
            default=default,
            metavar="LIST",
            help=f"a comma list of {', '.join(known)} (default: {'ipv4' if default is None else 'all'})",
        )


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--testbed", choices=["sandbox"], default="sandbox", help="where the VMs live (default: sandbox)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where results are written (default: results-RUN)")
    parser.add_argument("--interval", type=_seconds, default=0.1, metavar="S", help="ping's interval (default: 0.1)")
    parser.add_argument(
        "--repeat", type=_count, default=1, metavar="N", help="measure each scenario N times (default: 1)"
    )
    parser.add_argument("--recovery-probes", type=_count, metavar="N", help=_RECOVERY_HELP)
    parser.add_argument(
        "--recovery-timeout",
        type=_seconds,
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
    parser.add_argument("--keep", action="store_true", help="leave the VMs of a failure to look at, until Ctrl-C")
    parser.add_argument(
        "--accelerator",
        choices=["auto", "kvm", "tcg"],
        default="auto",
        help="how the sandbox's guests run (default: KVM if a guest proves that it boots, else software emulation)",
    )
    cli_results.add_policy(parser)


def _scenarios(arguments: argparse.Namespace) -> int:
    for scenario in _selected(arguments):
        print(scenario.id)
    return ExitCode.OK


def _selected(arguments: argparse.Namespace) -> list[Scenario]:
    families = arguments.ip_family or (IP_FAMILIES if arguments.selection else IP_FAMILIES[:1])
    known = scenarios(arguments.network, arguments.path, arguments.initiator, families)
    return select(arguments.selection, known) if arguments.selection else known


def _run(arguments: argparse.Namespace) -> int:
    from stuntime.documents import load

    scenario = Scenario.parse(arguments.scenario)
    root, code = _measured(arguments, lambda: _new_output(arguments, [scenario]))
    errors = [found.result.error for found in load([root]).documents if found.result.error]
    return errors[0].exit_code if code == ExitCode.INVALID and errors else code


def _suite(arguments: argparse.Namespace) -> int:
    from stuntime.store import OutputDirectory

    if arguments.resume:
        _require_plain(arguments)
        resumed = OutputDirectory.resume(arguments.resume)
        arguments.capture = resumed.plan.capture
        thresholds = cli_results.read_policy(arguments)[0].thresholds_file
        thresholds.require_used(map(Scenario.parse, resumed.plan.scenarios))
        return _measured(arguments, lambda: resumed)[1]
    planned = measuring_order(_selected(arguments))
    return _measured(arguments, lambda: _new_output(arguments, planned))[1]


def _require_plain(arguments: argparse.Namespace) -> None:
    """Raise UsageError when options are given that the plan of a resumed run has decided already."""
    plain = vars(_parser().parse_args(["suite"]))
    kept = {"resume", "keep", "accelerator", "verbose", *cli_results.POLICY_OPTIONS}
    given = [name for name, value in vars(arguments).items() if name not in kept and value != plain[name]]
    if given:
        raise UsageError(
            f"--resume goes on with the plan of the run; not with {', '.join(given).replace('_', '-')}",
            "leave that out, or begin a new run",
        )


def _measured(arguments: argparse.Namespace, opened: "Callable[[], OutputDirectory]") -> tuple[Path, int]:
    """Measure in the sandbox what an output directory plans; return the directory's path and the exit code."""
    from stuntime.sandbox import image, lock, namespaces, preflight

    policy = cli_results.read_policy(arguments)  # before an hour of measuring
    preflight.check(capture=arguments.capture)
    namespaces.require_visible(arguments.output or arguments.resume or Path())
    with lock.only_sandbox():
        preflight.check_memory()
        built = image.guest_image()
        output = opened()
        code = namespaces.run_inside(lambda: guarded(lambda: _inside(arguments, built, output)))
    if code not in (ExitCode.OK, ExitCode.INTERRUPTED):
        return output.root, code
    judged = cli_results.judge([output.root], output.root, policy, workspace=arguments.workspace, page=True)
    return output.root, code or judged


def _inside(arguments: argparse.Namespace, built: "GuestImage", output: "OutputDirectory") -> int:
    """Run a plan inside the sandbox's namespaces."""
    from stuntime.sandbox.testbed import SandboxTestbed
    from stuntime.suite import run_plan
    from stuntime.terminal import progress

    testbed = SandboxTestbed(built, accelerator=arguments.accelerator, keep=arguments.keep)
    with progress(len(output.missing())) as report:
        run_plan(testbed, output, _options(output.plan), report)
    return ExitCode.OK


def _new_output(arguments: argparse.Namespace, planned: Sequence[Scenario]) -> "OutputDirectory":
    from stuntime.store import OutputDirectory, Plan

    cli_results.read_policy(arguments)[0].thresholds_file.require_used(planned)
    now = datetime.now(UTC)
    run = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
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
    )
    _options(plan)  # raises before anything is made
    return OutputDirectory.create(arguments.output or Path(f"results-{run}"), plan)


def _options(plan: "Plan") -> "Options":
    from stuntime.measure import Options

    return Options(
        interval_s=plan.interval_s,
        recovery_probes=plan.recovery_probes,
        recovery_timeout_s=plan.recovery_timeout_s,
        migrate=plan.migrate,
        capture=plan.capture,
    )


def _analyze(arguments: argparse.Namespace) -> int:
    from stuntime.arrivals import parse_observer_log
    from stuntime.capture import read_capture
    from stuntime.gaps import Window
    from stuntime.outage import analyze
    from stuntime.ping import parse_ping_log
    from stuntime.result import to_json
    from stuntime.terminal import measurement_in_words

    gc.disable()  # an hour at 10 ms is a million small objects and no cycle: looking for one takes a fifth of the time
    window = Window(arguments.migration_requested, arguments.migration_start, arguments.migration_end)
    known = [time for time in (window.requested, window.started, window.ended) if time is not None]
    if known != sorted(known):
        raise UsageError(
            "a migration is asked for before it starts, and starts before it ends", "check the three times"
        )
    if arguments.observer_log and arguments.capture:
        raise UsageError("--observer-log and --capture both say when packets arrived", "give one of them")
    with _opened(arguments.ping_log) as lines:
        log = parse_ping_log(lines)
    arrivals = None
    if arguments.observer_log:
        with _opened(arguments.observer_log) as lines:
            arrivals = parse_observer_log(lines)
    elif arguments.capture:
        with _opened(arguments.capture):
            arrivals = read_capture(arguments.capture, initiator=arguments.initiator, peer=log.peer)
    measured = analyze(
        log,
        initiator=arguments.initiator,
        arrivals=arrivals,
        window=window,
        interval_s=arguments.interval,
        recovery_probes=arguments.recovery_probes,
    )
    print(
        to_json(measured).decode() if arguments.json else measurement_in_words(measured),
        end="" if arguments.json else "\n",
    )
    return ExitCode.OK if measured.valid else ExitCode.INVALID


def _opened(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8", errors="replace", newline="\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "name a file that exists") from error


def _words(known: Sequence[str]) -> Callable[[str], list[str]]:
    def words(text: str) -> list[str]:
        found = [word.strip() for word in text.split(",") if word.strip()]
        if not found or not set(found) <= set(known):
            raise argparse.ArgumentTypeError(f"{text!r} is no comma list of {', '.join(known)}")
        return [word for word in known if word in found]

    return words


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def _epoch(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1e11:  # noqa: PLR2004 - beyond it are milliseconds, and what is no number
        raise argparse.ArgumentTypeError(f"{text!r} is no time in epoch seconds")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
