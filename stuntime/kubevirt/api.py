"""Requests to a Kubernetes API: asked again while the server is away, watched instead of polled, refused aloud."""

import json
import re
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import structlog
import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from stuntime.errors import ExitCode, StuntimeError, TestbedError, UsageError
from stuntime.kubevirt.kinds import Kind, Object

_log = structlog.get_logger()

_PATIENCE_S = 60.0
_REQUEST_S = (5.0, 30.0)
_WATCH_S = 30
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0
_BUSY = (429, 500, 502, 503, 504)
_IN_NAMESPACE = re.compile(r"/namespaces/([^/]+)/")
_RIGHTS = {"POST": "create", "PUT": "update"}
_NOT_FOUND, _CONFLICT, _GONE, _UNAUTHORIZED, _FORBIDDEN = 404, 409, 410, 401, 403


class ApiError(TestbedError):
    """The API server answered with an error of its own; `status` is that of HTTP."""

    reason = "api-refused"

    def __init__(self, what: str, way_out: str, status: int, *, reason: str | None = None) -> None:
        super().__init__(what, way_out, reason=reason)
        self.status = status


class ConflictError(ApiError):
    """The object exists already, or has changed since it was read."""

    reason = "api-conflict"


class InterruptedRunError(StuntimeError):
    """Somebody wants the run to end."""

    exit_code = ExitCode.INTERRUPTED
    reason = "interrupted"


