"""What the tasks of a pipeline add to measuring: results that outlive their pod, and commands that bring them in."""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stuntime import cli_cluster, cli_results
from stuntime.cli_common import RECOVERY_HELP, Command, Words, count, run_id, seconds, words
from stuntime.errors import ExitCode, StuntimeError, TestbedError, UsageError
from stuntime.scenario import INITIATORS, IP_FAMILIES, NETWORKS, PATHS, Scenario, measuring_order, scenarios

if TYPE_CHECKING:
    from stuntime.kubevirt.api import Api
    from stuntime.result import Result
    from stuntime.store import OutputDirectory
    from stuntime.suite import Progress

_POLICY = ("thresholds", "baseline", "published")
#: The options of measuring that only this adds, by the names they have among the arguments.
OPTIONS = ("deposit", "owner", "time_limit", "result_file", *(f"{name}_from" for name in _POLICY))
_TOKEN = "STUNTIME_REPORTPORTAL_TOKEN"  # noqa: S105 - the name of the variable that holds it


def add_options(parser: Any) -> None:
    """Add the options of a measurement that is a step of a pipeline."""
    parser.add_argument(
        "--deposit", action="store_true", help="also keep each result in the cluster, for `stuntime fetch`"
    )
    _add_owner(parser)
    parser.add_argument(
        "--time-limit", type=seconds, metavar="S", help="give up after so long; what is not measured then is an error"
    )
    parser.add_argument(
        "--result-file", type=Path, metavar="FILE", help="where the verdict of `run` is written, in one short line"
    )
    _add_policy(parser)


def add_commands(commands: Any, command: Command) -> None:
    """Add the commands to the parser's subcommands."""
    plan = command(
        commands,
        "plan",
        _plan,
        "tell the cluster what a run of several processes is going to measure",
        "stuntime plan --run stuntime-run-x7k2p --ip-family ipv4 ipv6 --repeat 3",
    )
    plan.add_argument("--run", type=run_id, required=True, metavar="ID", help="the id of the run")
    _add_owner(plan)
    for option, known, default in (
        ("network", NETWORKS, NETWORKS),
        ("path", PATHS, PATHS),
        ("initiator", INITIATORS, INITIATORS),
        ("ip-family", IP_FAMILIES, IP_FAMILIES[:1]),
    ):
        plan.add_argument(
            f"--{option}",
            type=words(known),
            nargs="+",
            action=Words,
            default=list(default),
            metavar="LIST",
            help=f"of {', '.join(known)} (default: {', '.join(default)})",
        )
    plan.add_argument("--interval", type=seconds, default=0.1, metavar="S", help="ping's interval (default: 0.1)")
    plan.add_argument("--repeat", type=count, default=1, metavar="N", help="how often (default: 1)")
    plan.add_argument("--recovery-probes", type=count, metavar="N", help=RECOVERY_HELP)
    plan.add_argument(
        "--recovery-timeout", type=seconds, default=60.0, metavar="S", help="how long a recovery is waited for"
    )
    _add_policy(plan)
    cli_cluster.add_options(plan)

    fetch = command(
        commands,
        "fetch",
        _fetch,
        "bring what a PipelineRun measured to this machine, and judge it",
        "stuntime fetch stuntime-run-x7k2p --output results",
    )
    fetch.add_argument("run", type=run_id, metavar="PIPELINERUN", help="the run: the PipelineRun's name")
    fetch.add_argument("--output", type=Path, metavar="DIR", help="where it is written (default: results-RUN)")
    fetch.add_argument("--under", type=Path, default=Path(), metavar="DIR", help="where results-RUN is made")
    fetch.add_argument(
        "--settle", type=seconds, metavar="S", help="wait at most so long for pods that still measure (default: none)"
    )
    fetch.add_argument(
        "--result-file", type=Path, metavar="FILE", help="where the verdicts are written, counted, in one short line"
    )
    cli_results.add_policy(fetch)
    _add_policy(fetch)
    _add_portal(fetch, prefix="reportportal-")
    cli_cluster.add_options(fetch)

    portal = command(
        commands,
        "reportportal",
        _reportportal,
        "send a JUnit file to a ReportPortal",
        "stuntime reportportal results/junit.xml --endpoint https://reportportal.example --project lab",
    )
    portal.add_argument("junit", type=Path, metavar="JUNIT", help="what `aggregate`, `suite` or `fetch` wrote")
    _add_portal(portal, prefix="")


