"""What the command line's parts share: the types of arguments, and how an expected failure is told."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from stuntime.errors import ExitCode, StuntimeError

#: Makes a subcommand: of the parsers, its name, function, summary and an example.
Command = Callable[[Any, str, Callable[[argparse.Namespace], int] | None, str, str], argparse.ArgumentParser]

RECOVERY_HELP = "how many good replies in a row are a lasting recovery (default: ten, or as many as one second holds)"


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


def words(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return the type of an argument that is a comma list of known words; they come in the order of `known`."""

    def parsed(text: str) -> list[str]:
        found = [word.strip() for word in text.split(",") if word.strip()]
        if not found or not set(found) <= set(known):
            raise argparse.ArgumentTypeError(f"{text!r} is no comma list of {', '.join(known)}")
        return [word for word in known if word in found]

    return parsed


class Words(argparse.Action):
    """Takes several comma lists of words, as one list."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, values: Any, _option: str | None = None) -> None:
        """Keep the words, each once."""
        setattr(namespace, self.dest, list(dict.fromkeys(word for found in values for word in found)))


def given(argv: Sequence[str]) -> list[str]:
    """Return arguments without the options that have an empty value: `--nic=` is as if not given.

    So whoever has a parameter for each option (a Tekton task) can leave it empty.
    """
    return [argument for argument in argv if not re.fullmatch(r"--[a-z0-9-]+=", argument)]


def run_id(text: str) -> str:
    """Return the id of a run that an argument names."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no id of a run: use letters, digits, dots, - and _")
    return text


def seconds(text: str) -> float:
    """Return the seconds, above 0, that an argument names."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def epoch(text: str) -> float:
    """Return the epoch seconds that an argument names."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1e11:  # noqa: PLR2004 - beyond it are milliseconds, and what is no number
        raise argparse.ArgumentTypeError(f"{text!r} is no time in epoch seconds")
    return value


def count(text: str) -> int:
    """Return the whole number, above 0, that an argument names."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