class Api:
    """A client of one cluster, in one namespace where none is named. Any thread may use it.

    Every call may raise ApiError, a TestbedError (`api-away`) when the server was away for longer than `patience_s`,
    and InterruptedRunError as soon as `stop` has been called.
    """

    def __init__(self, client: ApiClient, namespace: str, *, patience_s: float = _PATIENCE_S) -> None:
        """Remember whom to ask; nothing is asked yet."""
        self.namespace = namespace
        self.configuration: Configuration = client.configuration
        self.requests: Counter[str] = Counter()
        self._client = client
        self.patience_s = patience_s
        self._stopped = threading.Event()
        self._streams: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()

    def stop(self) -> None:
        """End what waits now and will be asked for later, in every thread."""
        self._stopped.set()
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            _shut(stream)

    def on_stop(self, connection: socket.socket) -> None:
        """Have a connection shut down, too, when the run has to end."""
        with self._lock:
            self._streams.add(connection)
        if self.stopped:
            _shut(connection)

    def last_words(self, *, patience_s: float) -> "Api":
        """Return a client that still answers after `stop`, with little patience: for what has to be taken away."""
        last = Api(self._client, self.namespace, patience_s=patience_s)
        last.requests = self.requests
        return last

    def lasting(self, *, patience_s: float) -> "Api":
        """Return this client, or after `stop` the one of `last_words`: for what is taken away however a run ends."""
        return self.last_words(patience_s=patience_s) if self.stopped else self

    @property
    def stopped(self) -> bool:
        """Whether `stop` has been called."""
        return self._stopped.is_set()

    def pause(self, seconds: float) -> None:
        """Sleep; raise InterruptedRunError at once when the run has to end."""
        if self._stopped.wait(max(0.0, seconds)):
            raise InterruptedRunError("the run was interrupted", "measure again")

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        """Return an object; None when there is none."""
        try:
            return self._request("GET", kind, kind.path(namespace or self.namespace, name))
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    def _looked(self, kind: Kind, name: str, namespace: str | None) -> Object | None:
        """Return an object; None also where this account may make and delete it and not look at it."""
        try:
            return self.get(kind, name, namespace)
        except ApiError as error:
            if error.status == _FORBIDDEN:
                return None
            raise

    def find(
        self, kind: Kind, *, labels: str = "", fields: str = "", namespace: str | None = None, everywhere: bool = False
    ) -> list[Object]:
        """Return the objects that the selectors name, of one namespace or (`everywhere`) of all.

        A kind that the cluster does not know is an ApiError with status 404.
        """
        path = kind.path("-").replace("/namespaces/-", "") if everywhere else kind.path(namespace or self.namespace)
        return self._list(kind, path, labels, fields)[0]

    def create(self, kind: Kind, body: Object, namespace: str | None = None) -> Object:
        """Create an object and return it; raise ConflictError when it exists.

        A server that went away in the middle may have made it: then it is found again by its name, labels and holder.
        """
        path = kind.path(namespace or self.namespace)

        def made_before() -> Object | None:
            found = self._looked(kind, body["metadata"]["name"], namespace)
            return found if found is not None and _is_that(found, body) else None

        return self._request("POST", kind, path, body=body, done_before=made_before)

    def replace(self, kind: Kind, body: Object, namespace: str | None = None) -> Object:
        """Replace an object that nobody has changed since it was read; raise ConflictError when somebody has."""
        name = body["metadata"]["name"]

        def replaced_before() -> Object | None:
            found = self.get(kind, name, namespace)
            return found if found is not None and _said(found) == _said(body) else None

        path = kind.path(namespace or self.namespace, name)
        return self._request("PUT", kind, path, body=body, done_before=replaced_before)

    def merge(self, kind: Kind, name: str, patch: Object, namespace: str | None = None) -> Object:
        """Merge a patch into an object (RFC 7386) and return it; one that names a `uid` fits only that very object."""
        return self._request("PATCH", kind, kind.path(namespace or self.namespace, name), body=patch)

    def delete(
        self, kind: Kind, name: str, namespace: str | None = None, *, grace_s: int | None = 0, uid: str | None = None
    ) -> bool:
        """Ask for an object's deletion; return whether there was one. With `uid` only that very object."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        if uid is not None:
            options["preconditions"] = {"uid": uid}

        def gone_before() -> Object | None:
            found = self._looked(kind, name, namespace)
            return {} if found is None or (uid is not None and found["metadata"]["uid"] != uid) else None

        path = kind.path(namespace or self.namespace, name)
        try:
            self._request("DELETE", kind, path, body=options, done_before=gone_before)
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return False
            raise
        return True

    def ask(self, path: str) -> Object:
        """Return what the server says at a path of its own (`/version`)."""
        return self._request("GET", None, path)

    def serves(self, version: str) -> bool:
        """Tell whether the cluster has an API of this group and version."""
        try:
            self.ask(f"/apis/{version}")
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return False
            raise
        return True

    def post(self, path: str, body: Object) -> Object:
        """Return the answer to a question that has a body (an access review)."""
        return self._request("POST", None, path, body=body)

    def text(self, path: str, query: Mapping[str, Any], limit: int) -> str:
        """Return the first characters of a text (a pod's log)."""

        def read() -> str:
            response = self._call("GET", path, query, None, _REQUEST_S, "pods/log")
            try:
                return bytes(response.read(limit)).decode(errors="replace")
            finally:
                response.close()

        return str(self._patiently(read, "GET", path))

    def states(
        self,
        kind: Kind,
        deadline: float,
        *,
        name: str = "",
        labels: str = "",
        namespace: str | None = None,
    ) -> Iterator[Mapping[str, Object]]:
        """Yield all objects that are selected, by name, and again after each change, until the deadline (monotonic).

        The first is the state of now. A watch that the server ended is gone on with; one that it has forgotten (410)
        begins anew.
        """
        path = kind.path(namespace or self.namespace)
        fields = f"metadata.name={name}" if name else ""
        while time.monotonic() < deadline:
            listed, version = self._list(kind, path, labels, fields)
            known = {found["metadata"]["name"]: found for found in listed}
            yield dict(known)
            query = {"labelSelector": labels, "fieldSelector": fields}
            for change, found in self._changes(kind, path, {k: v for k, v in query.items() if v}, version, deadline):
                if change == "DELETED":
                    known.pop(found["metadata"]["name"], None)
                else:
                    known[found["metadata"]["name"]] = found
                yield dict(known)

    def wait(
        self,
        kind: Kind,
        name: str,
        condition: Callable[[Object | None], bool],
        *,
        timeout_s: float,
        what: str,
        namespace: str | None = None,
    ) -> Object | None:
        """Return an object as soon as the condition holds for it (None: it is not there); raise TestbedError after."""
        found: Object | None = None
        for state in self.states(kind, time.monotonic() + timeout_s, name=name, namespace=namespace):
            found = state.get(name)
            if condition(found):
                return found
        told = "" if found is None else f" (it is {_in_short(found)})"
        raise TestbedError(f"{what} did not come within {timeout_s:g} s{told}", "look at the objects in the evidence")

    def _list(self, kind: Kind, path: str, labels: str, fields: str) -> tuple[list[Object], str]:
        query = {"labelSelector": labels, "fieldSelector": fields}
        found = self._request("GET", kind, path, query={k: v for k, v in query.items() if v}, told="LIST")
        items = [{"apiVersion": kind.api_version, "kind": kind.name, **item} for item in found.get("items") or []]
        return items, found["metadata"].get("resourceVersion", "")

    def _changes(
        self, kind: Kind, path: str, query: Mapping[str, str], version: str, deadline: float
    ) -> Iterator[tuple[str, Object]]:
        """Yield changes since a version; end when the server has forgotten it or the deadline has come.

        A watch that did not last is followed by a pause, lest a server that ends each at once is pressed.
        """
        forgotten = False
        while not forgotten and (left_s := deadline - (began := time.monotonic())) > 0:
            asked_s = max(1, min(_WATCH_S, int(left_s + 1)))
            watching = {**query, "watch": "true", "resourceVersion": version, "timeoutSeconds": str(asked_s)}
            try:
                for change, found in self._stream(kind, path, watching, min(left_s, asked_s + 5.0)):
                    if change == "ERROR":
                        _log.debug("api.watch.forgotten", kind=kind.name, why=found.get("message"))
                        forgotten = True
                        break
                    version = found["metadata"]["resourceVersion"]
                    if change != "BOOKMARK":
                        yield change, found
            except ApiError as error:
                if error.status != _GONE:
                    raise
                forgotten = True
            self.pause(min(began + _PAUSE_S, deadline) - time.monotonic())

    def _stream(self, kind: Kind, path: str, query: Mapping[str, str], read_s: float) -> Iterator[tuple[str, Object]]:
        from kubernetes.watch.watch import iter_resp_lines

        self.pause(0)
        response = self._patiently(
            lambda: self._call("GET", path, query, None, (_REQUEST_S[0], read_s), kind.resource, told="WATCH"),
            "WATCH",
            path,
        )
        with self._watched(response):
            try:
                for line in iter_resp_lines(response):
                    if line:
                        event = json.loads(line)
                        yield event["type"], event["object"]
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as dropped:
                _log.debug("api.watch.dropped", kind=kind.name, why=str(dropped))
        self.pause(0)

    @contextmanager
    def _watched(self, response: Any) -> Iterator[None]:
        with self._lock:
            self._streams.add(response)
        try:
            self.pause(0)
            yield
        finally:
            with self._lock:
                self._streams.discard(response)
            response.close()

    def _request(
        self,
        method: str,
        kind: Kind | None,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        told: str | None = None,
        done_before: Callable[[], Object | None] | None = None,
    ) -> Object:
        what = kind.resource if kind else path

        def asked() -> Object:
            found: Object = json.loads(self._call(method, path, query or {}, body, _REQUEST_S, what, told=told).data)
            return found

        answer: Object = self._patiently(asked, method, path, done_before)
        return answer

    def _patiently(
        self,
        call: Callable[[], Any],
        method: str,
        path: str,
        done_before: Callable[[], Object | None] | None = None,
    ) -> Any:
        """Call until the server answers, at most as long as our patience lasts.

        `done_before` is asked when a repeated call is refused: what the first one has done already is no error.
        """
        deadline = time.monotonic() + self.patience_s
        pause_s, doubtful = _PAUSE_S, False
        while True:
            self.pause(0)
            try:
                return call()
            except ApiError as refused:
                again = doubtful and refused.status in (_CONFLICT, _NOT_FOUND)
                if again and done_before is not None and (found := done_before()) is not None:
                    return found
                raise
            except (_AwayError, urllib3.exceptions.HTTPError, OSError) as gone:
                doubtful = True
                if time.monotonic() + pause_s > deadline:
                    raise away(f"{method} {path}", self.patience_s, _why(gone)) from gone
                _log.debug("api.away", method=method, path=path, why=_why(gone))
            self.pause(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any],
        body: Object | None,
        timeout_s: tuple[float, float],
        what: str,
        *,
        told: str | None = None,
    ) -> Any:
        self.requests[f"{told or method} {what}"] += 1
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            return self._client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=timeout_s,
            )
        except ApiException as error:
            found = _IN_NAMESPACE.search(path)
            _raise(error, told or method, what, f"namespace {found[1]}" if found else "the cluster")


