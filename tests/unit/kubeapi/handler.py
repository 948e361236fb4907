"""One connection to the fake API server: requests in, answers, watches and upgraded connections out."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from stuntime.kubevirt.kinds import Kind, Object
from tests.unit.kubeapi.store import RefusedError, Selector, event_for

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_RIGHTS = {"GET": "get", "LIST": "list", "WATCH": "watch", **_VERBS}
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_DEFAULT_WATCH_S = 1800.0
_BODY_TYPES = {
    "POST": ("application/json",),
    "PUT": ("application/json",),
    "PATCH": ("application/merge-patch+json",),
    "DELETE": ("application/json",),
}


@dataclass(frozen=True)
class Route:
    """A path that something else answers: it gets the handler and the match, and the resource is for rights."""

    pattern: str
    resource: str
    answer: Callable[["Handler", re.Match[str]], None]


@dataclass
class Request:
    """A request, taken apart."""

    method: str
    path: str
    query: dict[str, str]
    body: Object | None = None
    kind: Kind | None = None
    namespace: str | None = None
    name: str = ""
    sub: str = ""
    route: Route | None = None
    match: re.Match[str] | None = None

    @property
    def resource(self) -> str:
        """What it is about, as RBAC calls it; else the path."""
        if self.route is not None:
            return self.route.resource
        if self.kind is None:
            return self.path
        plural, dot, group = self.kind.resource.partition(".")
        return f"{plural}/{self.sub}{dot}{group}" if self.sub else self.kind.resource

    @property
    def verb(self) -> str:
        if self.method != "GET" or self.kind is None:
            return self.method
        if self.query.get("watch") in ("true", "1"):
            return "WATCH"
        return "GET" if self.name else "LIST"


@dataclass(eq=False)
class Watching:
    """A watch that is open."""

    connection: socket.socket
    changed: threading.Condition
    dropped: bool = False
    torn: bool = field(default=False)

    def end(self, *, torn: bool) -> None:
        with self.changed:
            self.torn |= torn
            self.dropped |= not torn
            self.changed.notify_all()
        if not torn:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """Answers what comes in on a connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any

    def do_GET(self) -> None:
        self._answered()

    def do_POST(self) -> None:
        self._answered()

    def do_PUT(self) -> None:
        self._answered()

    def do_PATCH(self) -> None:
        self._answered()

    def do_DELETE(self) -> None:
        self._answered()

    def log_message(self, *_: object) -> None:
        """Say nothing: the server keeps a log of its own."""

    def say(self, code: int, answer: Object | str, *, reason: str | None = None) -> None:
        """Send an answer."""
        text = answer if isinstance(answer, str) else json.dumps(answer)
        self.say_bytes(code, text.encode(), "text/plain" if isinstance(answer, str) else "application/json", reason)

    def say_bytes(self, code: int, content: bytes, kind: str, reason: str | None = None) -> None:
        verb, resource = self.request_now.verb, self.request_now.resource
        if self.server.faults.take("lose", verb, resource):
            self._die()
            return
        cut = self.server.faults.take("cut", verb, resource)
        self.send_response(code, reason)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if code == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._die()

    def _die(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _answered(self) -> None:
        parts = urlsplit(self.path)
        self.request_now = request = Request(self.command, parts.path, dict(parse_qsl(parts.query)))
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if raw:
                request.body = json.loads(raw)
            self._take_apart(request)
            self.server.note(request)
            if delay := self.server.faults.take("delay", request.verb, request.resource):
                time.sleep(delay.seconds)
            self._require_allowed(request)
            self._dispatch(request)
        except RefusedError as refused:
            self.say(refused.code, refused.status)
        except json.JSONDecodeError as error:
            refused = RefusedError(400, f"the object provided is unrecognized: {error}")
            self.say(refused.code, refused.status)

    def _take_apart(self, request: Request) -> None:
        for route in self.server.routes:
            if match := re.fullmatch(route.pattern, request.path):
                request.route, request.match = route, match
                return
        core = re.fullmatch(r"/api/(v1)/(.+)", request.path)
        grouped = re.fullmatch(r"/apis/([^/]+/[^/]+)/(.+)", request.path)
        found = core or grouped
        if found is None:
            return
        version, words = found[1], found[2].split("/")
        if words[0] == "namespaces" and len(words) > 2:
            request.namespace, words = words[1], words[2:]
        request.kind = self.server.kinds.get((version, words[0]))
        if request.kind is None:
            return
        request.name, request.sub = (*words[1:3], "", "")[:2]
        if request.kind.namespaced != (request.namespace is not None) and (request.name or request.namespace):
            request.kind = None

    def _require_allowed(self, request: Request) -> None:
        server, told = self.server, self.headers.get("Content-Type", "")
        if trouble := server.faults.take("status", request.verb, request.resource):
            raise RefusedError(trouble.status, trouble.message or self._told(trouble.status, request))
        if self.headers.get("Authorization") != f"Bearer {server.token}":
            raise RefusedError(401, "Unauthorized")
        if (_RIGHTS.get(request.verb, "get"), request.resource) in server.forbidden:
            raise RefusedError(403, self._told(403, request))
        if request.body is not None and told not in _BODY_TYPES.get(request.method, (told,)):
            raise RefusedError(415, f"the body of the request was in an unknown format - {told}")

    def _told(self, status: int, request: Request) -> str:
        if status == 401:
            return "Unauthorized"
        if status == 429:
            return "too many requests, please try again later"
        if status != 403:
            return "Internal error occurred: etcdserver: leader changed"
        plural, _, group = request.resource.partition(".")
        where = f' in the namespace "{request.namespace}"' if request.namespace else " at the cluster scope"
        named = f' "{request.name}"' if request.name else ""
        return (
            f'{request.resource}{named} is forbidden: User "{self.server.user}" cannot '
            f'{_RIGHTS.get(request.verb, "get")} resource "{plural}" in API group "{group}"{where}'
        )

    def _dispatch(self, request: Request) -> None:
        if request.route is not None and request.match is not None:
            request.route.answer(self, request.match)
        elif request.path == "/version":
            self.say(200, self.server.version)
        elif request.path == _REVIEWS and request.method == "POST":
            self._review(request.body or {})
        elif request.kind is None:
            self._discover(request)
        elif request.sub == "log" and request.method == "GET":
            self._log(request)
        elif request.verb == "WATCH":
            self._watch(request, request.kind)
        elif request.sub not in ("", "status"):
            self.say(404, "404 page not found\n")
        else:
            self._object(request, request.kind)

    def _discover(self, request: Request) -> None:
        """Answer which resources a group has; what is none of ours is not found, in plain text."""
        found = re.fullmatch(r"/(?:api|apis)/((?:[^/]+/)?v[^/]+)", request.path)
        served = [kind for (version, _), kind in self.server.kinds.items() if found and version == found[1]]
        if not served or request.method != "GET":
            self.say(404, "404 page not found\n")
            return
        resources = [{"name": kind.plural, "kind": kind.name, "namespaced": kind.namespaced} for kind in served]
        version = served[0].api_version
        self.say(200, {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources})

    def _review(self, body: Object) -> None:
        asked = body.get("spec", {}).get("resourceAttributes", {})
        sub = f"/{asked['subresource']}" if asked.get("subresource") else ""
        resource = asked.get("resource", "") + sub + (f".{asked['group']}" if asked.get("group") else "")
        allowed = (asked.get("verb"), resource) not in self.server.forbidden
        self.say(201, {**body, "status": {"allowed": allowed, "reason": "" if allowed else "no rule allows it"}})

    def _log(self, request: Request) -> None:
        content = self.server.logs.get((request.namespace, request.name))
        if content is None:
            raise RefusedError(404, f'pods "{request.name}" not found')
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(content), 4096):
            self._chunk(content[start : start + 4096])
        self._chunk(b"")

    def _object(self, request: Request, kind: Kind) -> None:
        store, namespace, name = self.server.store, request.namespace or "", request.name
        body, status = request.body or {}, request.sub == "status"
        if request.verb == "LIST":
            self._list(request, kind)
        elif request.verb == "GET":
            found = store.get(kind, namespace, name)
            if found is None:
                raise RefusedError(404, f'{kind.resource} "{name}" not found')
            self.say(200, found)
        elif request.verb == "POST" and not name:
            self.say(201, store.create(kind, namespace, body))
        elif request.verb == "PUT" and name:
            self.say(200, store.replace(kind, namespace, name, body, status=status))
        elif request.verb == "PATCH" and name:
            self.say(200, store.merge(kind, namespace, name, body, status=status))
        elif request.verb == "DELETE" and name:
            self._delete(kind, namespace, name, body)
        else:
            raise RefusedError(405, "the server does not allow this method on the requested resource")

    def _delete(self, kind: Kind, namespace: str, name: str, options: Object) -> None:
        uid = (options.get("preconditions") or {}).get("uid")
        left = self.server.store.delete(kind, namespace, name, uid)
        if left["metadata"].get("finalizers"):
            self.say(200, left)
            return
        details = {"name": name, "group": kind.group, "kind": kind.plural, "uid": left["metadata"]["uid"]}
        self.say(200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    def _list(self, request: Request, kind: Kind) -> None:
        items, version = self.server.store.find(self._selector(request, kind))
        if kind.group in ("", "coordination.k8s.io"):  # built-in kinds do not repeat their kind in each item
            items = [{key: one[key] for key in one if key not in ("kind", "apiVersion")} for one in items]
        metadata = {"resourceVersion": str(version)}
        self.say(
            200, {"kind": f"{kind.name}List", "apiVersion": kind.api_version, "metadata": metadata, "items": items}
        )

    def _selector(self, request: Request, kind: Kind) -> Selector:
        query = request.query
        fields = query.get("fieldSelector", "")
        if request.name:
            fields = f"metadata.name={request.name}"
        namespace = request.namespace if kind.namespaced else None
        selector = Selector(kind, namespace, query.get("labelSelector", ""), fields)
        _ = {"metadata": {"name": "", "namespace": namespace or ""}} in selector  # refuses what it cannot parse
        return selector

    def _watch(self, request: Request, kind: Kind) -> None:
        store, selector = self.server.store, self._selector(request, kind)
        asked = request.query.get("resourceVersion", "")
        if not asked.isdecimal() and asked:
            raise RefusedError(400, f"Invalid value: {asked!r}: strconv.ParseUint: parsing {asked!r}: invalid syntax")
        expired = RefusedError(410, f"too old resource version: {asked} ({store.oldest})", "Expired")
        gone = bool(int(asked or 0)) and int(asked) < store.oldest
        if gone and self.server.gone_as_status:
            raise expired
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if gone:
            self._event("ERROR", expired.status)
        elif not self.server.faults.take("end", "WATCH", request.resource):
            watch = Watching(self.connection, store.changed)
            with self.server.watching(watch):
                self._follow(watch, selector, int(asked or 0), request.query)
            if watch.dropped or watch.torn:
                self._die()
                return
        self._chunk(b"")

    def _follow(self, watch: Watching, selector: Selector, since: int, query: dict[str, str]) -> None:
        store = self.server.store
        deadline = time.monotonic() + float(query.get("timeoutSeconds") or _DEFAULT_WATCH_S)
        if not since:
            items, since = store.find(selector)
            for found in items:
                self._event("ADDED", found)
        while not watch.dropped and (left_s := deadline - time.monotonic()) > 0:
            with store.changed:
                changes = store.since(since)
                if not changes and not watch.dropped:
                    store.changed.wait(left_s)
            for change in changes:
                since = change.version
                if event := event_for(change, selector):
                    self._event(*event, half=watch.torn)
                    if watch.torn:
                        return
        if not watch.dropped and query.get("allowWatchBookmarks") in ("true", "1"):
            kind = selector.kind
            mark = {"kind": kind.name, "apiVersion": kind.api_version, "metadata": {"resourceVersion": str(since)}}
            self._event("BOOKMARK", mark)

    def _event(self, told: str, found: Object, *, half: bool = False) -> None:
        line = json.dumps({"type": told, "object": found}).encode() + b"\n"
        self._chunk(line[: len(line) // 2] if half else line)

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
