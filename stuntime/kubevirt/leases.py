"""Leases: objects with a holder, whose life others judge by the changes they see, and the Leases of NICs.

Whether a holder lives is told by its object changing, seen in the observer's own monotonic clock. Two clocks are never
compared: the times in a Lease are for people.
"""

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import structlog

from stuntime.errors import StuntimeError, UnfitError
from stuntime.kubevirt.api import Api, ConflictError, InterruptedRunError
from stuntime.kubevirt.kinds import LEASE, NAMESPACE_LABEL, OURS, RUN_LABEL, Object, cleaning_up, selector

_log = structlog.get_logger()

DURATION_S = 60.0
LAST_PATIENCE_S = 2.0
_PAUSE_S = 0.05

Clock = Callable[[], float]


def pause(api: Api) -> None:
    """Let somebody else go first after a conflict."""
    api.pause(_PAUSE_S * (0.5 + secrets.randbelow(100) / 100))


def micro_time() -> str:
    """Return now as a Lease has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def spec(holder: str | None, duration_s: float, before: Object | None = None) -> Object:
    """Return a Lease's spec, renewed now; `before` is the spec that it follows."""
    before = before or {}
    renewed: Object = {"leaseDurationSeconds": max(1, round(duration_s)), "renewTime": micro_time()}
    renewed["leaseTransitions"] = int(before.get("leaseTransitions") or 0)
    if holder is None:
        return renewed
    same = before.get("holderIdentity") == holder
    renewed["holderIdentity"] = holder
    renewed["acquireTime"] = before.get("acquireTime") if same else renewed["renewTime"]
    renewed["leaseTransitions"] += bool(before) and not same
    return renewed


def holder_of(lease: Object | None) -> str | None:
    """Return who holds a Lease."""
    return ((lease or {}).get("spec") or {}).get("holderIdentity") or None


def remove(api: Api, name: str, namespace: str, is_ours: Callable[[Object], bool]) -> Object | None:
    """Remove a Lease unless somebody else has it by now; return theirs, or None.

    It is replaced by one without a holder, which nobody replaces ever, and that one is deleted by its uid: so no
    deletion, however late, meets somebody else's.
    """
    while (found := api.get(LEASE, name, namespace)) is not None:
        if holder_of(found) is not None and not is_ours(found):
            return found
        try:
            if holder_of(found) is not None:
                api.replace(LEASE, {**found, "spec": spec(None, DURATION_S, found["spec"])}, namespace)
            api.delete(LEASE, name, namespace, uid=found["metadata"]["uid"])
            break
        except ConflictError:
            pause(api)
    return None


class Seen:
    """Since when something has not changed, as far as this process has seen. Any thread may use it."""

    def __init__(self) -> None:
        """Nothing has been seen."""
        self._seen: dict[str, tuple[Any, float]] = {}
        self._lock = threading.Lock()

    def note(self, name: str, version: Any, now: float) -> None:
        """Note what is there; `now` is a time after it was read."""
        with self._lock:
            if name not in self._seen or self._seen[name][0] != version:
                self._seen[name] = (version, now)

    def since(self, name: str, version: Any, default: float) -> float:
        """Return when this version was first seen; the default when it was not."""
        with self._lock:
            known, since = self._seen.get(name, (None, default))
        return since if known == version else default


