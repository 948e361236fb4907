"""What the fake API server remembers: objects, their versions, and the changes that watches see."""

import copy
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stuntime.kubevirt.kinds import EVENT, NAMESPACE, NODE, POD, Kind, Object

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_SELECTABLE = {POD: ("spec.nodeName", "status.phase"), EVENT: ("involvedObject.name", "involvedObject.uid", "reason")}
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class RefusedError(Exception):
    """An answer that is an error; `status` is the object that says so."""

    def __init__(self, code: int, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason or _REASONS.get(code, "Unknown"),
            "code": code,
        }


@dataclass(frozen=True)
class Change:
    """What happened to an object. `after` is what it is now, or was last if it is deleted."""

    version: int
    kind: Kind
    type: str
    before: Object | None
    after: Object


@dataclass(frozen=True)
class Selector:
    """Which objects of a kind are meant; `namespace` None: those of all."""

    kind: Kind
    namespace: str | None
    labels: str = ""
    fields: str = ""

    def __contains__(self, found: Object) -> bool:
        """Tell whether an object is one of those."""
        metadata = found["metadata"]
        if self.namespace is not None and metadata.get("namespace", "") != self.namespace:
            return False
        labels = metadata.get("labels") or {}
        return all(_label_fits(labels, term) for term in _terms(self.labels)) and all(
            self._field_fits(found, term) for term in _terms(self.fields)
        )

    def _field_fits(self, found: Object, term: str) -> bool:
        parts = re.fullmatch(r"([\w.]+)(!=|==?)(.*)", term)
        allowed = ("metadata.name", "metadata.namespace", *_SELECTABLE.get(self.kind, ()))
        if parts is None or parts[1] not in allowed:
            raise RefusedError(400, f"field label not supported: {parts[1] if parts else term}")
        value: Any = found
        for key in parts[1].split("."):
            value = (value or {}).get(key)
        return ((value or "") == parts[3]) == (parts[2] != "!=")


