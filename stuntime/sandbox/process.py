"""Processes of the sandbox: started by an argument list, known by pid, ended by pid."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from stuntime.errors import TestbedError

_log = structlog.get_logger()


def run(argv: Sequence[str], *, timeout_s: float = 30.0, stdin: str | None = None, what: str | None = None) -> str:
    """Return what a command printed; raise TestbedError with its stderr when it fails or takes too long."""
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise TestbedError(
            f"{what or argv[0]} did not end within {timeout_s:g} s", "look at the load of this machine"
        ) from None
    except OSError as error:
        raise TestbedError(f"{argv[0]} cannot be started: {error.strerror}", "run `make install`") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise TestbedError(
            f"{what or ' '.join(argv)} failed with {done.returncode}: {said}",
            "the message above is the tool's own; `make install` brings the versions that are known to work",
        )
    return done.stdout


class Process:
    """A process that stays until it is stopped. Its output goes to a log file."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; raise TestbedError when it cannot be started."""
        self.name = name
        self.log = log
        with log.open("ab") as output:
            try:
                self._popen = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
                )
            except OSError as error:
                raise TestbedError(f"{name} cannot be started: {error.strerror}", "run `make install`") from error

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def running(self) -> bool:
        """Say whether it has not ended yet."""
        return self._popen.poll() is None

    def last_words(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace").strip()[-1500:]

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; say whether it came."""
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        self._popen.send_signal(number)

    def stop(self, grace_s: float = 2.0) -> None:
        """End it: asked first, killed after the grace. It is gone when this returns."""
        self._popen.terminate()
        if not self.wait(grace_s):
            _log.debug("sandbox.killed", process=self.name, pid=self.pid)
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        self._popen.kill()
        self._popen.wait()
