"""Runs stuntime as a person does, as a process of its own, and finds again whatever such a process leaves behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4
from xml.etree import ElementTree as ET

from stuntime.documents import load
from stuntime.result import Result
from stuntime.sandbox.lock import LOCK

ROOT = Path(__file__).parents[2]
STUNTIME = (sys.executable, "-m", "stuntime")
FAULTS = (sys.executable, "-m", "tests.sandbox.faults")

# Every process of a test inherits it: so ours are known among those of others on this machine.
_MARK = f"STUNTIME_TEST={uuid4().hex}"
# Others may have the machine's sandbox first: a command that waits for them is not stuck.
_PATIENCE_S = 900.0
_GONE_S = 15.0


@dataclass(frozen=True)
class Finished:
    """What a command left to read."""

    code: int
    stdout: str
    stderr: str


class Command:
    """A command that runs, its output in files."""

    def __init__(self, argv: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        """Start it."""
        self.argv = argv
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        self.scratch = folder / "tmp"
        self.scratch.mkdir()
        mark, value = _MARK.split("=")
        self._started, self._seconds = time.monotonic(), 0.0
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._popen = subprocess.Popen(
                argv,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, "TMPDIR": str(self.scratch), **environment, mark: value},
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def stderr(self) -> str:
        """What it said on stderr so far."""
        return self._stderr.read_text(errors="replace")

    def running(self) -> bool:
        """Say whether it has not ended yet."""
        return self._popen.poll() is None

    def until(self, event: str, times: int = 1) -> None:
        """Wait until it has told an event so many times on stderr."""
        wait_for(lambda: self.stderr.count(event) >= times or not self.running(), f"{event} of {self.argv}")
        assert self.stderr.count(event) >= times, f"ended before {event}: {self.stderr}"

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def children(self) -> list[int]:
        """Return the process ids of its children."""
        return [pid for pid in _processes() if _parent(pid) == self.pid]

    def finish(self) -> Finished:
        """Wait for its end."""
        code = self._popen.wait(_PATIENCE_S)
        self._seconds = self._seconds or time.monotonic() - self._started
        return Finished(code, self._stdout.read_text(errors="replace"), self.stderr)

    def end(self) -> None:
        """See to it that it has ended."""
        if self.running():
            self.signal(signal.SIGKILL)
        self.finish()

    def note(self) -> str:
        """Return how long it ran, and what it was."""
        waited = " (waited for another sandbox)" if "sandbox.waiting" in self.stderr else ""
        words = self.argv[self.argv.index("-m") + 1 :] if "-m" in self.argv else self.argv
        return f"{self._seconds:6.1f} s  {' '.join(words)}{waited}"


class Commands:
    """Starts commands, and ends those that still run when a test is over."""

    def __init__(self, new_folder: Callable[[], Path]) -> None:
        self._new_folder = new_folder
        self._started: list[Command] = []
        self.notes: list[str] = []

    def start(self, *argv: str, environment: Mapping[str, str] | None = None) -> Command:
        """Start a command from the repository's root."""
        command = Command(argv, self._new_folder(), environment or {})
        self._started.append(command)
        return command

    def run(self, *argv: str, environment: Mapping[str, str] | None = None) -> Finished:
        """Run a command to its end."""
        return self.start(*argv, environment=environment).finish()

    @contextmanager
    def leaving_nothing(self) -> Iterator[None]:
        """End what the body has started and still runs, and see that nothing is left of it; clean up if there is."""
        before = _footprint()
        try:
            yield
        finally:
            ended, self._started = self._started, []
            for command in ended:
                command.end()
                self.notes.append(command.note())
            with suppress(AssertionError):
                wait_for(lambda: _footprint() == before, "the end of what was started", timeout_s=_GONE_S)
            after = _footprint()
            for pid in _marked():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            changed = {kind: (before[kind], after[kind]) for kind in before if before[kind] != after[kind]}
            assert not changed, f"before and after: {changed}"
            assert not [path for command in ended for path in command.scratch.iterdir()]


def wait_for(condition: Callable[[], bool], what: str, *, timeout_s: float = _PATIENCE_S) -> None:
    """Wait until the condition holds; fail when it does not come to hold."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s:g} s"
        time.sleep(0.02)


def results(output: Path) -> dict[str, Result]:
    """Return the results of an output directory by scenario."""
    loaded = load([output])
    assert not loaded.unreadable, loaded.unreadable
    return {document.result.scenario: document.whole() for document in loaded.documents}


def junit_kinds(output: Path) -> dict[str, str]:
    """Return what the JUnit file says of each scenario, in its order: passed, failure, error or skipped."""
    cases = ET.parse(output / "junit.xml").findall(".//testcase")  # noqa: S314 - our own
    kinds = ("failure", "error", "skipped")
    return {case.attrib["name"]: next((k for k in kinds if case.find(k) is not None), "passed") for case in cases}


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def agree(result: Result) -> bool:
    """Tell whether the stuntime and that of the packets are the same within one probe."""
    measured, captured = result.measurement, result.capture
    assert measured is not None
    assert captured is not None
    assert measured.stuntime_s is not None
    assert captured.stuntime_s is not None
    return abs(measured.stuntime_s - captured.stuntime_s) <= measured.spacing_s


def _footprint() -> dict[str, object]:
    """Return what a run could leave behind on this machine.

    Others may use it too. So our processes are known by their mark, whatever they are, and of the folders that are
    everybody's only what bears the names of the sandbox counts. The TMPDIR of a command is its own.
    """
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "processes": _marked(),
        "links": _names(Path("/sys/class/net")),
        "network namespaces": _names(Path("/run/netns")),
        "mounts": sorted(place for place in mounts if place.startswith(("/run", "/proc", "/dev", "/mnt"))),
        "run": Path("/run/stuntime").exists(),
        "tmp": [name for name in _names(Path("/tmp")) if name.startswith("stuntime-sandbox") and name != LOCK.name],
    }


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _marked() -> dict[int, str]:
    found = {}
    for pid in _processes():
        with suppress(OSError):  # it has just ended, or is not ours
            process = Path(f"/proc/{pid}")
            if _MARK.encode() in (process / "environ").read_bytes().split(b"\0"):
                found[pid] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def _parent(pid: int) -> int | None:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None