class Store:
    """Objects by kind, namespace and name. Whoever changes one holds `changed`, and wakes those who wait on it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.admission: list[Callable[[Kind, Object], None]] = []
        self.revision: list[Callable[[Kind, Object, Object], None]] = []
        self.listeners: list[Callable[[Change], None]] = []
        self.clock_ahead_s = 0.0
        self.oldest = 0
        self._version = 1000
        self._objects: dict[Kind, dict[tuple[str, str], Object]] = {}
        self._changes: list[Change] = []

    def stamp(self) -> str:
        """Return the time of the cluster's clock, cut to seconds as the API has it."""
        now = datetime.fromtimestamp(int(time.time() + self.clock_ahead_s), UTC)
        return now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        with self.changed:
            return copy.deepcopy(self._objects.get(kind, {}).get(_key(kind, namespace, name)))

    def find(self, selector: Selector) -> tuple[list[Object], int]:
        """Return the objects that are selected, and the version of now."""
        with self.changed:
            found = [copy.deepcopy(one) for one in self._objects.get(selector.kind, {}).values() if one in selector]
            return sorted(found, key=lambda one: _key_of(selector.kind, one)), self._version

    def since(self, version: int) -> list[Change]:
        with self.changed:
            return [change for change in self._changes if change.version > version]

    def compact(self) -> None:
        """Forget everything that led to now: a watch from any version known so far has expired."""
        with self.changed:
            self._version += 1
            self.oldest = self._version

    def create(self, kind: Kind, namespace: str, body: Object, *, status: bool = False) -> Object:
        """Make an object; what it says of its status counts only if told so."""
        with self.changed:
            made = copy.deepcopy(body)
            metadata = made.setdefault("metadata", {})
            if not metadata.get("name") and metadata.get("generateName"):
                metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
            self._require_sound(kind, namespace, made)
            name = metadata["name"]
            if self.get(kind, namespace, name) is not None:
                raise RefusedError(409, f'{kind.resource} "{name}" already exists', "AlreadyExists")
            if not status and kind.group and "status" in made:
                del made["status"]
            if kind.namespaced:
                metadata["namespace"] = namespace
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": self.stamp(), "generation": 1}
            for own in ("deletionTimestamp", "resourceVersion"):
                metadata.pop(own, None)
            if kind == NAMESPACE:
                metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = name
            for admit in self.admission:
                admit(kind, made)
            return self._save(kind, None, {**made, "apiVersion": kind.api_version, "kind": kind.name})

    def replace(self, kind: Kind, namespace: str, name: str, body: Object, *, status: bool = False) -> Object:
        with self.changed:
            before = self._require(kind, namespace, name)
            sent = body.get("metadata", {})
            if not sent.get("resourceVersion") and "." in kind.group and not kind.group.endswith("k8s.io"):
                raise RefusedError(
                    422,
                    f'{kind.resource} "{name}" is invalid: metadata.resourceVersion: Invalid value: 0x0: '
                    "must be specified for an update",
                )
            self._require_same(kind, before, sent)
            return self._updated(kind, before, body, status=status)

    def merge(self, kind: Kind, namespace: str, name: str, patch: Object, *, status: bool = False) -> Object:
        """Merge a patch (RFC 7386)."""
        with self.changed:
            before = self._require(kind, namespace, name)
            sent = patch.get("metadata") or {}
            if sent.get("uid", before["metadata"]["uid"]) != before["metadata"]["uid"]:
                told = f'{kind.resource} "{name}" is invalid: metadata.uid: Invalid value: "{sent["uid"]}"'
                raise RefusedError(422, f"{told}: field is immutable")
            self._require_same(kind, before, sent)
            return self._updated(kind, before, _merged(before, patch), status=status)

    def delete(self, kind: Kind, namespace: str, name: str, uid: str | None = None) -> Object:
        """Delete an object, or mark it if finalizers hold it; return it as it is then."""
        with self.changed:
            before = self._require(kind, namespace, name)
            actual = before["metadata"]["uid"]
            if uid is not None and uid != actual:
                raise RefusedError(
                    409,
                    f'Operation cannot be fulfilled on {kind.resource} "{name}": Precondition failed: '
                    f"UID in precondition: {uid}, UID in object meta: {actual}",
                )
            after = copy.deepcopy(before)
            after["metadata"].setdefault("deletionTimestamp", self.stamp())
            return self._save(kind, before, after)

    def edit(self, kind: Kind, found: Object, change: Callable[[Object], None]) -> Object | None:
        """Change an object as its controller may, status included; None when that very object is gone."""
        with self.changed:
            before = self.get(kind, found["metadata"].get("namespace", ""), found["metadata"]["name"])
            if before is None or before["metadata"]["uid"] != found["metadata"]["uid"]:
                return None
            after = copy.deepcopy(before)
            change(after)
            return self._save(kind, before, after)

    def owned_by(self, uid: str) -> Iterator[tuple[Kind, Object]]:
        """Yield what has this owner and no other that is alive."""
        with self.changed:
            alive = {one["metadata"]["uid"] for objects in self._objects.values() for one in objects.values()}
            for kind, objects in list(self._objects.items()):
                for one in list(objects.values()):
                    owners = {owner["uid"] for owner in one["metadata"].get("ownerReferences") or ()}
                    if uid in owners and not owners & alive:
                        yield kind, copy.deepcopy(one)

    def _require(self, kind: Kind, namespace: str, name: str) -> Object:
        found = self.get(kind, namespace, name)
        if found is None:
            raise RefusedError(404, f'{kind.resource} "{name}" not found')
        return found

    def _require_sound(self, kind: Kind, namespace: str, made: Object) -> None:
        metadata = made["metadata"]
        name = metadata.get("name", "")
        if made.get("kind", kind.name) != kind.name or made.get("apiVersion", kind.api_version) != kind.api_version:
            raise RefusedError(400, f"{made.get('kind')} in version {made.get('apiVersion')} is not a {kind.name}")
        if kind.namespaced and self.get(NAMESPACE, "", namespace) is None:
            raise RefusedError(404, f'namespaces "{namespace}" not found')
        if kind.namespaced and metadata.get("namespace", namespace) != namespace:
            raise RefusedError(400, "the namespace of the provided object does not match the namespace sent")
        wrong = [f"metadata.name: Invalid value: {name!r}"] if not _NAME.fullmatch(name) else []
        wrong += [
            f"metadata.labels: Invalid value: {value!r}"
            for value in (metadata.get("labels") or {}).values()
            if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value)
        ]
        if wrong:
            raise RefusedError(422, f'{kind.name}.{kind.group} "{name}" is invalid: {", ".join(wrong)}')

    @staticmethod
    def _require_same(kind: Kind, before: Object, sent: Object) -> None:
        for own in ("resourceVersion", "uid"):
            if sent.get(own) and sent[own] != before["metadata"][own]:
                raise RefusedError(
                    409,
                    f'Operation cannot be fulfilled on {kind.resource} "{before["metadata"]["name"]}": '
                    "the object has been modified; please apply your changes to the latest version and try again",
                )

    def _updated(self, kind: Kind, before: Object, wanted: Object, *, status: bool) -> Object:
        """Return what a client's update makes of an object: status and the rest are written apart."""
        after = copy.deepcopy(wanted)
        if status:
            after = {**copy.deepcopy(before), "status": after.get("status", {})}
        elif kind.group:
            after.pop("status", None)
            if "status" in before:
                after["status"] = copy.deepcopy(before["status"])
        kept = {
            own: before["metadata"][own]
            for own in ("name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp")
            if own in before["metadata"]
        }
        after["metadata"] = {**after.get("metadata", {}), **kept}
        for admit in [] if status else self.revision:
            admit(kind, before, after)
        return self._save(kind, before, {**after, "apiVersion": kind.api_version, "kind": kind.name})

    def _save(self, kind: Kind, before: Object | None, after: Object) -> Object:
        metadata = after["metadata"]
        key = _key_of(kind, after)
        if before is not None:
            metadata["resourceVersion"] = before["metadata"]["resourceVersion"]
            if after == before and not (metadata.get("deletionTimestamp") and not metadata.get("finalizers")):
                return copy.deepcopy(before)
            if after.get("spec") != before.get("spec"):
                metadata["generation"] = before["metadata"].get("generation", 1) + 1
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        gone = bool(metadata.get("deletionTimestamp")) and not metadata.get("finalizers")
        if gone:
            self._objects[kind].pop(key, None)
        else:
            self._objects.setdefault(kind, {})[key] = after
        told = "DELETED" if gone else "ADDED" if before is None else "MODIFIED"
        change = Change(self._version, kind, told, before, copy.deepcopy(after))
        self._changes.append(change)
        self.changed.notify_all()
        for listen in self.listeners:
            listen(change)
        return copy.deepcopy(after)


