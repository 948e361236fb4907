"""The server's side of a websocket: the handshake and the frames of RFC 6455, no more."""

import base64
import hashlib
import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_FINAL, _MASKED, _LENGTH = 0x80, 0x80, 0x7F
_TWO_BYTES, _EIGHT_BYTES = 126, 127
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_headers(headers: Mapping[str, str], protocol: str) -> dict[str, str] | None:
    """Return the headers of the answer to a handshake; None when it is none, or asks for another protocol."""
    offered = [one.strip() for one in headers.get("Sec-WebSocket-Protocol", "").split(",")]
    key = headers.get("Sec-WebSocket-Key", "")
    if headers.get("Upgrade", "").lower() != "websocket" or not key or protocol not in offered:
        return None
    digest = hashlib.sha1((key + _MAGIC).encode(), usedforsecurity=False).digest()
    return {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": base64.b64encode(digest).decode(),
        "Sec-WebSocket-Protocol": protocol,
    }


class WebSocket:
    """Frames on a connection whose handshake is done."""

    def __init__(self, connection: socket.socket, incoming: IO[bytes]) -> None:
        self._connection = connection
        self._incoming = incoming
        self._sending = threading.Lock()

    def receive(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next message; CLOSE when there will be none."""
        whole, kind = b"", CONTINUATION
        while True:
            first, second = self._read(2)
            length = second & _LENGTH
            if length == _TWO_BYTES:
                (length,) = struct.unpack("!H", self._read(2))
            elif length == _EIGHT_BYTES:
                (length,) = struct.unpack("!Q", self._read(8))
            if not second & _MASKED:
                return CLOSE, b""  # a client has to mask
            mask, payload = self._read(4), self._read(length)
            payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
            opcode = first & 0x0F
            if opcode == PING:
                self.send(payload, PONG)
            elif opcode == CLOSE:
                with suppress(OSError):
                    self.send(payload, CLOSE)
                return CLOSE, payload
            elif opcode != PONG:
                whole, kind = whole + payload, opcode or kind
                if first & _FINAL:
                    return kind, whole

    def send(self, payload: bytes, opcode: int = BINARY) -> None:
        length = len(payload)
        if length < _TWO_BYTES:
            head = struct.pack("!BB", _FINAL | opcode, length)
        elif length < 1 << 16:
            head = struct.pack("!BBH", _FINAL | opcode, _TWO_BYTES, length)
        else:
            head = struct.pack("!BBQ", _FINAL | opcode, _EIGHT_BYTES, length)
        with self._sending:
            self._connection.sendall(head + payload)

    def drop(self) -> None:
        """Break the connection without a word."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _read(self, size: int) -> bytes:
        found = self._incoming.read(size)
        if len(found) < size:
            raise ConnectionResetError("the other side has gone")
        return found
