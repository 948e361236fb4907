"""A shell in a guest, spoken to over its serial console.

A console is a bad pipe: it echoes, it adds escape sequences, the kernel writes into it, it drops at a migration and
it carries no exit codes. So each command is framed by two markers whose text differs from their own echo, files
travel compressed and compared by digest, and a dropped console is connected again within the same deadline.
"""

import base64
import gzip
import hashlib
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import pexpect
import structlog

from stuntime.errors import TestbedError

log = structlog.get_logger()

_ESCAPES = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]|\r")
# A console line may not be longer than the guest's line editor takes (BusyBox: 1024 characters).
_WRITE_CHUNK = 700
_READ_CHUNK = 24_000
_SYNC_S = 2.0
_ASKED_FOR_NAME, _ASKED_FOR_PASSWORD = 0, 1
_SHELL_PROMPT = rb"[#$] (?:\x1b\[[0-?]*[ -/]*[@-~])*$"


class Console(Protocol):
    """A connection to a console, of bytes: what pexpect makes of a socket or a file descriptor."""

    match: Any
    before: Any
    delaybeforesend: float | None

    def expect(self, pattern: Any, timeout: float) -> int:
        """Read until a pattern of bytes, or one of a list, comes; return which."""

    def sendline(self, s: str) -> int:
        """Send a line."""

    def close(self) -> None:
        """Close the connection."""


@dataclass(frozen=True)
class Login:
    """How to get past the login prompt of a guest whose console asks for one."""

    host: str
    user: str
    password: str = field(repr=False)


class GuestCommandError(TestbedError):
    """A command in a guest ended with another status than 0."""

    reason = "guest-command-failed"

    def __init__(self, guest: str, command: str, status: int, output: str) -> None:
        said = output.strip().splitlines()[-1] if output.strip() else "it printed nothing"
        super().__init__(
            f"in guest {guest}, `{command}` ended with status {status}: {said}",
            "look at the guest's console log in the evidence",
        )
        self.status = status
        self.output = output


