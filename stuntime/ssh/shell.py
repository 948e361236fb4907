"""A shell in a guest, spoken to over ssh (see `stuntime.testbed.Shell`)."""

import base64
import gzip
import hashlib
import re
import shlex
import time
from contextlib import suppress

import structlog

from stuntime.errors import StuntimeError, TestbedError
from stuntime.guest import GuestCommandError
from stuntime.ssh.connection import Access, Connection, EndedError, SilentError

log = structlog.get_logger()

_AGAIN_S = 0.3
_LEAVE_S = 10.0
#: The folders that a measurement makes in guests (see `measure`).
_FOLDER = re.compile(r"/tmp/stuntime-[0-9a-f]{8}\b")  # noqa: S108


class SshShell:
    """A shell that outlives its connection: a migration may cut it, and the guest may answer again only after it.

    One connection serves all commands, since making one costs a guest time that the measurement wants. A command may
    be run twice when the connection is cut under it: it must bear that.
    """

    def __init__(self, access: Access) -> None:
        """Remember how to connect; nothing is connected before the first command."""
        self._access = access
        self._connection: Connection | None = None
        self._folders: set[str] = set()

    def run(self, command: str, *, timeout_s: float = 30.0) -> str:
        """Return what the command printed; raise GuestCommandError when it did not exit with 0."""
        return _text(self._run(command, timeout_s))

    def write(self, path: str, content: bytes) -> None:
        """Write a file in the guest; raise TestbedError when it does not arrive intact."""
        target = shlex.quote(path)
        text = base64.b64encode(gzip.compress(content, mtime=0)).decode()
        told = self.run(f"printf %s {text} | base64 -d | gzip -d > {target} && sha256sum < {target}", timeout_s=60)
        if told.split()[:1] != [hashlib.sha256(content).hexdigest()]:
            raise self._torn(path)

    def read(self, path: str) -> bytes:
        """Return a file of the guest, its digest compared; raise TestbedError when it does not arrive intact."""
        plain = shlex.quote(path)
        told = self._run(f"sha256sum < {plain} && gzip -c < {plain}", 120.0)
        digest, _, packed = told.partition(b"\n")
        try:
            content = gzip.decompress(packed)
        except (ValueError, EOFError, OSError) as torn:
            raise self._torn(path) from torn
        if digest.split()[:1] != [hashlib.sha256(content).hexdigest().encode()]:
            raise self._torn(path)
        return content

    def over(self) -> str:
        """Return the guest's address that the connection came to; empty when that is not known."""
        self.run(":")
        return self._connection.over if self._connection else ""

    def leave(self) -> None:
        """End what a measurement left running in the guest, if there is any, and disconnect."""
        for folder in sorted(self._folders):
            with suppress(StuntimeError):  # nobody is left to be told, and the next guest has its turn
                self.run(
                    f"for file in {folder}/*.pid; do [ -s $file ] || continue; pid=$(cat $file); kill $pid;"
                    f" for _ in $(seq 100); do kill -0 $pid || break; sleep 0.05; done; done; rm -rf {folder}",
                    timeout_s=_LEAVE_S,
                )
        self._folders.clear()
        self.disconnect()

    def disconnect(self) -> None:
        """End the connection; the next command connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, command: str, timeout_s: float) -> bytes:
        self._folders.update(_FOLDER.findall(command))
        deadline = time.monotonic() + timeout_s
        said = ""
        while True:
            try:
                if self._connection is None:
                    self._connection = Connection(self._access, deadline)
                status, output = self._connection.run(command, deadline)
            except EndedError as ended:
                said = str(ended) or said
                self.disconnect()
                log.debug("ssh.dropped", guest=self._access.host, said=said)
                if time.monotonic() + _AGAIN_S > deadline:
                    raise self._silent(command, timeout_s, said) from None
                time.sleep(_AGAIN_S)
                continue
            except SilentError:
                self.disconnect()
                raise self._silent(command, timeout_s, said) from None
            except BaseException:  # what is still to come of this command must not be taken for another's
                self.disconnect()
                raise
            if status:
                error = GuestCommandError(self._access.host, command, status, _text(output))
                error.way_out = "run it there by hand, over ssh"
                raise error
            return output

    def _torn(self, path: str) -> TestbedError:
        return TestbedError(
            f"{path} of guest {self._access.host} did not come over ssh intact",
            "measure again; if it repeats, look for a full disk there",
            reason="file-torn",
        )

    def _silent(self, command: str, timeout_s: float, said: str) -> TestbedError:
        words = f": {said.splitlines()[-1].strip()}" if said else ""
        return TestbedError(
            f"guest {self._access.host} did not answer over ssh within {timeout_s:g} s to `{command}`{words}",
            "the network that ssh uses has to reach the guest before and after its migration",
            reason="guest-unreachable",
        )


def _text(output: bytes) -> str:
    return output.decode(errors="replace").strip("\n")
