"""How many scenarios of a run hold VMs at once, where each has a process of its own: as many as there are slots.

A slot is a Lease. It is taken by creating it, or over from a holder that has not renewed it for its duration, as seen
here; a process that dies leaves one that frees itself.
"""

import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog

from stuntime.errors import StuntimeError
from stuntime.kubevirt.api import Api, ConflictError
from stuntime.kubevirt.kinds import LEASE, NAMESPACE_LABEL, OURS, RUN_LABEL, Object, selector
from stuntime.kubevirt.leases import DURATION_S, LAST_PATIENCE_S, Seen, holder_of, spec

_log = structlog.get_logger()

_RENEWALS = 4
_LABEL = "stuntime.io/slot"


class Slots:
    """The slots of a run: `limit` of them."""

    def __init__(self, api: Api, *, namespace: str, run: str, limit: int, duration_s: float = DURATION_S) -> None:
        """Remember where the Leases are; nothing is asked yet."""
        self._api = api
        self._namespace = namespace
        self._run = run
        self._labels = {RUN_LABEL: run, NAMESPACE_LABEL: api.namespace, _LABEL: "true"}
        self._limit = limit
        self._duration_s = duration_s
        self._seen = Seen()

    @contextmanager
    def holding(self, who: str) -> Iterator[None]:
        """Hold a slot; wait for one first, saying for whom."""
        holder = f"{who} ({secrets.token_hex(3)})"
        name = self._take(holder)
        _log.info("slot.taken", slot=name, holder=holder)
        over = threading.Event()
        renewer = threading.Thread(target=self._renew_on, args=(name, holder, over), name="slot-renewal", daemon=True)
        renewer.start()
        try:
            yield
        finally:
            over.set()
            renewer.join()
            self._give(name, holder)

    def _take(self, holder: str) -> str:
        labels = selector({**OURS, **self._labels})
        told: set[str] = set()
        while True:
            until = time.monotonic() + self._duration_s / _RENEWALS
            for state in self._api.states(LEASE, until, labels=labels, namespace=self._namespace):
                if (name := self._taken(state, holder)) is not None:
                    return name
                others = {str(holder_of(lease)) for lease in state.values()}
                if others - told:
                    _log.info("slot.waiting", holder=holder, waits_for=sorted(others))
                    told = others

    def _taken(self, state: Mapping[str, Object], holder: str) -> str | None:
        """Take the first slot that can be taken; return its name, or None when all are held."""
        for number in range(self._limit):
            name = f"stuntime-slot-{self._api.namespace}.{self._run}-{number}"
            found = state.get(name)
            if found is not None and not self._dead(found):
                continue
            try:
                if found is None:
                    made = self._api.create(LEASE, self._body(name, holder), self._namespace)
                    if holder_of(made) != holder:
                        continue
                else:
                    self._api.replace(LEASE, self._body(name, holder, found), self._namespace)
                    _log.warning("slot.freed", slot=name, dead=holder_of(found))
            except ConflictError:
                continue
            return name
        return None

    def _dead(self, lease: Object) -> bool:
        metadata, now = lease["metadata"], time.monotonic()
        self._seen.note(metadata["name"], metadata["resourceVersion"], now)
        return now - self._seen.since(metadata["name"], metadata["resourceVersion"], now) > self._duration_s

    def _renew_on(self, name: str, holder: str, over: threading.Event) -> None:
        while not over.wait(self._duration_s / _RENEWALS):
            try:
                found = self._api.get(LEASE, name, self._namespace)
                if found is None or holder_of(found) != holder:
                    _log.warning("slot.lost", slot=name, holder=holder_of(found))
                    return
                self._api.replace(LEASE, self._body(name, holder, found), self._namespace)
            except StuntimeError as error:
                _log.warning("slot.not-renewed", slot=name, reason=error.reason, message=str(error))

    def _give(self, name: str, holder: str) -> None:
        api = self._api.lasting(patience_s=LAST_PATIENCE_S)
        try:
            found = api.get(LEASE, name, self._namespace)
            if found is not None and holder_of(found) == holder:
                api.delete(LEASE, name, self._namespace, uid=found["metadata"]["uid"])
        except StuntimeError as error:  # it frees itself
            _log.warning("slot.left", slot=name, reason=error.reason, message=str(error))

    def _body(self, name: str, holder: str, before: Object | None = None) -> Object:
        kept = (before or {}).get("spec")
        body = LEASE.object(name, labels=self._labels, spec=spec(holder, self._duration_s, kept))
        if before is not None:
            body["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
        return body