def event_for(change: Change, selector: Selector) -> tuple[str, Object] | None:
    """Return what a watch with this selector says of a change: what leaves the selection is deleted for it."""
    if change.kind != selector.kind:
        return None
    was = change.before is not None and change.before in selector
    is_now = change.type != "DELETED" and change.after in selector
    if not was and not is_now:
        return None
    return ("DELETED" if not is_now else "MODIFIED" if was else "ADDED"), change.after


def node(name: str, labels: dict[str, str] | None = None) -> Object:
    """Return a node that is ready and can run VMs."""
    own = {"kubernetes.io/hostname": name, "kubevirt.io/schedulable": "true", "node-role.kubernetes.io/worker": ""}
    found = NODE.object(name)
    found["metadata"]["labels"] = {**own, **(labels or {})}
    resources = {"cpu": "8", "memory": "16Gi", "devices.kubevirt.io/kvm": "1k"}
    found["status"] = {
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        "nodeInfo": {"kernelVersion": "6.1.0", "osImage": "Fake Linux 1", "kubeletVersion": "v1.34.0"},
        "capacity": resources,
        "allocatable": resources,
        "addresses": [{"type": "Hostname", "address": name}],
    }
    found["spec"] = {}
    return found


def _terms(selector: str) -> list[str]:
    return [term.strip() for term in re.split(r",(?![^(]*\))", selector) if term.strip()]


def _label_fits(labels: dict[str, str], term: str) -> bool:
    if among := re.fullmatch(r"([\w./-]+)\s+in\s+\(([\w.,\s-]*)\)", term):
        return labels.get(among[1]) in [value.strip() for value in among[2].split(",")]
    parts = re.fullmatch(r"(!?)([\w./-]+)\s*(?:(!=|==?)\s*([\w.-]*))?", term)
    if parts is None:
        raise RefusedError(400, f"unable to parse requirement: {term}")
    absent, key, operator, value = parts.groups()
    if operator is None:
        return (key in labels) == (not absent)
    return (labels.get(key) == value) == (operator != "!=")


def _key(kind: Kind, namespace: str, name: str) -> tuple[str, str]:
    return (namespace if kind.namespaced else "", name)


def _key_of(kind: Kind, found: Object) -> tuple[str, str]:
    return _key(kind, found["metadata"].get("namespace", ""), found["metadata"]["name"])


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = copy.deepcopy(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result
