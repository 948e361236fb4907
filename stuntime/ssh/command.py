"""Commands of the user: argument lists with places for nodes, run with a deadline, ended with all they started."""

import os
import shlex
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from stuntime.errors import StuntimeError, TestbedError, UnfitError, UsageError

PLACES = ("source", "target")
_GRACE_S = 3.0
_SAID = 2000


class CommandHangsError(TestbedError):
    """A command did not end in time and was ended."""

    reason = "command-hangs"


@dataclass(frozen=True)
class Template:
    """A command as the user wrote it. `{source}` and `{target}` stand for nodes; nothing else is replaced."""

    text: str
    words: tuple[str, ...]
    shell: bool = False

    @classmethod
    def parse(cls, text: str, *, shell: bool = False) -> "Template":
        """Return the command in a text; raise UsageError when it is none.

        It is split into words as a shell would, and run without one; with `shell` it is a line for `sh`.
        """
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise UsageError(f"{text!r} is no command: {error}", "close what is quoted") from error
        if not words:
            raise UsageError("a command is empty", "write the program and its arguments")
        return cls(text, words, shell)

    @property
    def program(self) -> str:
        """What it is called by in messages: arguments may be nobody else's business."""
        return self.words[0]

    @property
    def names_nodes(self) -> bool:
        """Whether it says anything of the nodes."""
        return any("{" + place + "}" in self.text for place in PLACES)

    def argv(self, source: str = "", target: str = "") -> list[str]:
        """Return the argument list with the nodes in their places."""
        if self.shell:
            return ["sh", "-c", _placed(self.text, shlex.quote(source), shlex.quote(target))]
        return [_placed(word, source, target) for word in self.words]


def _placed(text: str, source: str, target: str) -> str:
    # In one pass: the name of a node is never looked into.
    head, place, tail = text.partition("{source}")
    if place:
        return f"{head.replace('{target}', target)}{source}{_placed(tail, source, target)}"
    return text.replace("{target}", target)


@dataclass(frozen=True)
class Finished:
    """How a command ended, and the last it said."""

    status: int
    stdout: str
    stderr: str

    @property
    def last_words(self) -> str:
        """The last line it said, of errors if there are any."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return lines[-1].strip() if lines else "it says nothing"


class RunningCommand:
    """A command that runs in a session of its own, so that it and what it started can be ended; Ctrl-C is not its."""

    def __init__(self, argv: list[str], what: str, stdout: "IO[bytes] | None" = None) -> None:
        """Start it, its output into `stdout` if given; raise UnfitError when it cannot be started."""
        self._what = what
        self._stdout = stdout or tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._popen = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=self._stdout, stderr=self._stderr, start_new_session=True
            )
        except (OSError, ValueError) as error:
            self.close()
            why = error.strerror if isinstance(error, OSError) else error
            raise UnfitError(
                f"{what} cannot be started: {why}", "is its program on the PATH?", reason="command-missing"
            ) from error

    def running(self) -> bool:
        """Say whether it has not ended yet."""
        return self._popen.poll() is None

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; say whether it came."""
        try:
            self._popen.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self, first: signal.Signals = signal.SIGTERM) -> None:
        """End it and what it started: asked first, killed after a grace. Nothing of it runs when this returns."""
        for number in (first, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, number)
            if self.wait(_GRACE_S):
                break
        with suppress(ProcessLookupError):  # those of its group that did not heed the first
            os.killpg(self._popen.pid, signal.SIGKILL)

    def finished(self) -> Finished:
        """Return how it ended; close its files."""
        told = Finished(self._popen.returncode, _said(self._stdout), _said(self._stderr))
        self.close()
        return told

    def close(self) -> None:
        """Close its files."""
        self._stdout.close()
        self._stderr.close()


def run_command(argv: list[str], what: str, *, timeout_s: float) -> Finished:
    """Run a command to its end and return how it ended.

    Raise CommandHangsError when it did not end in time: it and what it started are ended then, as after an interrupt.
    """
    running = RunningCommand(argv, what)
    try:
        ended = running.wait(timeout_s)
    except BaseException:
        running.end()
        running.close()
        raise
    if not ended:
        running.end()
        said = running.finished().last_words
        raise CommandHangsError(
            f"{what} did not end within {round(timeout_s, 1):g} s and was ended: {said}",
            "look at the platform: what it began may still go on there",
        )
    return running.finished()


def failed(what: str, told: Finished, way_out: str, *, reason: str) -> StuntimeError:
    """Return the error of a command that ended with another status than 0."""
    return TestbedError(f"{what} ended with status {told.status}: {told.last_words}", way_out, reason=reason)


def wait_a_step(deadline: float, step_s: float) -> bool:
    """Sleep a step; return False when the deadline (monotonic) has come."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        return False
    time.sleep(min(step_s, left_s))
    return True


def _said(file: "IO[bytes]") -> str:
    """Return the end of what was written."""
    if not file.readable():
        return ""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _SAID))
    return file.read().decode(errors="replace")
