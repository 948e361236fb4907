"""The fake API server: HTTP on 127.0.0.1 in front of a `Store`, with faults that a test switches on.

with FakeServer(namespaces=["ns"]) as server:
    server.add_nodes("node-a", "node-b", "node-c")
    api = server.api("ns", patience_s=2.0)
    with server.away():
        ...
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from kubernetes.client import ApiClient, Configuration

from stuntime.kubevirt import kinds
from stuntime.kubevirt.api import Api
from stuntime.kubevirt.kinds import NAMESPACE, NODE, Kind, Object
from tests.unit.kubeapi import store as storing
from tests.unit.kubeapi.faults import ANYTHING, Fault, Faults, Matching
from tests.unit.kubeapi.handler import Handler, Request, Route, Watching
from tests.unit.kubeapi.store import Change, Store
from tests.unit.kubeapi.worker import Worker

TOKEN = "token-of-a-test"  # noqa: S105 - it opens nothing
USER = "system:serviceaccount:ns:tester"
_KNOWN = [kind for kind in vars(kinds).values() if isinstance(kind, Kind)]


@dataclass(frozen=True)
class Logged:
    """A request that came in. `verb` is LIST or WATCH where HTTP only says GET; `at` is monotonic."""

    method: str
    verb: str
    resource: str
    path: str
    query: dict[str, str]
    body: Object | None
    at: float


class FakeServer:
    """A Kubernetes API server; its faults are its methods. Closing it ends every thread and connection it had."""

    def __init__(self, namespaces: Sequence[str] = ("ns",), more_kinds: Sequence[Kind] = ()) -> None:
        self.store = Store()
        self.kinds = {(kind.api_version, kind.plural): kind for kind in (*_KNOWN, *more_kinds)}
        self.worker = Worker()
        self.faults = Faults()
        self.log: list[Logged] = []
        self.logs: dict[tuple[str, str], bytes] = {}
        self.routes: list[Route] = []
        self.forbidden: set[tuple[str, str]] = set()
        self.token = TOKEN
        self.user = USER
        self.version = {"major": "1", "minor": "34", "gitVersion": "v1.34.0", "platform": "linux/amd64"}
        self.gone_as_status = False
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._watches: set[Watching] = set()
        self._closers: list[Callable[[], None]] = []
        self._port = 0
        self._listening = self._listen()
        self.store.listeners.append(self._collect)
        for name in ("default", "kube-system", *namespaces):
            if self.store.get(NAMESPACE, "", name) is None:
                self.store.create(NAMESPACE, "", NAMESPACE.object(name), status=True)

    def __enter__(self) -> Self:
        """Return the server, which listens already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End everything; raise what a controller raised."""
        self.faults.heal()
        for close in self._closers:
            close()
        self._go_away()
        self.worker.close()

    def on_close(self, close: Callable[[], None]) -> None:
        """Have something else ended, too."""
        self._closers.append(close)

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def configuration(self) -> Configuration:
        """Return how the Kubernetes client is to be set up, as `connect` does it."""
        configuration = Configuration(host=self.host, api_key={"authorization": f"Bearer {self.token}"})
        configuration.retries = False
        configuration.connection_pool_maxsize = 64
        return configuration

    def api(self, namespace: str = "ns", *, patience_s: float = 5.0) -> Api:
        """Return a client of ours."""
        client = ApiClient(self.configuration())
        self.on_close(client.rest_client.pool_manager.clear)
        return Api(client, namespace, patience_s=patience_s)

    def seed(self, kind: Kind, body: Object, namespace: str = "ns") -> Object:
        """Put an object there, its status included."""
        return self.store.create(kind, namespace if kind.namespaced else "", body, status=True)

    def add_nodes(self, *names: str) -> None:
        """Put nodes there that are ready and can run VMs."""
        for name in names:
            self.seed(NODE, storing.node(name))

    # What a test counts.

    def asked(self, verb: str = "*", resource: str = "*") -> list[Logged]:
        """Return the requests so far with this verb (GET, LIST, WATCH, POST, ...) of this resource."""
        with self._lock:
            return [one for one in self.log if verb in ("*", one.verb) and resource in ("*", one.resource)]

    def note(self, request: Request) -> None:
        logged = Logged(
            request.method,
            request.verb,
            request.resource,
            request.path,
            request.query,
            request.body,
            time.monotonic(),
        )
        with self._lock:
            self.log.append(logged)

    # What goes wrong.

    @contextmanager
    def away(self) -> Iterator[None]:
        """Refuse connections and drop those that are open, watches too, until the end of the block."""
        self._go_away()
        try:
            yield
        finally:
            self._listening = self._listen()

    def away_for(self, seconds: float) -> threading.Thread:
        """Go away now, and come back in a while by itself."""
        self._go_away()

        def back() -> None:
            time.sleep(seconds)
            self._listening = self._listen()

        waiting = threading.Thread(target=back, daemon=True)
        waiting.start()
        self.on_close(waiting.join)
        return waiting

    def status(self, code: int, matching: Matching = ANYTHING, times: int | None = None, message: str = "") -> None:
        """Answer with an error of this status."""
        self.faults.add(Fault("status", matching, times, status=code, message=message))

    def lose_answer(self, matching: Matching = ANYTHING, times: int | None = 1) -> None:
        """Do what is asked for, and let the connection die before the answer."""
        self.faults.add(Fault("lose", matching, times))

    def cut_answer(self, matching: Matching = ANYTHING, times: int | None = 1) -> None:
        """Do what is asked for, and let the connection die in the middle of the answer."""
        self.faults.add(Fault("cut", matching, times))

    def delay(self, seconds: float, matching: Matching = ANYTHING, times: int | None = None) -> None:
        """Think before anything is done or answered."""
        self.faults.add(Fault("delay", matching, times, seconds=seconds))

    def end_watches_at_once(self, times: int | None = None, matching: Matching = ("WATCH", "*")) -> None:
        """End each watch as soon as it is open, in good order: as some load balancers do."""
        self.faults.add(Fault("end", matching, times))

    def heal(self) -> None:
        """Take back what these methods switched on."""
        self.faults.heal()

    def compact(self) -> None:
        """Forget the past: each watch that begins from a version known so far gets 410.

        It is an ERROR event, or with `gone_as_status` an answer of this status. Open watches go on.
        """
        self.store.compact()

    def drop_watches(self) -> None:
        """Break the connections of all open watches."""
        for watch in list(self._watches):
            watch.end(torn=False)

    def tear_watches(self) -> None:
        """Break each open watch in the middle of its next event."""
        for watch in list(self._watches):
            watch.end(torn=True)

    def open_watches(self) -> int:
        """Return how many watches are open."""
        return sum(not (watch.dropped or watch.torn) for watch in list(self._watches))

    def forbid(self, verb: str, resource: str) -> None:
        """Take a right away: ("create", "leases.coordination.k8s.io"); access reviews say so, too."""
        self.forbidden.add((verb, resource))

    def unknown(self, kind: Kind) -> None:
        """Be a cluster that does not have this kind."""
        self.kinds.pop((kind.api_version, kind.plural), None)

    # What the handler needs.

    @contextmanager
    def watching(self, watch: Watching) -> Iterator[None]:
        self._watches.add(watch)
        try:
            yield
        finally:
            self._watches.discard(watch)

    def forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.pop(connection, None)

    # How it lives.

    def _listen(self) -> socket.socket:
        listening = socket.create_server(("127.0.0.1", self._port), backlog=128)
        self._port = listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(listening,), daemon=True, name="accepting").start()
        return listening

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, peer = listening.accept()
                thread = threading.Thread(target=self._serve, args=(connection, peer), daemon=True, name="serving")
                with self._lock:  # who goes away joins only threads that have begun
                    thread.start()
                    self._connections[connection] = thread
        listening.close()

    def _serve(self, connection: socket.socket, peer: Any) -> None:
        with connection:
            try:
                with suppress(OSError, ValueError):
                    Handler(connection, peer, self)
            finally:
                self.forget(connection)

    def _go_away(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        for watch in list(self._watches):
            watch.end(torn=False)
        with self._lock:
            open_now = dict(self._connections)
        for connection in open_now:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with self.store.changed:
            self.store.changed.notify_all()
        for thread in open_now.values():
            if thread is not threading.current_thread():
                thread.join(timeout=5)

    def _collect(self, change: Change) -> None:
        """Delete what a deleted object owned, a moment later."""
        if change.type == "DELETED":
            self.worker.later(0, partial(self._collect_of, change.after["metadata"]["uid"]))

    def _collect_of(self, uid: str) -> None:
        for kind, found in list(self.store.owned_by(uid)):
            with suppress(storing.RefusedError):
                self.store.delete(kind, found["metadata"].get("namespace", ""), found["metadata"]["name"])
