"""A guest that is a real shell on a pseudo terminal of this machine, with a console that one may be connected to.

What the guest prints while nobody is connected is lost, as it is on a cluster. Every process it starts carries a
mark in its environment, by which it is found and ended at the end.
"""

import os
import pty
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.unit.kubeapi.websocket import WebSocket

_MARK = "KUBEAPI_GUEST"
_GETTY = """\
trap : INT
printf '\\nFake Linux 1 (ttyS0)\\n'
while :; do
    printf '\\n%s login: ' "$GUEST_NAME"
    IFS= read -r user || exit
    [ -n "$user" ] || continue
    stty -echo
    printf 'Password: '
    IFS= read -r password || exit
    stty echo
    printf '\\n'
    if [ "$user" = root ] && [ -s "$HOME/password" ] && [ "$password" = "$(cat "$HOME/password")" ]; then
        [ -z "$failed" ] || printf 'Last failed login: Tue Nov 24 21:00:00 UTC 2026 on ttyS0\\n'
        printf 'Last login: Tue Nov 24 20:00:00 on ttyS0\\n'
        failed=
        "$@"
    else
        failed=yes
        sleep 0.1
        printf '\\nLogin incorrect\\n'
    fi
done
"""
#: Fakes of what the guests of a cluster have and this machine may not; `addresses` and `node` are files in HOME.
PROGRAMS = {
    "ip": """\
for address in $(cat "$HOME/addresses"); do
    case $address in *:*) family=inet6 ;; *) family=inet ;; esac
    printf '2: eth0    %s %s scope global eth0\\n' "$family" "$address"
done
""",
    "dmesg": "exit 0\n",
    "hostname": 'echo "$GUEST_NAME"\n',
}


class Guest:
    """A guest that runs until `close`; `password` is what its login prompt takes, None for a shell at once.

    Its HOME is a folder of its own, whose `bin` comes first on the PATH; the file `password` there may be written
    later, too: until then nobody gets in.
    """

    def __init__(
        self, name: str, folder: Path, programs: Mapping[str, str], *, login: bool = False, password: str = ""
    ) -> None:
        self.name = name
        self.folder = folder
        self.printed = bytearray()
        self.typed = bytearray()
        self._mark = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._session: WebSocket | None = None
        self._left: int | None = None
        self._closed = False
        (folder / "bin").mkdir(parents=True)
        for program, text in programs.items():
            file = folder / "bin" / program
            file.write_text(f"#!/bin/sh\n{text}")
            file.chmod(0o755)
        if password:
            (folder / "password").write_text(password)
        self._terminal, inner = pty.openpty()
        # setsid makes the terminal the shell's own; what it starts is then ended by Ctrl-C as in a guest.
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *self._command(login=login)],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=folder,
            env={
                "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
                "HOME": str(folder),
                "TMPDIR": str(folder),
                "PS1": f"\x1b]0;title\x07[root@{name} ~]# ",
                "TERM": "vt220",
                "GUEST_NAME": name,
                _MARK: self._mark,
            },
        )
        os.close(inner)
        self._pump = threading.Thread(target=self._carry, daemon=True, name=f"guest {name}")
        self._pump.start()

    @staticmethod
    def _command(*, login: bool) -> list[str]:
        bash = shutil.which("bash")
        shell = [bash, "--norc", "-i"] if bash else ["/bin/sh", "-i"]
        return ["/bin/sh", "-c", _GETTY, "getty", *shell] if login else shell

    def connect(self, session: WebSocket) -> None:
        """Let a session have the console; the one before is closed."""
        with self._lock:
            before, self._session = self._session, session
            if self._closed:
                session.drop()
        if before is not None:
            before.drop()

    def disconnect(self, session: WebSocket) -> None:
        with self._lock:
            if self._session is session:
                self._session = None

    def type(self, content: bytes) -> None:
        """Send what somebody types."""
        self.typed += content
        with suppress(OSError):
            while content and not self._closed:
                content = content[os.write(self._terminal, content) :]

    def drop_console(self, after_bytes: int = 0) -> None:
        """Break the connection, now or when so many bytes more have been sent over it."""
        with self._lock:
            if after_bytes:
                self._left = after_bytes
            elif self._session is not None:
                self._session.drop()
                self._session = None

    def tell(self, file: str, content: str) -> None:
        """Write a file into the guest's HOME."""
        (self.folder / file).write_text(content)

    def processes(self) -> list[int]:
        """Return the pids of all that runs in the guest."""
        wanted = f"{_MARK}={self._mark}".encode()
        found = []
        for place in Path("/proc").iterdir():
            if place.name.isdecimal():
                with suppress(OSError):
                    if wanted in (place / "environ").read_bytes().split(b"\0"):
                        found.append(int(place.name))
        return found

    def close(self) -> None:
        """End all that runs in it, and the connection to it."""
        if self._closed:
            return
        self._closed = True
        self.drop_console()
        quiet = 0
        while quiet < 2:  # one that is just being started may be overlooked once
            running = self.processes()
            quiet = 0 if running else quiet + 1
            for pid in running:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        self._process.kill()
        self._process.wait(timeout=10)
        self._pump.join(timeout=5)
        os.close(self._terminal)

    def _carry(self) -> None:
        while True:
            try:
                content = os.read(self._terminal, 4096)
            except OSError:
                return
            if not content:
                return
            with self._lock:
                self.printed += content
                self._send(content)

    def _send(self, content: bytes) -> None:
        """Send what was printed to whoever is connected, up to the byte at which the connection is to break."""
        if self._session is None:
            return
        breaks = self._left is not None and self._left <= len(content)
        try:
            self._session.send(content[: self._left] if breaks else content)
        except OSError:
            self._session = None
            return
        if breaks:
            self._session.drop()
            self._session, self._left = None, None
        elif self._left is not None:
            self._left -= len(content)