def _add_owner(parser: Any) -> None:
    parser.add_argument(
        "--owner",
        metavar="KIND/NAME/UID",
        help="the PipelineRun or TaskRun that what is made belongs to, and goes with (default: the run itself)",
    )


def _add_policy(parser: Any) -> None:
    for name in _POLICY:
        parser.add_argument(f"--{name}-from", metavar="CONFIGMAP", help=f"take --{name} from a ConfigMap with one key")


def _add_portal(parser: Any, prefix: str) -> None:
    parser.add_argument(
        f"--{prefix}endpoint", metavar="URL", help=f"the ReportPortal to send the JUnit to; its API key is in {_TOKEN}"
    )
    parser.add_argument(f"--{prefix}project", metavar="NAME", help="the project there")
    parser.add_argument(f"--{prefix}launch", default="stuntime", metavar="NAME", help="its launch (default: stuntime)")


@contextmanager
def time_limit(limit_s: float | None) -> Iterator[None]:
    """Raise TestbedError in the body when it takes longer than `limit_s`. For the main thread only."""
    if limit_s is None:
        yield
        return

    def over(*_: object) -> None:
        raise TestbedError(
            f"the time limit of {limit_s:g} s is over", "give a larger --time-limit", reason="time-limit"
        )

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def kept(
    arguments: argparse.Namespace, api: "Api", output: "OutputDirectory"
) -> "Iterator[Callable[[Progress], Progress]]":
    """Yield what makes of a progress one that also deposits each result, where that is asked for.

    What is planned and has no result when the body fails is told, and deposited, as failed by that.
    """
    if not arguments.deposit:
        yield lambda report: report
        return
    from stuntime.kubevirt.deposit import Depository

    depository = Depository(api, output.plan.run, _owner(arguments))

    def keeping(report: "Progress") -> "Progress":
        def told(scenario: Scenario, repetition: int, result: "Result | None") -> None:
            report(scenario, repetition, result)
            if result is not None:
                depository.put(output, result)

        return told

    try:
        yield keeping
    except StuntimeError as error:
        _tell_failed(output, depository.put, error)
        raise
    finally:
        depository.settle()


def deposit_failure(arguments: argparse.Namespace, api: "Api", output: "OutputDirectory", error: StuntimeError) -> None:
    """Deposit for all that is planned why it was not measured."""
    from stuntime.kubevirt.deposit import Depository

    depository = Depository(api, output.plan.run, _owner(arguments))
    _tell_failed(output, depository.put, error)
    depository.settle()


def _tell_failed(
    output: "OutputDirectory", put: "Callable[[OutputDirectory, Result], None]", error: StuntimeError
) -> None:
    from stuntime.measure import failed
    from stuntime.suite import options_of

    told = {(result.scenario, result.repetition) for result in output.results()}
    for scenario, repetition in output.missing():
        if (scenario, repetition) in told:
            continue
        options, run = options_of(output.plan), output.plan.run
        result = failed(Scenario.parse(scenario), options, error, run=run, repetition=repetition)
        put(output, output.write(result))


@contextmanager
def policy(arguments: argparse.Namespace) -> Iterator[None]:
    """Have the policy that is kept in ConfigMaps in files while the body runs, named as if by the options for files."""
    if not any(getattr(arguments, f"{name}_from") for name in _POLICY):
        yield
        return
    with cli_cluster.connected(arguments) as api:
        names = {name: getattr(arguments, f"{name}_from") for name in _POLICY}
        with _policy_files(api, {name: of for name, of in names.items() if of}) as files:
            _use(arguments, files)
            yield


@contextmanager
def _policy_files(api: "Api", names: Mapping[str, str]) -> Iterator[dict[str, Path]]:
    """Yield files with the contents of ConfigMaps, by option; raise UsageError when one has not exactly one key."""
    from stuntime.kubevirt.kinds import CONFIG_MAP

    with tempfile.TemporaryDirectory(prefix="stuntime-policy-") as folder:
        files = {}
        for option, name in names.items():
            found = api.get(CONFIG_MAP, name)
            data = (found or {}).get("data") or {}
            if len(data) != 1:
                raise UsageError(
                    f"the ConfigMap {name} of namespace {api.namespace} {'has not one key' if found else 'is missing'}",
                    f"kubectl create configmap {name} --from-file=FILE",
                )
            key, text = next(iter(data.items()))
            files[option] = Path(folder) / f"{option}{Path(key).suffix}"
            files[option].write_text(text)
        yield files


