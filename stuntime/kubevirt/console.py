"""A VM's serial console over the API: a websocket that pexpect can read."""

import re
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pexpect.socket_pexpect
import structlog
from kubernetes.stream.ws_client import create_websocket, get_websocket_url
from websocket import WebSocketException, setdefaulttimeout

from stuntime.errors import TestbedError
from stuntime.guest import ConsoleShell, Login
from stuntime.kubevirt.api import Api, ApiError, away, way_out_of

if TYPE_CHECKING:
    from stuntime.guest import Console

_log = structlog.get_logger()

_PATH = "/apis/subresources.kubevirt.io/v1/namespaces/{}/virtualmachineinstances/{}/console"
_RIGHT = "virtualmachineinstances/console.subresources.kubevirt.io"
_PROTOCOL = "plain.kubevirt.io"
_FORBIDDEN = (401, 403)
_ENDED = re.compile(r"\bVMI is in (failed) status\b")
_SILENT = ("console-silent", "console-closed", "guest-login-refused", "guest-not-booted")
_CONNECT_S = 10.0
_AGAIN_S = 0.5
_KEPT = 256 * 1024
_CHUNK = 16 * 1024

setdefaulttimeout(_CONNECT_S)  # the Kubernetes client passes none on


class ConsoleLine:
    """The way to a VM's console. It keeps the last that was seen there, for when something has to be understood."""

    def __init__(self, api: Api, vm: str) -> None:
        """Remember whose console it is; nothing is connected yet."""
        self._api = api
        self._vm = vm
        self._seen: deque[bytes] = deque()
        self._kept = 0
        #: For how long the API server was away when a connection was wanted.
        self.away_s = 0.0

    def connect(self, timeout_s: float) -> "Console":
        """Return a connection, tried until the timeout: a VM that starts or has just moved has no console yet.

        An API server that is away is waited for as long as other requests wait for it, and that time is not counted.
        Raise ApiError when this account may not, TestbedError when there was none in time or the VM has ended.
        """
        deadline = time.monotonic() + timeout_s
        gone: float | None = None
        while True:
            self._api.pause(0)
            tried = time.monotonic()
            try:
                return self._connected()
            except (WebSocketException, OSError) as refused:
                status = getattr(refused, "status_code", None)
                gone = None if status is not None else tried if gone is None else gone
                if gone is not None:
                    if tried + _AGAIN_S > gone + self._api.patience_s:
                        raise away(f"the console of {self._vm}", self._api.patience_s, _why(refused)) from refused
                elif error := self._refusal(int(status or 0), str(refused)):
                    raise error from refused
                elif tried + _AGAIN_S > deadline:
                    raise TestbedError(
                        f"the console of {self._vm} did not open within {timeout_s:.0f} s: {_why(refused)}",
                        "see whether the VM runs, and whether somebody else has its console open",
                        reason="console-closed",
                    ) from refused
                _log.debug("console.closed", vm=self._vm, why=_why(refused))
            self._api.pause(_AGAIN_S)
            if gone is not None:
                self.away_s += time.monotonic() - tried

    def _refusal(self, status: int, said: str) -> TestbedError | None:
        """Return the error of an answer that will be the same the next time."""
        if status in _FORBIDDEN:
            return ApiError(
                f"the console of {self._vm} is refused to this account ({status})",
                way_out_of(status, f"get {_RIGHT}", f"namespace {self._api.namespace}"),
                status,
                reason="api-forbidden",
            )
        if ended := _ENDED.search(said):
            return TestbedError(
                f"{self._vm} does not run any more (it is {ended[1]})",
                "look at its events and console",
                reason="vm-crashed",
            )
        return None

    def seen(self) -> bytes:
        """Return the last that the console said to us."""
        return b"".join(self._seen)

    def _connected(self) -> "Console":
        url = get_websocket_url(self._api.configuration.host + _PATH.format(self._api.namespace, self._vm))
        headers = {"sec-websocket-protocol": _PROTOCOL}
        if token := self._api.configuration.get_api_key_with_prefix("authorization"):
            headers["authorization"] = token
        self._api.requests["GET virtualmachineinstances/console"] += 1
        opened = create_websocket(self._api.configuration, url, headers)
        opened.settimeout(None)
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._to_us, args=(opened, theirs), daemon=True, name=f"from {self._vm}").start()
        threading.Thread(target=_to_guest, args=(opened, theirs), daemon=True, name=f"to {self._vm}").start()
        self._api.on_stop(ours)
        return pexpect.socket_pexpect.SocketSpawn(ours, maxread=_CHUNK)

    def _to_us(self, opened: Any, theirs: socket.socket) -> None:
        with suppress(WebSocketException, OSError):
            while data := opened.recv():
                content = data if isinstance(data, bytes) else data.encode()
                self._keep(content)
                theirs.sendall(content)
        with suppress(OSError):
            theirs.shutdown(socket.SHUT_RDWR)
        with suppress(WebSocketException, OSError):
            opened.shutdown()

    def _keep(self, content: bytes) -> None:
        self._seen.append(content)
        self._kept += len(content)
        while self._kept > _KEPT:
            self._kept -= len(self._seen.popleft())


class PatientShell(ConsoleShell):
    """A shell on a console that is not to blame while the API server is away."""

    def __init__(self, name: str, line: ConsoleLine, login: Login | None) -> None:
        """Remember the way to its console; nothing is connected yet."""
        super().__init__(name, line.connect, login)
        self._line = line

    def run(self, command: str, *, timeout_s: float = 30.0) -> str:
        """Return what the command printed; the time that the API server was away is not counted."""
        while True:
            away_s = self._line.away_s
            try:
                return super().run(command, timeout_s=timeout_s)
            except TestbedError as silent:
                if silent.reason not in _SILENT or self._line.away_s == away_s:
                    raise


def _to_guest(opened: Any, theirs: socket.socket) -> None:
    """Carry what is sent, until either side closes; then nothing of the connection is left."""
    with suppress(WebSocketException, OSError):
        while data := theirs.recv(_CHUNK):
            opened.send_binary(data)
    # The other thread reads from it still: it sees the end, and closes what nobody else may have opened anew.
    with suppress(OSError, AttributeError):
        opened.sock.shutdown(socket.SHUT_RDWR)
    theirs.close()


def _why(refused: Exception) -> str:
    return " ".join(str(refused).split())[:200]
