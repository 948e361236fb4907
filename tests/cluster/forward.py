"""The way from the machine to the API server: bytes both ways between a socket here and a connection there."""

import socket
import threading
from contextlib import suppress

PREFERRED_PORT = 16443
_CHUNK = 1 << 16


def open_listener() -> socket.socket:
    """Open the socket, in the network namespace of the caller; a socket stays in the one where it was made."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", PREFERRED_PORT))
    except OSError:
        listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


def forward(listener: socket.socket, target: tuple[str, int]) -> None:
    """Serve the socket for ever, connecting in the network namespace of the caller."""
    while True:
        client, _ = listener.accept()
        try:
            server = socket.create_connection(target)
        except OSError:
            client.close()
            continue
        for one, other in ((client, server), (server, client)):
            threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(_CHUNK):
            target.sendall(content)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
