"""The quiet window of a cluster: a measurement is alone, whoever provisions or measures otherwise waits.

All parties of a cluster stand in one *line*, which is kept in one Lease (`stuntime-window`) and changed by nothing but
compare-and-swap on its resourceVersion. Who wants to go joins at the end. A provisioning goes when no measurement
stands ahead of it, a measurement when nobody does; to look whether one may go and to note that one goes is one swap. So
what goes on is always either provisionings or one measurement, and nobody is overtaken: whoever stands ahead ends or
dies.

Each process changes its entries every few seconds. Whoever is held up by an entry that has not changed for its duration
(60 s), as seen by the observer's own clock, strikes it out, by a swap again: against one that was renewed meanwhile it
fails. So a measurement was alone if its entry, under an id that is never used again, still stands when it is over: this
needs no clock, and no bound on anybody's delay. A holder that was struck out, or could not renew in time, raises
InvalidError (`window-lost`). One that still is at it comes back to the head of the line and marks the measurement that
it meets there, which raises InvalidError (`window-disturbed`). The one thing that nobody is told is what the processes
of others, stopped for longer than their duration, do before they notice.

One Lease, because Leases of their own cannot be put into an order that all agree on: a creationTimestamp is cut to
seconds, and comes from the clock of whichever API server was asked. Its spec names who goes now, for people. It stays
when the line is empty.
"""

import itertools
import math
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import structlog

from stuntime.errors import InvalidError, StuntimeError, TestbedError
from stuntime.kubevirt.api import Api, ConflictError, InterruptedRunError
from stuntime.kubevirt.kinds import LEASE, Object
from stuntime.kubevirt.leases import DURATION_S, LAST_PATIENCE_S, Clock, NicLeases, Seen, pause, spec

_log = structlog.get_logger()

NAME = "stuntime-window"
LINE = "stuntime.io/line"
_RENEWALS = 6
_SETTLING_S = 20.0

