"""The command line. Only the outermost layer prints, reads argv and exits; heavy imports happen where they are used."""

import argparse
import gc
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from stuntime import cli_kubevirt, cli_measure, cli_pipeline, cli_ranges, cli_results, logs
from stuntime.cli_common import RECOVERY_HELP, count, epoch, given, guarded, seconds
from stuntime.errors import ExitCode, UsageError
from stuntime.scenario import INITIATORS


class _Version(argparse.Action):
    """Asks for the commit only when somebody wants to know it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from stuntime import version

        print(version.told())
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    arguments = _parser().parse_args(given(sys.argv[1:] if argv is None else argv))
    logs.configure(verbose=arguments.verbose)
    try:
        return guarded(lambda: arguments.command(arguments))
    except Exception:  # noqa: BLE001 - a defect of ours is told whole, and is no verdict
        traceback.print_exc()
        return ExitCode.UNEXPECTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stuntime", description="How long is a virtual machine unreachable while it is live-migrated?"
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show version and commit, and exit")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell every step on stderr")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    cli_measure.add_commands(commands, _command)
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
            type=epoch,
            metavar="EPOCH",
            help=f"when the migration {meaning}, in the clock of the static VM's log",
        )
    analyze.add_argument(
        "--interval", type=seconds, metavar="S", help="the spacing, where the log is too short to tell"
    )
    analyze.add_argument("--recovery-probes", type=count, metavar="N", help=RECOVERY_HELP)
    analyze.add_argument("--json", action="store_true", help="the measurement part of the result document")

    cli_kubevirt.add_commands(commands, _command)
    cli_pipeline.add_commands(commands, _command)
    cli_results.add_commands(commands, _command)
    cli_ranges.add_commands(commands, _command)
    return parser


def _command(commands: Any, name: str, function: Any, summary: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=f"example: {example}"
    )
    if function is not None:
        parser.set_defaults(command=function)
    return parser


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