class ConsoleShell:
    """A POSIX shell that waits on a guest's console (see `stuntime.testbed.Shell`).

    `connect` opens a new connection to the console of wherever the VM is now; it gets the seconds that are left and
    raises a TestbedError. A command may be run twice when the console drops under it: it must bear that.
    """

    def __init__(self, name: str, connect: Callable[[float], Console], login: Login | None = None) -> None:
        """Remember how to connect, and how to log in; nothing is connected before the first command."""
        self._name = name
        self._connect = connect
        self._login = login
        self._logged_in = login is None
        self._console: Console | None = None
        self._serial = count(1)

    def run(self, command: str, *, timeout_s: float = 30.0) -> str:
        """Return what the command printed; raise GuestCommandError when it did not exit with 0."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                status, output = self._run_once(command, deadline)
            except (pexpect.EOF, OSError) as dropped:
                self.disconnect()
                if time.monotonic() > deadline:
                    raise self._silent(command, timeout_s) from dropped
                log.debug("console.dropped", guest=self._name)
                continue
            except pexpect.TIMEOUT as silent:
                self.disconnect()
                raise self._silent(command, timeout_s) from silent
            if status:
                raise GuestCommandError(self._name, command, status, output)
            return output

    def write(self, path: str, content: bytes) -> None:
        """Write a file in the guest; raise TestbedError when it does not arrive intact."""
        target, packed = shlex.quote(path), shlex.quote(f"{path}.b64")
        text = base64.b64encode(gzip.compress(content, mtime=0)).decode()
        self.run(f": > {packed}")
        for start in range(0, len(text), _WRITE_CHUNK):
            # Writing at an offset, not appending: running it twice does no harm.
            self.run(
                f"printf %s {text[start : start + _WRITE_CHUNK]} | "
                f"dd of={packed} bs=1 seek={start} conv=notrunc 2>/dev/null"
            )
        told = self.run(f"base64 -d {packed} | gzip -d > {target}; sha256sum < {target}; rm -f {packed}")
        if told.split()[:1] != [hashlib.sha256(content).hexdigest()]:
            raise self._torn(path)

    def read(self, path: str) -> bytes:
        """Return a file of the guest, its digest compared; raise TestbedError when it does not arrive intact."""
        plain, packed = shlex.quote(path), shlex.quote(f"{path}.gz")
        told = self.run(f"gzip -c {plain} > {packed} && wc -c < {packed} && sha256sum < {plain}", timeout_s=60).split()
        if len(told) < 2 or not told[0].isdecimal():  # noqa: PLR2004 - size and digest; the kernel may have put in a word
            raise self._torn(path)
        size, digest = int(told[0]), told[1]
        text = "\n".join(
            self.run(f"dd if={packed} bs={_READ_CHUNK} skip={block} count=1 2>/dev/null | base64")
            for block in range(-(-size // _READ_CHUNK))
        )
        self.run(f"rm -f {packed}")
        try:
            content = gzip.decompress(b"".join(base64.b64decode(line) for line in text.split()))
        except (ValueError, EOFError, OSError) as torn:
            raise self._torn(path) from torn
        if hashlib.sha256(content).hexdigest() != digest:
            raise self._torn(path)
        return content

    def disconnect(self) -> None:
        """Close the console; the next command connects again."""
        if self._console is not None:
            self._console.close()
            self._console = None

    def _run_once(self, command: str, deadline: float) -> tuple[int, str]:
        console = self._console or self._connected(deadline)
        number = next(self._serial)
        # The echo of this line never matches the markers: there the number stands apart from the word.
        console.sendline(
            f"printf '%s%s\\n' STUNTIME-BEGIN- {number}; {command}\nprintf '\\n%s%s %s\\n' STUNTIME-END- {number} $?"
        )
        console.expect(rb"STUNTIME-BEGIN-%d\r*\n" % number, timeout=_left(deadline))
        console.expect(rb"\r*\nSTUNTIME-END-%d (\d+)\r*\n" % number, timeout=_left(deadline))
        return int(console.match[1]), _plain(console.before)

    def _connected(self, deadline: float) -> Console:
        console = self._connect(_left(deadline))
        console.delaybeforesend = None
        self._console = console
        if self._login is not None and not self._logged_in:
            self._log_in(console, self._login, deadline)
        while True:
            number = next(self._serial)
            console.sendline(f"printf '%s%s\\n' STUNTIME-HERE- {number}")
            try:
                console.expect(rb"STUNTIME-HERE-%d\r*\n" % number, timeout=min(_SYNC_S, _left(deadline)))
                break
            except pexpect.TIMEOUT:
                if time.monotonic() > deadline:
                    raise
        console.sendline(
            f"stty -echo cols 500 rows 500; dmesg -n 1; export LC_ALL=C PS1=; printf '%s%s\\n' STUNTIME-SET- {number}"
        )
        console.expect(rb"STUNTIME-SET-%d\r*\n" % number, timeout=_left(deadline))
        return console

    def _log_in(self, console: Console, login: Login, deadline: float) -> None:
        """Answer the prompts until a shell waits.

        A guest that is still booting may ask before its password is set: then it is asked again.
        """
        prompts = [rb"(?<!Last )%s login: " % re.escape(login.host.encode()), rb"[Pp]assword: ", _SHELL_PROMPT]
        refused = 0
        while time.monotonic() < deadline:
            try:
                seen = console.expect(prompts, timeout=min(_SYNC_S, _left(deadline)))
            except pexpect.TIMEOUT:
                console.sendline("")
                continue
            if seen == _ASKED_FOR_NAME:
                refused += 1
                console.sendline(login.user)
            elif seen == _ASKED_FOR_PASSWORD:
                console.sendline(login.password)
            else:
                self._logged_in = True
                return
        raise self._no_login(refused)

    def _no_login(self, refused: int) -> TestbedError:
        if refused:
            return TestbedError(
                f"guest {self._name} did not let us in ({refused} tries)",
                "its cloud-init did not set the password: look at the guest's console log in the evidence",
                reason="guest-login-refused",
            )
        return TestbedError(
            f"guest {self._name} showed no login prompt on its console",
            "it did not boot, or has no getty on ttyS0: look at the guest's console log in the evidence",
            reason="guest-not-booted",
        )

    def _torn(self, path: str) -> TestbedError:
        return TestbedError(
            f"{path} of guest {self._name} did not come over its console intact",
            "measure again; if it repeats, something else writes to this console",
            reason="console-torn",
        )

    def _silent(self, command: str, timeout_s: float) -> TestbedError:
        return TestbedError(
            f"the console of guest {self._name} did not answer within {timeout_s:g} s to `{command}`",
            "look at the guest's console log in the evidence",
            reason="console-silent",
        )


def _left(deadline: float) -> float:
    return max(0.05, deadline - time.monotonic())


def _plain(output: bytes) -> str:
    return _ESCAPES.sub(b"", output).decode(errors="replace").strip("\n")