class NicLeases:
    """A Lease per NIC, which keeps a second run from it.

    A Lease is taken by creating it, or over from a dead holder by replacing what was read; see `remove` for its end.
    """

    def __init__(self, api: Api, *, namespace: str, run: str, clock: Clock = time.monotonic) -> None:
        """Remember where the Leases are; nothing is asked yet."""
        self._api = api
        self._namespace = namespace
        self._run = run
        self._clock = clock
        self._seen = Seen()
        self._held: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether there is something to renew."""
        with self._lock:
            return bool(self._held)

    @contextmanager
    def holding(self, nic: str, who: str, *, wait_s: float, duration_s: float) -> Iterator[None]:
        """Hold a NIC in this process and no other, also of the same run; see `take`."""
        holder = f"{who} ({secrets.token_hex(3)})"
        self.take(nic, holder, wait_s=wait_s, duration_s=duration_s)
        with self._lock:
            self._held[nic] = (holder, duration_s)
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(nic, None)
            try:
                self.give(nic, holder)
            except StuntimeError as error:
                _log.warning("nic.left", nic=nic, reason=error.reason, message=str(error))

    def take(self, nic: str, holder: str, *, wait_s: float, duration_s: float) -> None:
        """Take a NIC, or take it again if this holder has it; raise UnfitError when another one still has it then."""
        name, told = lease_name(nic), ""
        deadline = self._clock() + wait_s
        while (found := self._taken_by_another(name, holder, duration_s)) is not None:
            other = holder_of(found)
            if self._clock() >= deadline:
                raise UnfitError(
                    f"NIC {nic} is taken by {other}",
                    f"wait for it (--nic-wait; {_lasts_s(found):g} s where its holder is dead), name another one with"
                    f" --nic, or remove what a dead run left: {cleaning_up(found)}",
                    reason="nic-taken",
                )
            if other != told:
                told = str(other)
                _log.warning("nic.waiting", nic=nic, holder=other, at_most_s=round(wait_s))
            self._wait(found, deadline)

    def give(self, nic: str, holder: str) -> None:
        """Give a NIC back, if this holder has it."""
        try:
            self._give(self._api, lease_name(nic), holder)
        except InterruptedRunError:
            self._give(self._api.last_words(patience_s=LAST_PATIENCE_S), lease_name(nic), holder)

    def give_all(self, holder: str, but: Collection[str]) -> None:
        """Give back all NICs that this holder has, except some."""
        kept = set(map(lease_name, but))
        for lease in self._api.find(LEASE, labels=selector(OURS), namespace=self._namespace):
            if holder_of(lease) == holder and lease["metadata"]["name"] not in kept:
                self._give(self._api, lease["metadata"]["name"], holder)

    def require(self, nics: Collection[str], holder: str) -> None:
        """Raise UnfitError unless this process, or this holder, still has these NICs."""
        with self._lock:
            held = {nic: own for nic, (own, _) in self._held.items()}
        for nic in nics:
            found = self._api.get(LEASE, lease_name(nic), self._namespace)
            if holder_of(found) != held.get(nic, holder):
                raise UnfitError(
                    f"NIC {nic} was lost while it was waited for: {holder_of(found) or 'nobody'} has it now",
                    "start again",
                    reason="nic-lost",
                )

    def renew(self) -> None:
        """Renew the Leases of the NICs that are being held."""
        with self._lock:
            held = dict(self._held)
        for nic, (holder, duration_s) in held.items():
            while True:
                found = self._api.get(LEASE, lease_name(nic), self._namespace)
                with self._lock:
                    if nic not in self._held:
                        break
                try:
                    if found is None:
                        self._api.create(LEASE, self._body(lease_name(nic), holder, duration_s), self._namespace)
                    elif holder_of(found) == holder:
                        self._replace(found, holder, duration_s)
                    else:
                        _log.warning("nic.lost", nic=nic, holder=holder_of(found))
                    break
                except ConflictError:
                    pause(self._api)

    def _taken_by_another(self, name: str, holder: str, duration_s: float) -> Object | None:
        """Take a Lease that can be taken; otherwise return it."""
        while True:
            asked = self._clock()
            found = self._api.get(LEASE, name, self._namespace)
            self._note(found)
            try:
                if found is None:
                    made = self._api.create(LEASE, self._body(name, holder, duration_s), self._namespace)
                    if holder_of(made) == holder:
                        return None
                elif holder_of(found) is None:
                    self._api.delete(LEASE, name, self._namespace, uid=found["metadata"]["uid"])
                elif holder_of(found) == holder or self._death(found) <= asked:
                    self._replace(found, holder, duration_s)
                    return None
                else:
                    return found
            except ConflictError:
                pause(self._api)

    def _wait(self, found: Object, deadline: float) -> None:
        """Return when somebody else, or nobody, holds the Lease, when its holder is dead, or at the deadline."""
        name, holder = found["metadata"]["name"], holder_of(found)
        while self._clock() < (until := min(deadline, self._death(found))):
            for state in self._api.states(LEASE, until, name=name, namespace=self._namespace):
                if holder_of(state.get(name)) != holder:
                    return
                found = state[name]
                self._note(found)

    def _note(self, found: Object | None) -> None:
        if found is not None:
            self._seen.note(found["metadata"]["name"], found["metadata"]["resourceVersion"], self._clock())

    def _death(self, found: Object) -> float:
        metadata = found["metadata"]
        since = self._seen.since(metadata["name"], metadata["resourceVersion"], self._clock())
        return since + _lasts_s(found)

    def _body(self, name: str, holder: str, duration_s: float, before: Object | None = None) -> Object:
        labels = {RUN_LABEL: self._run, NAMESPACE_LABEL: self._api.namespace}
        return LEASE.object(name, labels=labels, spec=spec(holder, duration_s, before))

    def _replace(self, found: Object, holder: str, duration_s: float) -> None:
        body = self._body(found["metadata"]["name"], holder, duration_s, found.get("spec"))
        body["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
        self._api.replace(LEASE, body, self._namespace)

    def _give(self, api: Api, name: str, holder: str) -> None:
        if theirs := remove(api, name, self._namespace, lambda found: holder_of(found) == holder):
            _log.warning("nic.not-ours", lease=name, holder=holder_of(theirs))


def _lasts_s(found: Object) -> float:
    return float((found.get("spec") or {}).get("leaseDurationSeconds") or DURATION_S)


def lease_name(nic: str) -> str:
    """Return the name of a NIC's Lease; a NIC's name that no object can have is told apart by its digest."""
    slug = re.sub(r"[^a-z0-9]+", "-", nic.lower()).strip("-")
    return (
        f"stuntime-nic-{slug}" if slug == nic else f"stuntime-nic-{slug}-{hashlib.sha256(nic.encode()).hexdigest()[:6]}"
    )
