"""The commands that judge results and need no testbed: aggregate and report."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stuntime.cli_common import Command
from stuntime.errors import UsageError

if TYPE_CHECKING:
    from stuntime.aggregate import Aggregate
    from stuntime.policy import Policy
    from stuntime.requirements import Requirements
    from stuntime.result import Result

JUNIT, PAGE = "junit.xml", "report.html"
#: What `add_policy` adds; it says how results are judged, and nothing of how they are measured.
POLICY_OPTIONS = ("thresholds", "baseline", "published", "requirements", "workspace")


def add_commands(commands: Any, command: Command) -> None:
    """Add the commands to the parser's subcommands."""
    aggregate = command(
        commands,
        "aggregate",
        _aggregate,
        "turn results into verdicts and JUnit",
        "stuntime aggregate results --output results --thresholds thresholds.yaml --baseline baseline.json",
    )
    add_results(aggregate)
    aggregate.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help=f"where {JUNIT} and aggregate.json are written"
    )
    _add_judging(aggregate)

    report = command(
        commands,
        "report",
        _report,
        "write the page that explains results",
        "stuntime report results --output report.html --baseline baseline.json",
    )
    add_results(report)
    report.add_argument("--output", type=Path, required=True, metavar="FILE", help="where the page is written")
    _add_judging(report)


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name results."""
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS", help="result files, or directories of runs")


def _add_judging(parser: argparse.ArgumentParser) -> None:
    add_policy(parser)
    parser.add_argument(
        "--expect",
        metavar="SELECTION",
        help="the scenarios that must be there (default: what the run planned, else the 12 of IPv4)",
    )
    parser.add_argument("--run", metavar="ID", help="the run to judge, or `all` (default: the newest)")


def add_policy(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what results are judged by."""
    for name, meaning in (
        ("thresholds", "the largest stuntimes that pass (YAML; see the README)"),
        ("baseline", "what `baseline create` wrote: thresholds come from it"),
        ("published", "what `publish --format json` wrote: above its ranges is a failure, below is said"),
        ("requirements", "the requirement and test cases in JUnit (YAML; default: those of CNV-72773)"),
    ):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=meaning)
    parser.add_argument(
        "--workspace",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="the folder that JUnit names evidence relative to (default: the current one)",
    )


def read_policy(arguments: argparse.Namespace) -> "tuple[Policy, Requirements]":
    """Return what results are judged by; raise UsageError when a file cannot be used."""
    from stuntime.policy import read_policy as read
    from stuntime.requirements import BUILT_IN, read_requirements

    policy = read(arguments.thresholds, arguments.baseline, arguments.published)
    return policy, read_requirements(arguments.requirements or BUILT_IN)


def judge(
    results: Sequence[Path],
    output: Path,
    policy: "tuple[Policy, Requirements]",
    *,
    workspace: Path,
    expect: str | None = None,
    run: str | None = None,
    page: bool = False,
) -> int:
    """Write JUnit, the aggregate and with `page` the page; print the verdicts; return the exit code they ask for."""
    from stuntime import terminal
    from stuntime.aggregate_file import document_of
    from stuntime.documents import AGGREGATE
    from stuntime.junit import junit_xml
    from stuntime.result import to_json

    aggregate, details = _aggregated(results, policy[0], expect, run)
    files = {
        output / AGGREGATE: to_json(document_of(aggregate)),
        output / JUNIT: junit_xml(aggregate, details, policy[1], workspace),
    }
    if page:
        files[output / PAGE] = _page(aggregate, details, policy[0])
    for path, content in files.items():
        write(path, content)
    terminal.verdicts(aggregate, details)
    _tell_unreadable(aggregate)
    if page:
        print(f"the page: {output / PAGE}")
    print(f"JUnit: {output / JUNIT}")
    return aggregate.exit_code


def _aggregated(
    results: Sequence[Path], policy: "Policy", expect: str | None, run: str | None
) -> "tuple[Aggregate, dict[str, Result]]":
    """Return the aggregate and the decisive results, whole, by scenario id."""
    from stuntime.aggregate import aggregate
    from stuntime.documents import load

    found = aggregate(load(results), policy, expect=expect, run=run)
    return found, {v.scenario.id: v.decisive.whole() for v in found.verdicts if v.decisive is not None}


def _page(aggregate: "Aggregate", details: "dict[str, Result]", policy: "Policy") -> bytes:
    from stuntime.report import page

    return page(aggregate, details, policy)


def _tell_unreadable(aggregate: "Aggregate") -> None:
    for found in aggregate.unreadable:
        print(f"stuntime: {found.error}\n          {found.error.way_out}", file=sys.stderr)
    for found in aggregate.unreadable_aside:
        print(f"stuntime: {found.error} (of a run that is not judged)", file=sys.stderr)


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raise UsageError when that cannot be done."""
    from stuntime.store import write_whole

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", "name another place with --output") from error


def _aggregate(arguments: argparse.Namespace) -> int:
    return judge(
        arguments.results,
        arguments.output,
        read_policy(arguments),
        workspace=arguments.workspace,
        expect=arguments.expect,
        run=arguments.run,
    )


def _report(arguments: argparse.Namespace) -> int:
    policy, _ = read_policy(arguments)
    aggregate, details = _aggregated(arguments.results, policy, arguments.expect, arguments.run)
    write(arguments.output, _page(aggregate, details, policy))
    _tell_unreadable(aggregate)
    print(arguments.output)
    return aggregate.exit_code
