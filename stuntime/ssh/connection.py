"""One connection by the system's ssh: a shell at its other end that takes commands from a pipe.

A pipe neither echoes nor adds anything, so a command is framed by one marker after it. When this process ends, however
it ends, the pipe closes, the shell at the other end ends, and ssh with it.
"""

import os
import re
import select
import selectors
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from stuntime.errors import TestbedError, UnfitError

_CHUNK = 1 << 16
_SAID = 4096
#: No marker is longer.
_MARKER = 200
_GRACE_S = 0.5
#: A connection that a migration cut is told from a quiet one within (interval x count) seconds.
_OPTIONS = {
    "BatchMode": "yes",
    "ConnectTimeout": "5",
    "ServerAliveInterval": "2",
    "ServerAliveCountMax": "3",
    "ControlMaster": "no",
    "ControlPath": "none",
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "LogLevel": "ERROR",
}

#: What ssh says when trying again is in vain: what that means, the way out, the reason.
_REFUSALS = (
    (
        "IDENTIFICATION HAS CHANGED",
        "has another host key than it had",
        "find out why, then forget the old one with `ssh-keygen -R {host}`",
        "host-key-changed",
    ),
    (
        "Host key verification failed",
        "has a host key that nobody knows",
        "connect once by hand and compare the key with the guest's own",
        "host-key-unknown",
    ),
    ("Permission denied", "does not let this user in", "put the key into the agent", "permission-denied"),
    (
        "Too many authentication failures",
        "does not let this user in",
        "name the key in the configuration of ssh",
        "permission-denied",
    ),
    ("Could not resolve hostname", "is no host that can be found", "mend its name", "host-unknown"),
    ("onfiguration option", "cannot be reached: ssh's configuration is wrong", "mend it", "ssh-misconfigured"),
    (
        "user config file",
        "cannot be reached: ssh's configuration cannot be read",
        "mend --ssh-config",
        "ssh-misconfigured",
    ),
)


class EndedError(Exception):
    """The connection has ended; its text is the end of what ssh said."""


class SilentError(Exception):
    """Nothing came in time."""


@dataclass(frozen=True)
class Access:
    """How to come to a guest: as the user's own ssh does, then by `become` to a user who may open raw sockets."""

    host: str
    become: tuple[str, ...] = ()
    config: Path | None = None

    def argv(self, token: str) -> list[str]:
        """Return ssh's arguments; the other end first tells, after the token, which address it was reached by."""
        options = [word for name, value in _OPTIONS.items() for word in ("-o", f"{name}={value}")]
        config = ["-F", str(self.config)] if self.config else []
        shell = " ".join(shlex.quote(word) for word in (*self.become, "sh"))
        return ["ssh", *config, *options, "--", self.host, f'echo {token}-OVER "$SSH_CONNECTION"; exec {shell}']