class _AwayError(Exception):
    """The server is there and cannot answer now."""


def connect(kubeconfig: Path | None, context: str | None, namespace: str | None) -> Api:
    """Return a client for the cluster that a kubeconfig names, or inside a pod for the pod's own.

    The namespace is the one given, else the context's or the pod's, else `default`. Raise UsageError when there is no
    cluster to speak to.
    """
    configuration = Configuration()
    configuration.retries = False
    configuration.connection_pool_maxsize = 64
    in_pod = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    try:
        if kubeconfig is None and context is None and in_pod.exists():
            config.load_incluster_config(client_configuration=configuration)
            own = in_pod.read_text().strip()
        else:
            file = None if kubeconfig is None else str(kubeconfig)
            config.load_kube_config(config_file=file, context=context, client_configuration=configuration)
            contexts, active = config.list_kube_config_contexts(config_file=file)
            chosen = next((one for one in contexts if one["name"] == context), active)
            own = chosen["context"].get("namespace") or "default"
    except (ConfigException, OSError, KeyError, TypeError) as error:
        raise UsageError(
            f"there is no cluster to speak to: {error}", "name a kubeconfig with --kubeconfig, or log in first"
        ) from error
    return Api(ApiClient(configuration), namespace or own)


def away(what: str, patience_s: float, why: str) -> TestbedError:
    """Return the error of a server that was away for longer than our patience."""
    return TestbedError(
        f"the API server did not answer {what} for {patience_s:g} s: {why}",
        "see whether the cluster can be reached, and measure again",
        reason="api-away",
    )