Side = Literal["measuring", "provisioning"]


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A party in the line. `beat` changes with each renewal; `going` is whether it waits no more.

    `disturbed` says by whom the measurement was.
    """

    id: str
    side: Side
    run: str
    who: str
    lasts_s: float
    beat: str
    going: bool = False
    disturbed: str = ""

    @property
    def told(self) -> str:
        """Who this is, for a person."""
        return f"{self.run}: {self.side} {self.who}"


@dataclass(frozen=True)
class Line:
    """Who goes and who waits, in their order. Every change returns a new line, and does nothing when done twice."""

    entries: tuple[Entry, ...] = ()

    def find(self, key: str) -> Entry | None:
        """Return an entry by its id."""
        return next((entry for entry in self.entries if entry.id == key), None)

    def ahead(self, key: str) -> tuple[Entry, ...]:
        """Return whom an entry has to wait for."""
        place = next((place for place, entry in enumerate(self.entries) if entry.id == key), 0)
        return tuple(other for other in self.entries[:place] if "measuring" in {other.side, self.entries[place].side})

    def joined(self, entry: Entry) -> "Line":
        """Put an entry at the end, unless it stands in the line."""
        return self if self.find(entry.id) else Line((*self.entries, entry))

    def begun(self, key: str) -> "Line":
        """Let an entry go, if it may."""
        if self.ahead(key):
            return self
        return self._changed(lambda entry: msgspec.structs.replace(entry, going=True) if entry.id == key else entry)

    def renewed(self, keys: Collection[str], beat: str) -> "Line":
        """Give entries a new beat."""
        return self._changed(lambda entry: msgspec.structs.replace(entry, beat=beat) if entry.id in keys else entry)

    def without(self, keys: Collection[str]) -> "Line":
        """Take entries out."""
        return Line(tuple(entry for entry in self.entries if entry.id not in keys))

    def intruded(self, intruder: Entry, spare: Collection[str] = ()) -> "Line":
        """Put one that goes, whoever else does, at the head; mark the measurement that it meets, unless spared."""
        if self.find(intruder.id):
            return self

        def met(entry: Entry) -> Entry:
            hurt = entry.side == "measuring" and entry.going and entry.id not in spare and not entry.disturbed
            return msgspec.structs.replace(entry, disturbed=intruder.told) if hurt else entry

        going = msgspec.structs.replace(intruder, side="provisioning", going=True)
        return Line((going, *self._changed(met).entries))

    def _changed(self, change: Callable[[Entry], Entry]) -> "Line":
        return Line(tuple(map(change, self.entries)))

    @property
    def holder(self) -> str | None:
        """Who goes now, for a person."""
        going = [entry.told for entry in self.entries if entry.going]
        return (going[0] + (f" and {len(going) - 1} more" if going[1:] else "")) if going else None


@dataclass(frozen=True)
class _Held:
    """An entry of this process. `renewed` is when it last was, as far as is known; `late`: a renewal came too late."""

    entry: Entry
    renewed: float
    going: bool = False
    late: bool = False


class Window:
    """The window of a cluster, as one process sees it. Any thread may use it."""

    def __init__(
        self,
        api: Api,
        *,
        namespace: str,
        run: str,
        duration_s: float = DURATION_S,
        clock: Clock = time.monotonic,
    ) -> None:
        """Remember where the Leases are; nothing is asked yet."""
        self._api = api
        self._namespace = namespace
        self._run = run
        self._duration_s = duration_s
        self._clock = clock
        self._nics = NicLeases(api, namespace=namespace, run=run, clock=clock)
        self._seen = Seen()
        self._id = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()
        self._renewer: threading.Thread | None = None

    @contextmanager
    def measuring(self, who: str) -> Iterator[None]:
        """Be alone: wait until nobody measures, or provisions, any more.

        Raise InvalidError at the end when this was not kept, unless the body failed anyway.
        """
        mine = self._entered("measuring", who)
        try:
            yield
        except BaseException:
            self._left(mine)
            raise
        self._judge(mine)

    @contextmanager
    def provisioning(self, who: str, *, wait_s: float = math.inf) -> Iterator[None]:
        """Hold off measurements; wait until the one that goes on, and those that came before us, are over.

        After `wait_s` go, whoever does, and mark the measurement that is met: for what cannot be left undone.
        """
        mine = self._entered("provisioning", who, wait_s)
        try:
            yield
        finally:
            self._left(mine)

    def disturb(self, who: str) -> None:
        """Mark a measurement of somebody else that goes on now, and hold off others while what we left settles.

        This is the tear-down after a signal: it waits for nobody, and also works when the run was told to stop.
        """
        mark = msgspec.structs.replace(self._entry("provisioning", f"tear-down of {who}"), lasts_s=_SETTLING_S)
        with self._lock:
            ours = set(self._held)
        last = self._api.last_words(patience_s=LAST_PATIENCE_S)
        line = self._update(lambda line: line.intruded(mark, spare=ours), last)
        for entry in line.entries:
            if entry.disturbed == mark.told:
                _log.warning("window.disturbed", measurement=entry.told)

    @contextmanager
    def nic(self, nic: str, who: str, *, wait_s: float) -> Iterator[None]:
        """Hold a NIC, so that no other process takes it; raise UnfitError when somebody else still has it then."""
        with self._nics.holding(nic, who, wait_s=wait_s, duration_s=self._duration_s):
            self._keep_renewing()
            yield

    def take_nic(self, nic: str, who: str, *, duration_s: float, wait_s: float = 0.0) -> None:
        """Take a NIC for longer than this process lives; whoever has the same name may take it again."""
        self._nics.take(nic, who, wait_s=wait_s, duration_s=duration_s)

    def give_nics(self, who: str, *, but: Collection[str] = ()) -> None:
        """Give back the NICs that were taken under this name, except some; those of somebody else stay theirs."""
        self._nics.give_all(who, but)

    def require_nics(self, nics: Collection[str], who: str) -> None:
        """Raise UnfitError unless NICs that were taken, or are held, still are ours: we may have seemed dead."""
        self._nics.require(nics, who)

    def renew(self) -> None:
        """Renew all that this process has in the line, and its NICs; come back where we were struck out."""
        try:
            self._renew_line()
        finally:
            self._nics.renew()

    def _renew_line(self) -> None:
        with self._lock:
            if not self._held:
                return
        beat = self._beat()
        self._update(lambda line: self._renewed(line, beat))
        now = self._clock()
        with self._lock:
            for key, held in self._held.items():
                late = held.late or now - held.renewed > self._duration_s
                self._held[key] = replace(held, renewed=now, late=late)

    def _renewed(self, line: Line, beat: str) -> Line:
        with self._lock:  # as it is now, after the line was read: who has left meanwhile does not come back
            ours = dict(self._held)
        new = line.renewed(ours, beat)
        for key, held in ours.items():
            if held.going and line.find(key) is None:
                _log.warning("window.lost", who=held.entry.told)
                new = new.intruded(msgspec.structs.replace(held.entry, beat=beat))
        return new

    def _entered(self, side: Side, who: str, wait_s: float = math.inf) -> Entry:
        mine = self._entry(side, who)
        with self._lock:
            self._held[mine.id] = _Held(mine, self._clock())
        self._keep_renewing()
        try:
            self._enter(mine, self._clock() + wait_s)
        except BaseException:
            self._left(mine)
            raise
        return mine

    def _enter(self, mine: Entry, deadline: float) -> None:
        told: set[str] = set()
        while True:
            line = self._update(lambda line: self._stepped(line, mine, deadline))
            found = line.find(mine.id)
            if found is not None and found.going:
                with self._lock:
                    self._held[mine.id] = _Held(mine, self._clock(), going=True)
                return
            told = self._say(mine, line, told)
            told = self._wait(mine, line, told, deadline)

    def _stepped(self, line: Line, mine: Entry, deadline: float) -> Line:
        """Let an entry join and go, if it may; at its deadline it does, whoever else goes."""
        if self._clock() < deadline:
            return line.joined(self._fresh(mine)).begun(mine.id)
        return line.without({mine.id}).intruded(self._fresh(mine))

    def _wait(self, mine: Entry, line: Line, told: set[str], deadline: float) -> set[str]:
        """Return when it may be our turn, we were struck out, somebody ahead is dead, or at the deadline."""
        now = self._clock()
        until = min(deadline, *(self._death(entry, now) for entry in line.ahead(mine.id)))
        for state in self._api.states(LEASE, until, name=NAME, namespace=self._namespace):
            line = _read(state.get(NAME))
            self._note(line)
            if not line.ahead(mine.id):
                break
            told = self._say(mine, line, told)
        return told

    def _say(self, mine: Entry, line: Line, told: set[str]) -> set[str]:
        ahead = line.ahead(mine.id)
        names = [entry.told for entry in ahead]
        if set(names) != told and names:
            others = any(entry.run != self._run for entry in ahead)
            (_log.warning if others else _log.info)("window.waiting", who=mine.told, waits_for=names)
        return set(names)

    def _judge(self, mine: Entry) -> None:
        """Leave; raise InvalidError when the measurement was not alone, or this cannot be known."""
        again = "measure again"
        try:
            found, late = self._leave(mine)
        except StuntimeError as error:
            raise InvalidError(
                f"whether the quiet window was kept cannot be known: {error}", again, reason="window-lost"
            ) from error
        if found is None or found.side != mine.side or late:
            raise InvalidError(
                f"the quiet window was lost: its Lease was not renewed for {self._duration_s:g} s, or was removed",
                again,
                reason="window-lost",
            )
        if found.disturbed:
            raise InvalidError(f"{found.disturbed} went on during the measurement", again, reason="window-disturbed")

    def _left(self, mine: Entry) -> None:
        """Leave; where that fails the entry is struck out by whoever it holds up."""
        try:
            self._leave(mine)
        except StuntimeError as error:
            _log.warning("window.left", who=mine.told, reason=error.reason, message=str(error))

    def _leave(self, mine: Entry) -> tuple[Entry | None, bool]:
        """Take our entry out; return what it was when the body was over, and whether a renewal came too late."""
        found: list[Entry | None] = []

        def gone(line: Line) -> Line:
            found.append(line.find(mine.id))
            return line.without({mine.id})

        with self._lock:
            held = replace(self._held[mine.id], going=False)
            self._held[mine.id] = held
        late = held.late or self._clock() - held.renewed > self._duration_s
        try:
            try:
                self._update(gone)
            except InterruptedRunError:
                self._update(gone, self._api.last_words(patience_s=LAST_PATIENCE_S))
        finally:
            with self._lock:
                del self._held[mine.id]
        return found[0], late

    def _update(self, change: Callable[[Line], Line], api: Api | None = None) -> Line:
        """Change the line, and strike out who is dead, by one swap."""
        api = api or self._api
        while True:
            asked = self._clock()
            lease = api.get(LEASE, NAME, self._namespace)
            line = _read(lease)
            self._note(line)
            dead = self._dead(line, asked)
            new = change(line.without(dead))
            if new == line:
                return line
            try:
                if lease is None:
                    if _read(api.create(LEASE, _lease(new, self._duration_s), self._namespace)) != new:
                        continue  # it is somebody else's
                else:
                    api.replace(LEASE, _lease(new, self._duration_s, lease), self._namespace)
            except ConflictError:
                pause(api)
                continue
            for entry in line.entries:
                if entry.id in dead:
                    _log.warning("window.freed", dead=entry.told)
            return new

    def _note(self, line: Line) -> None:
        now = self._clock()
        for entry in line.entries:
            self._seen.note(entry.id, entry.beat, now)

    def _dead(self, line: Line, now: float) -> set[str]:
        with self._lock:
            ours = set(self._held)
        return {entry.id for entry in line.entries if entry.id not in ours and self._death(entry, now) <= now}

    def _death(self, entry: Entry, now: float) -> float:
        return self._seen.since(entry.id, entry.beat, now) + entry.lasts_s

    def _entry(self, side: Side, who: str) -> Entry:
        beat = self._beat()
        return Entry(id=beat, side=side, run=self._run, who=who, lasts_s=self._duration_s, beat=beat)

    def _fresh(self, entry: Entry) -> Entry:
        return msgspec.structs.replace(entry, beat=self._beat())

    def _beat(self) -> str:
        """Return what nobody has said before."""
        return f"{self._id}-{next(self._numbers)}"

    def _keep_renewing(self) -> None:
        with self._lock:
            if self._renewer is None or not self._renewer.is_alive():
                self._renewer = threading.Thread(target=self._renew_on, name="window-renewal", daemon=True)
                self._renewer.start()

    def _renew_on(self) -> None:
        """Renew until there is nothing to renew, or the run has to end."""
        while True:
            try:
                self._api.pause(self._duration_s / _RENEWALS)
                with self._lock:
                    if not self._held and not self._nics.held:
                        self._renewer = None
                        return
                self.renew()
            except InterruptedRunError:
                return
            except StuntimeError as error:
                _log.warning("window.not-renewed", reason=error.reason, message=str(error))


def _read(lease: Object | None) -> Line:
    told: Mapping[str, str] = ((lease or {}).get("metadata") or {}).get("annotations") or {}
    try:
        return Line(tuple(msgspec.json.decode(told.get(LINE, "[]"), type=list[Entry])))
    except msgspec.DecodeError as error:
        raise TestbedError(
            f"the annotation {LINE} of Lease {NAME} cannot be read: {error}",
            f"delete the Lease {NAME} when nobody measures",
            reason="window-unreadable",
        ) from error


def _lease(line: Line, duration_s: float, before: Object | None = None) -> Object:
    """Return the Lease that keeps a line: `before`, changed."""
    lease = LEASE.object(NAME, spec=spec(line.holder, duration_s, (before or {}).get("spec")))
    if before is not None:
        lease["metadata"] = {**before["metadata"]}
    told = {**(lease["metadata"].get("annotations") or {}), LINE: msgspec.json.encode(line.entries).decode()}
    lease["metadata"]["annotations"] = told
    return lease