class Connection:
    """A connection whose shell waits for commands; raise a StuntimeError, or EndedError when another try may help."""

    def __init__(self, access: Access, deadline: float) -> None:
        """Connect until the deadline (monotonic)."""
        self.access = access
        self.over = ""
        self._token = f"STUNTIME-{uuid4().hex}"
        self._number = 0
        self._read, self._said = bytearray(), bytearray()
        try:
            self._popen = subprocess.Popen(
                access.argv(self._token),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # Ctrl-C must not end it before what runs in the guest was ended
            )
        except OSError as error:
            raise UnfitError(
                f"ssh cannot be started: {error.strerror}", "install OpenSSH's client", reason="program-missing"
            ) from error
        try:
            self._greet(deadline)
        except BaseException:
            self.close()
            raise

    @property
    def said(self) -> str:
        """The end of what ssh said."""
        return self._said.decode(errors="replace").strip()

    def run(self, command: str, deadline: float) -> tuple[int, bytes]:
        """Return the status and the output of a command; raise EndedError or SilentError."""
        self._number += 1
        marker = f"{self._token}-{self._number}"
        text = f"( {command}\n) 2>&1 < /dev/null; printf '\\n%s %s\\n' {marker} $?\n"
        output, found = self._exchange(text.encode(), re.compile(rb"\n%b (\d+)\n" % marker.encode()), deadline)
        return int(found.split()[-1]), output

    def close(self) -> None:
        """End it. Nothing of it runs here when this returns."""
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self._popen.send_signal(number)
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(_GRACE_S)
                break

    def _greet(self, deadline: float) -> None:
        ready = f"{self._token}-HERE"
        text = f"export LC_ALL=C; unset ENV; printf '%s\\n' {ready}\n".encode()
        try:
            greeting, _ = self._exchange(text, re.compile(rb"%b\n" % ready.encode()), deadline)
        except EndedError:
            self.close()
            over = f"{self._token}-OVER".encode() in self._read
            said = self.said or bytes(self._read).decode(errors="replace").strip()
            error = refusal(self.access, self._popen.returncode, said, reached=over)
            if error is not None:
                raise error from None
            raise
        found = re.search(rb"%b-OVER (.*)" % self._token.encode(), greeting)
        words = found[1].decode(errors="replace").split() if found else []
        self.over = words[2] if len(words) == 4 else ""  # noqa: PLR2004 - client, its port, server, its port

    def _exchange(self, text: bytes, until: re.Pattern[bytes], deadline: float) -> tuple[bytes, bytes]:
        """Send a text and return what came before a pattern, and what matched it."""
        stdin, stdout, stderr = self._popen.stdin, self._popen.stdout, self._popen.stderr
        if stdin is None or stdout is None or stderr is None:
            raise AssertionError("the pipes are asked for at the start")
        unsent, looked = memoryview(text), 0
        os.set_blocking(stdin.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(stderr, selectors.EVENT_READ)
            selector.register(stdin, selectors.EVENT_WRITE)
            while (left_s := deadline - time.monotonic()) > 0:
                ready = [key.fileobj for key, _ in selector.select(left_s)]
                if stdin in ready:
                    unsent = self._sent(stdin.fileno(), unsent)
                    if not unsent:
                        selector.unregister(stdin)
                if stderr in ready and not self._heard(stderr.fileno()):
                    selector.unregister(stderr)
                if stdout in ready:
                    self._received(stdout.fileno(), stderr.fileno())
                match = until.search(self._read, looked)
                if match:
                    before, found, end = bytes(self._read[: match.start()]), bytes(match[0]), match.end()
                    del match  # it holds on to what is cut now
                    del self._read[:end]
                    return before, found
                looked = max(0, len(self._read) - _MARKER)
        raise SilentError

    def _heard(self, descriptor: int) -> bool:
        """Keep what ssh says; return False when it says no more."""
        chunk = os.read(descriptor, _CHUNK)
        self._said = (self._said + chunk)[-_SAID:]
        return bool(chunk)

    def _received(self, descriptor: int, stderr: int) -> None:
        """Keep what came; raise EndedError, its reason heard, when no more will."""
        chunk = os.read(descriptor, _CHUNK)
        self._read += chunk
        if not chunk:
            while select.select([stderr], [], [], _GRACE_S)[0] and self._heard(stderr):
                pass
            raise EndedError(self.said)

    @staticmethod
    def _sent(descriptor: int, unsent: memoryview) -> memoryview:
        try:
            return unsent[os.write(descriptor, unsent[:_CHUNK]) :]
        except BlockingIOError:
            return unsent
        except OSError:  # the other end went away: reading tells
            return unsent[len(unsent) :]


def refusal(access: Access, status: int, said: str, *, reached: bool) -> TestbedError | UnfitError | None:
    """Return why there will be no connection however often one tries; None when another try may help.

    `status` and `said` are ssh's; `reached`: the user's shell in the guest was.
    """
    host = access.host
    last = said.splitlines()[-1].strip() if said else "it says nothing"
    by_hand = f"`ssh {host} true` must work without being asked anything"
    if reached:
        if access.become and status:
            return UnfitError(
                f"in guest {host} `{' '.join(access.become)}` does not give a shell: {last}",
                "allow it without a password and a terminal, or come as a user who may open raw sockets",
                reason="become-refused",
            )
        return None
    for words, what, way_out, reason in _REFUSALS:
        if words in said:
            return UnfitError(f"guest {host} {what}: {last}", f"{way_out.format(host=host)}; {by_hand}", reason=reason)
    return None