def way_out_of(status: int, right: str, place: str) -> str:
    """Return what to do about a refusal (401 or 403) of a right in a place."""
    if status == _UNAUTHORIZED:
        return "log in again: the token has run out"
    return f"let this account {right} ({place}); `stuntime preflight --testbed kubevirt` lists all that is needed"


def _raise(error: ApiException, method: str, what: str, place: str) -> NoReturn:
    told = _message(error)
    status = int(error.status or 0)
    if status in _BUSY and not _is_webhook(told):
        raise _AwayError(f"{status} {told}") from error
    if status == _CONFLICT:
        raise ConflictError(f"{method} {what}: {told}", "somebody else changes it, too", status) from error
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        way_out = way_out_of(status, f"{_RIGHTS.get(method, method.lower())} {what}", place)
        raise ApiError(f"{method} {what} is refused: {told}", way_out, status, reason="api-forbidden") from error
    raise ApiError(f"{method} {what}: {told}", "look at the message of the API server", status) from error


def _is_that(found: Object, body: Object) -> bool:
    """Tell whether an object is the one we asked for, not somebody else's of that name."""
    labels = (body["metadata"].get("labels") or {}).items() <= (found["metadata"].get("labels") or {}).items()
    holders = {(one.get("spec") or {}).get("holderIdentity") for one in (found, body)}
    return labels and len(holders) == 1


def _said(found: Object) -> Object:
    """Return what people say in an object, without what the server adds."""
    noted = {key: found["metadata"].get(key) or {} for key in ("labels", "annotations")}
    return {**{key: found[key] for key in found if key not in ("metadata", "status")}, **noted}


def _is_webhook(told: str) -> bool:
    """Tell an admission webhook's denial, which comes as 500 where it is misused, from a server's own trouble."""
    return "denied the request" in told


def _shut(stream: Any) -> None:
    """Shut a connection down, so that whoever reads from it sees its end; its owner closes it."""
    with suppress(OSError, RuntimeError, ValueError):
        if isinstance(stream, socket.socket):
            stream.shutdown(socket.SHUT_RDWR)
        else:
            stream.shutdown()


def _message(error: ApiException) -> str:
    try:
        told = json.loads(error.body)["message"]
    except (ValueError, TypeError, KeyError):
        told = str(error.body or error.reason or error.status)
    return " ".join(str(told).split())


def _why(away: Exception) -> str:
    return " ".join(str(away).split())[-200:] or type(away).__name__


def _in_short(found: Object) -> str:
    status = found.get("status") or {}
    return status.get("phase") or json.dumps(status.get("conditions") or status)[:300]
