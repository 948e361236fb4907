"""The cluster's API with the objects as they are, and views that follow it."""

import json
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import structlog
import urllib3
from kubernetes.client.exceptions import ApiException
from kubernetes.config import new_client_from_config

Object = Mapping[str, Any]

_log = structlog.get_logger()
_TYPES = {"PATCH": "application/merge-patch+json"}
_AGAIN_S = 1.0


class Api:
    """The API by paths."""

    def __init__(self, kubeconfig: Path) -> None:
        """Read where it is and who we are."""
        self._client = new_client_from_config(str(kubeconfig))

    def call(self, method: str, path: str, body: Object | None = None, **query: str) -> Any:
        """Return what the API answers."""
        return self._client.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": _TYPES.get(method, "application/json")},
            body=body,
            response_type="object",
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _request_timeout=30,
        )

    def find(self, path: str) -> Object | None:
        """Return an object, or None where there is none."""
        try:
            return self.call("GET", path)
        except ApiException as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def ensure(self, collection: str, wanted: Object) -> Object:
        """Return the object of this name, made if there is none."""
        path = f"{collection}/{wanted['metadata']['name']}"
        try:
            return self.find(path) or self.call("POST", collection, wanted)
        except ApiException as error:
            if error.status == HTTPStatus.CONFLICT:
                return self.call("GET", path)
            raise

    def patch(self, path: str, change: Object) -> None:
        """Merge a change into an object; one that has gone needs none."""
        self._unless_gone("PATCH", path, change)

    def delete(self, path: str) -> None:
        """Delete an object, if it is there."""
        self._unless_gone("DELETE", path)

    def _unless_gone(self, method: str, path: str, body: Object | None = None) -> None:
        try:
            self.call(method, path, body)
        except ApiException as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def watch(self, path: str, version: str) -> Any:
        """Yield what happens to a collection after a version."""
        answer = self._client.call_api(
            path,
            "GET",
            query_params=[("watch", "1"), ("resourceVersion", version), ("timeoutSeconds", "300")],
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
        )
        try:
            rest = b""
            for part in answer.stream(amt=None):
                *lines, rest = (rest + part).split(b"\n")
                yield from map(json.loads, lines)
        finally:
            answer.close()


class View:
    """All objects of a collection as a thread of its own sees them; what changes sets the event."""

    def __init__(self, api: Api, collection: str, changed: threading.Event) -> None:
        """Follow the collection from now on."""
        self._api, self._collection, self._changed = api, collection, changed
        self._objects: dict[str, Object] = {}
        self._lock = threading.Lock()
        self.seen = threading.Event()
        threading.Thread(target=self._follow, daemon=True).start()

    def objects(self) -> list[Object]:
        """Return them, oldest first."""
        with self._lock:
            return sorted(self._objects.values(), key=lambda each: each["metadata"]["creationTimestamp"])

    def _follow(self) -> None:
        while True:
            try:
                self._once()
            except (ApiException, urllib3.exceptions.HTTPError, OSError) as error:
                # A kind whose definition is not there yet, a server that restarts.
                _log.debug("view.again", collection=self._collection, error=str(error).splitlines()[:1])
                time.sleep(_AGAIN_S)

    def _once(self) -> None:
        listed = self._api.call("GET", self._collection)
        with self._lock:
            self._objects = {each["metadata"]["uid"]: each for each in listed["items"]}
        self.seen.set()
        self._changed.set()
        for event in self._api.watch(self._collection, listed["metadata"]["resourceVersion"]):
            if event["type"] == "ERROR":
                return
            thing = event["object"]
            with self._lock:
                if event["type"] == "DELETED":
                    self._objects.pop(thing["metadata"]["uid"], None)
                else:
                    self._objects[thing["metadata"]["uid"]] = thing
            self._changed.set()


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Say whether a label selector selects these labels; an empty one selects all."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for each in selector.get("matchExpressions", []):
        key, values = each["key"], each.get("values", [])
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[each["operator"]]
        if not holds:
            return False
    return True


def now() -> str:
    """Return the time as the API writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
