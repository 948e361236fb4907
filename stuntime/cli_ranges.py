"""The commands on ranges of values, which need no testbed: baseline, compare, publish."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stuntime.cli_common import Command
from stuntime.cli_results import add_results, write
from stuntime.errors import ExitCode, UsageError


def add_commands(commands: Any, command: Command) -> None:
    """Add the commands to the parser's subcommands."""
    _add_baseline(commands, command)

    compare = command(
        commands,
        "compare",
        _compare,
        "compare two releases, two labs, before and after",
        "stuntime compare baseline.json results --fail-on-regression",
    )
    for name in ("a", "b"):
        compare.add_argument(
            name,
            type=Path,
            metavar=name.upper(),
            help="a directory of results, an aggregate, a baseline, a published file",
        )
    compare.add_argument(
        "--match",
        type=_fields,
        metavar="FIELDS",
        help="pair scenarios by these fields only, such as path,initiator,ip_family (default: all four)",
    )
    compare.add_argument("--json", action="store_true", help="print the comparison as a document")
    compare.add_argument(
        "--fail-on-regression",
        action="store_true",
        help="exit with 1 when B is worse than A, 4 when documents could not be read",
    )

    publish = command(
        commands,
        "publish",
        _publish,
        "write the ranges that go into a release's article",
        "stuntime publish results --format markdown --release 4.20",
    )
    add_results(publish)
    publish.add_argument(
        "--format", choices=["markdown", "json"], default="markdown", help="for people, or for --published"
    )
    publish.add_argument("--release", metavar="NAME", help="the release that was measured")
    publish.add_argument("--output", type=Path, metavar="FILE", help="where it is written (default: stdout)")


def _add_baseline(commands: Any, command: Command) -> None:
    example = "stuntime baseline create results --author 'A. Person' --output baseline.json"
    baseline = command(commands, "baseline", None, "keep what a lab measures when all is well", example)
    actions = baseline.add_subparsers(required=True, metavar="ACTION")
    create = command(actions, "create", _baseline_create, "make a baseline of results", example)
    add_results(create)
    create.add_argument("--author", required=True, metavar="NAME", help="who answers for it")
    create.add_argument("--output", type=Path, required=True, metavar="FILE", help="where the baseline is written")
    create.add_argument(
        "--at-least",
        type=int,
        default=10,
        metavar="N",
        help="how many values each scenario needs; the baseline records it (default: 10)",
    )
    show = command(
        actions, "show", _baseline_show, "show a baseline and its thresholds", "stuntime baseline show baseline.json"
    )
    made = command(
        actions,
        "thresholds",
        _baseline_thresholds,
        "print the thresholds of a baseline as a thresholds file",
        "stuntime baseline thresholds baseline.json > thresholds.yaml",
    )
    for parser in (show, made):
        parser.add_argument("baseline", type=Path, metavar="BASELINE", help="what `baseline create` wrote")
        parser.add_argument("--thresholds", type=Path, metavar="FILE", help="other factors, floors and ceilings (YAML)")


def _baseline_create(arguments: argparse.Namespace) -> int:
    from stuntime import terminal
    from stuntime.baseline import baseline_of
    from stuntime.documents import load
    from stuntime.result import to_json
    from stuntime.threshold import Thresholds

    if arguments.at_least < 1:
        raise UsageError("--at-least cannot be below 1", "a baseline needs values")
    made = baseline_of(
        load(arguments.results),
        author=arguments.author,
        created=datetime.now(UTC).date().isoformat(),
        at_least=arguments.at_least,
    )
    write(arguments.output, to_json(made))
    terminal.baseline(made, Thresholds())
    print(f"{arguments.output}: have it reviewed before it is used")
    return ExitCode.OK


def _baseline_show(arguments: argparse.Namespace) -> int:
    from stuntime import terminal
    from stuntime.policy import read_policy as read

    policy = read(arguments.thresholds, arguments.baseline, None)
    if policy.baseline is not None:
        terminal.baseline(policy.baseline, policy.thresholds_file.thresholds)
    return ExitCode.OK


def _baseline_thresholds(arguments: argparse.Namespace) -> int:
    from stuntime.baseline import thresholds_yaml
    from stuntime.policy import read_policy as read

    policy = read(arguments.thresholds, arguments.baseline, None)
    if policy.baseline is not None:
        print(thresholds_yaml(policy.baseline, policy.thresholds_file.thresholds), end="")
    return ExitCode.OK


def _compare(arguments: argparse.Namespace) -> int:
    from stuntime import terminal
    from stuntime.compare import MATCH, compare, read_side
    from stuntime.result import to_json

    found = compare(read_side(arguments.a), read_side(arguments.b), arguments.match or MATCH)
    if arguments.json:
        print(to_json(found).decode(), end="")
    else:
        terminal.comparison(found)
    if not arguments.fail_on_regression:
        return ExitCode.OK
    return ExitCode.FAIL if found.regressions else ExitCode.INVALID if found.unreadable else ExitCode.OK


def _publish(arguments: argparse.Namespace) -> int:
    from stuntime.documents import load, refused
    from stuntime.published import markdown, published_of
    from stuntime.result import to_json

    loaded = load(arguments.results)
    found = published_of(loaded, arguments.release)
    for file, why in refused(loaded):
        print(f"stuntime: left out: {file}: {why}", file=sys.stderr)
    text = to_json(found).decode() if arguments.format == "json" else markdown(found)
    if arguments.output:
        write(arguments.output, text.encode())
        print(arguments.output)
    else:
        print(text, end="")
    return ExitCode.OK


def _fields(text: str) -> list[str]:
    known = ("network", "path", "initiator", "ip_family")
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found or not set(found) <= set(known):
        raise argparse.ArgumentTypeError(f"{text!r} is no comma list of {', '.join(known)}")
    return [word for word in known if word in found]