def _use(arguments: argparse.Namespace, files: Mapping[str, Path]) -> None:
    for option, file in files.items():
        if getattr(arguments, option) is None:
            setattr(arguments, option, file)


def _owner(arguments: argparse.Namespace) -> Any:
    from stuntime.kubevirt.settings import Owner

    return Owner.parse(arguments.owner) if arguments.owner else None


def _plan(arguments: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from stuntime import __version__
    from stuntime.kubevirt.deposit import Depository
    from stuntime.policy import read_policy
    from stuntime.store import Plan
    from stuntime.suite import options_of

    planned = measuring_order(scenarios(arguments.network, arguments.path, arguments.initiator, arguments.ip_family))
    plan = Plan(
        run=arguments.run,
        tool_version=__version__,
        testbed="kubevirt",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        scenarios=tuple(scenario.id for scenario in planned),
        repeat=arguments.repeat,
        interval_s=arguments.interval,
        recovery_probes=arguments.recovery_probes,
        recovery_timeout_s=arguments.recovery_timeout,
        migrate=True,
        capture=False,
    )
    options_of(plan)
    names = {name: of for name in _POLICY if (of := getattr(arguments, f"{name}_from"))}
    with cli_cluster.connected(arguments) as api:
        with _policy_files(api, names) as files:  # before an hour of measuring
            read_policy(*(files.get(name) for name in _POLICY)).thresholds_file.require_used(planned)
        Depository(api, plan.run, _owner(arguments)).put_plan(plan, names)
    print(f"run {plan.run} measures {len(plan.scenarios)} scenarios, {plan.repeat} times each")
    return ExitCode.OK


def _fetch(arguments: argparse.Namespace) -> int:
    from stuntime.kubevirt import collect, deposit

    api = cli_cluster.client(arguments)
    if arguments.settle:
        for pod in collect.settle(api, arguments.run, arguments.settle):
            print(f"stuntime: pod {pod} still measures; what it deposits later is not in here", file=sys.stderr)
    found = deposit.read(api, arguments.run)
    root = arguments.output or arguments.under / f"results-{arguments.run}"
    output, wrong = collect.bring(found, arguments.run, root)
    for error in wrong:
        print(f"stuntime: {error}\n          {error.way_out}", file=sys.stderr)
    names = {name: getattr(arguments, f"{name}_from") or found.policy.get(name) for name in _POLICY}
    with _policy_files(api, {name: of for name, of in names.items() if of and not getattr(arguments, name)}) as files:
        _use(arguments, files)
        code = cli_results.judge(
            [root],
            root,
            cli_results.read_policy(arguments),
            workspace=arguments.workspace,
            run=output.plan.run,
            page=True,
        )
    _write_brief(arguments.result_file, root)
    if arguments.reportportal_endpoint:
        sent = _sent(
            arguments.reportportal_endpoint, arguments.reportportal_project, arguments.reportportal_launch, root
        )
        code = code or sent
    return code


def _write_brief(file: Path | None, root: Path) -> None:
    from stuntime import brief

    if file is not None:
        brief.write(file, brief.of_run(root))


def _sent(endpoint: str, project: str | None, launch: str, root: Path) -> int:
    """Send the JUnit of an output directory; a ReportPortal that does not take it is told, and changes no verdict."""
    from stuntime.cli_common import guarded

    return guarded(lambda: _send(endpoint, project, launch, root / cli_results.JUNIT, {"run": _run_of(root)}))


def _run_of(root: Path) -> str:
    from stuntime.store import read_plan

    return read_plan(root).run


def _reportportal(arguments: argparse.Namespace) -> int:
    if not arguments.endpoint:
        raise UsageError("no ReportPortal is named", "name it with --endpoint")
    return _send(arguments.endpoint, arguments.project, arguments.launch, arguments.junit, {})


def _send(endpoint: str, project: str | None, launch: str, junit: Path, attributes: Mapping[str, str]) -> int:
    from stuntime.reportportal import Portal, send

    portal = Portal(endpoint, project or "", os.environ.get(_TOKEN, "").strip())
    try:
        content = junit.read_bytes()
    except OSError as error:
        raise UsageError(f"{junit} cannot be read: {error.strerror}", "name a JUnit file") from error
    print(f"ReportPortal: {send(portal, content, launch=launch, attributes=attributes)}")
    return ExitCode.OK
