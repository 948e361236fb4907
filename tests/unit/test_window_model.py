"""The quiet window in a world where somebody else chooses who takes the next step, who dies, and how late all are.

The windows are the real ones. Their API is a store that is asked by one thread at a time: each waits for its turn
before each call, so that a schedule decides the interleaving, the passing of time and the crashes.
"""

import copy
import itertools
import math
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stuntime.errors import InvalidError
from stuntime.kubevirt.api import ConflictError, InterruptedRunError
from stuntime.kubevirt.kinds import LEASE, Kind, Object
from stuntime.kubevirt.window import NAME, Entry, Line, Window, _read

_DURATION_S = 60.0
_PERIOD_S = 10.0
_TICK_S = 7.0
_PATIENCE_S = 15.0
_SIDES = {"measuring": "measuring", "provisioning": "provisioning", "impatient": "provisioning"}
_ENDLESS = 1500


class CrashError(BaseException):
    """The process of this thread is dead."""


class Store:
    """Objects that are linearizable: one call at a time, each of them whole. `compares` is its optimistic locking."""

    def __init__(self, *, compares: bool = True) -> None:
        self.objects: dict[str, Object] = {}
        self.version = 0
        self.compares = compares

    def get(self, name: str) -> Object | None:
        return copy.deepcopy(self.objects.get(name))

    def create(self, body: Object) -> Object:
        if body["metadata"]["name"] in self.objects:
            raise ConflictError("it exists", "", 409)
        return self._put(body, f"uid-{self.version}")

    def replace(self, body: Object) -> Object:
        known = self.objects.get(body["metadata"]["name"])
        if known is None or (
            self.compares and known["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]
        ):
            raise ConflictError("it has changed", "", 409)
        return self._put(body, known["metadata"]["uid"])

    def delete(self, name: str, uid: str | None) -> bool:
        if name not in self.objects:
            return False
        if uid not in {None, self.objects[name]["metadata"]["uid"]}:
            raise ConflictError("it is another one", "", 409)
        self.version += 1
        del self.objects[name]
        return True

    def _put(self, body: Object, uid: str) -> Object:
        self.version += 1
        body = copy.deepcopy(body)
        body["metadata"] |= {"resourceVersion": str(self.version), "uid": uid}
        self.objects[body["metadata"]["name"]] = body
        return copy.deepcopy(body)


class FakeApi:
    """The calls of `Api` that a window makes. Without a schedule, waiting jumps in time."""

    namespace = "ns"

    def __init__(self, world: "World", *, stopped: bool = False) -> None:
        self.world = world
        self.stopped = stopped
        self.away: Exception | None = None

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        self._turn(kind, namespace)
        return self.world.store.get(name)

    def find(self, kind: Kind, *, labels: str = "", namespace: str | None = None) -> list[Object]:
        self._turn(kind, namespace)
        return copy.deepcopy(list(self.world.store.objects.values()))

    def create(self, kind: Kind, body: Object, namespace: str | None = None) -> Object:
        self._turn(kind, namespace)
        return self.world.store.create(body)

    def replace(self, kind: Kind, body: Object, namespace: str | None = None) -> Object:
        self._turn(kind, namespace)
        made = self.world.store.replace(body)
        if self.world.doubts():
            raise ConflictError("the answer was lost, and the second try conflicts with the first", "", 409)
        return made

    def delete(self, kind: Kind, name: str, namespace: str | None = None, *, uid: str | None = None) -> bool:
        self._turn(kind, namespace)
        return self.world.store.delete(name, uid)

    def states(
        self, kind: Kind, deadline: float, *, name: str = "", namespace: str | None = None
    ) -> Iterator[Mapping[str, Object]]:
        world = self.world
        while world.now < deadline:
            self._turn(kind, namespace)
            seen, found = world.store.version, world.store.get(name)
            yield {} if found is None else {name: found}
            if world.scheduled:
                world.turn(lambda seen=seen: world.store.version != seen or world.now >= deadline)
            else:
                world.pass_time(deadline)

    def pause(self, seconds: float) -> None:
        self.world.turn()
        self._refuse()

    def last_words(self, *, patience_s: float) -> "FakeApi":
        return FakeApi(self.world)

    def _turn(self, kind: Kind, namespace: str | None) -> None:
        assert (kind, namespace) == (LEASE, "everybody")
        self.world.turn()
        self._refuse()

    def _refuse(self) -> None:
        if self.away:
            raise self.away
        if self.stopped:
            raise InterruptedRunError("the run was interrupted", "measure again")


@dataclass
class Actor:
    """A thread that waits for its turn."""

    run: Callable[[], None]
    process: "Process"
    ready: Callable[[], bool] = lambda: True
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    came_back: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    over: bool = False
    error: BaseException | None = None
    thread: threading.Thread | None = None

    def step(self) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self._main)
            self.thread.start()
        else:
            self.go.release()
        self.came_back.acquire()

    def _main(self) -> None:
        self.process.world.current.actor = self
        try:
            self.run()
        except CrashError:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised where the world is judged
            self.error = error
        self.over = True
        self.came_back.release()


@dataclass
class Activity:
    """What was asked for: `lost` once its entry was struck out, `invalid` when it was told so.

    Who is `impatient` goes after a while, whoever else does.
    """

    side: str
    who: str
    process: "Process"
    began: int | None = None
    ended: int | None = None
    impatient: bool = False
    lost: bool = False
    hurt: bool = False
    invalid: str = ""

    @property
    def going(self) -> bool:
        return self.began is not None and self.ended is None

    def overlaps(self, other: "Activity", end: int) -> bool:
        if self.began is None or other.began is None:
            return False
        return max(self.began, other.began) < min(self.ended or end, other.ended or end)


class World:
    """A store, a clock, and processes that do one step after another, as they are told."""

    def __init__(self, *, body: int = 1, compares: bool = True, window: type[Window] = Window) -> None:
        self.store = Store(compares=compares)
        self.body = body
        self.now = 1000.0
        self.steps = 0
        self.scheduled = False
        self.processes: list[Process] = []
        self.activities: list[Activity] = []
        self.joined: dict[str, int] = {}
        self.gone: set[str] = set()
        self.current = threading.local()
        self.window = window
        self.doubts: Callable[[], bool] = lambda: False

    def turn(self, ready: Callable[[], bool] = lambda: True) -> None:
        """Wait until it is this thread's turn again."""
        actor = getattr(self.current, "actor", None)
        if actor is None:
            return
        actor.ready = ready
        actor.came_back.release()
        actor.go.acquire()
        if actor.process.dead:
            raise CrashError

    def pass_time(self, until: float) -> None:
        self.now = max(self.now, until)

    def enabled(self) -> list[Actor]:
        alive = [actor for process in self.processes if not process.dead for actor in process.actors]
        return [actor for actor in alive if not actor.over and actor.ready()]

    def step(self, actor: Actor) -> None:
        actor.step()
        self.steps += 1
        self.look()

    def look(self) -> None:
        """Compare what goes on with the line, after each step."""
        line = self.line()
        known = self.joined
        self.joined = {entry.who: known.get(entry.who, self.steps) for entry in line.entries}
        for entry in line.entries:
            if entry.going and entry.who not in self.gone:
                self.gone.add(entry.who)
                passed = [one.who for one in line.ahead(entry.id) if not one.going]
                passed += [one.who for one in line.entries if self._was_overtaken(one, entry)]
                impatient = any(one.impatient for one in self.activities if one.who == entry.who)
                assert impatient or not passed, f"{entry.who} overtook {passed}"
        going = [activity for activity in self.activities if activity.going]
        standing = []
        for activity in going:
            entry = next((one for one in line.entries if one.going and one.who == activity.who), None)
            activity.lost |= entry is None or entry.side != activity.side
            if entry is not None and entry.side == activity.side:
                activity.hurt |= bool(entry.disturbed)
                standing.append(activity)
        for one, other in itertools.combinations(standing, 2):
            measuring = [each for each in (one, other) if each.side == "measuring"]
            assert not measuring or any(each.hurt for each in measuring), f"{one.who} and {other.who} both go on"

    def _was_overtaken(self, waiting: Entry, by: Entry) -> bool:
        conflict = "measuring" in {waiting.side, by.side}
        return not waiting.going and conflict and self.joined[waiting.who] < self.joined[by.who]

    def line(self) -> Line:
        return _read(self.store.get(NAME))

    def judge(self, *, punctual: bool) -> None:
        """See that no measurement that counts met another one, or a provisioning that had not been struck out."""
        for process in self.processes:
            for actor in process.actors:
                if actor.error is not None:
                    raise actor.error
        valid = [one for one in self.activities if one.side == "measuring" and one.ended and not one.invalid]
        valid = [one for one in valid if not one.process.dead]
        for one in valid:
            assert not one.lost, f"{one.who} does not know that it was struck out"
            assert not one.hurt, f"{one.who} does not know that it was disturbed"
            for other in self.activities:
                excused = other.lost or (other.side == "measuring" and other not in valid)
                assert other is one or excused or not one.overlaps(other, self.steps + 1), f"{one.who}, {other.who}"
        if punctual:
            impatient = any(one.impatient for one in self.activities)
            told = {"", "window-disturbed"} if impatient else {""}
            lost = [one.who for one in self.activities if one.lost or one.invalid not in told]
            assert not lost, f"{lost} were in time, and were struck out"

    def finish(self) -> None:
        """Give everybody a turn, again and again; nobody who lives may wait for ever."""
        for _ in range(_ENDLESS):
            if all(actor.over for one in self.processes if not one.dead for actor in one.workers):
                return
            enabled = self.enabled()
            for actor in enabled:
                self.step(actor)
            if not enabled:
                self.now += _PERIOD_S / 2
        waiting = [one.who for one in self.activities if not one.ended and not one.process.dead]
        raise AssertionError(f"{waiting} wait for ever behind {self.line()}")

    def close(self) -> None:
        for process in self.processes:
            process.dead = True
            for actor in process.actors:
                while actor.thread is not None and not actor.over:
                    actor.step()
                if actor.thread is not None:
                    actor.thread.join()


class Process:
    """A process with a window: threads that do what is asked for, and one that renews."""

    def __init__(self, world: World, number: int, plans: list[list[str]], *, renews: bool = True) -> None:
        self.world = world
        self.number = number
        self.dead = False
        self.renewed = world.now
        self.api = FakeApi(world)
        self.window = _window(world, self.api, f"run-{number}")
        self.workers = [Actor(self._worker(plan, thread), self) for thread, plan in enumerate(plans)]
        self.actors = [*self.workers, *([Actor(self._renewer, self)] if renews else [])]
        world.processes.append(self)

    def _worker(self, plan: list[str], thread: int) -> Callable[[], None]:
        activities = [
            Activity(_SIDES[side], f"{self.number}.{thread}.{count}", self, impatient=side == "impatient")
            for count, side in enumerate(plan)
        ]
        self.world.activities += activities

        def work() -> None:
            for activity in activities:
                if activity.side == "measuring":
                    held = self.window.measuring(activity.who)
                else:
                    patience_s = _PATIENCE_S if activity.impatient else math.inf
                    held = self.window.provisioning(activity.who, wait_s=patience_s)
                try:
                    with held:
                        activity.began = self.world.steps
                        for _ in range(self.world.body):
                            self.world.turn()
                        activity.ended = self.world.steps + 1
                except InvalidError as error:
                    activity.invalid = error.reason

        return work

    def _renewer(self) -> None:
        while True:
            due = self.world.now + _PERIOD_S
            self.world.turn(lambda due=due: self.world.now >= due)
            began = self.world.now
            self.window.renew()
            self.renewed = began

    def crash(self) -> None:
        self.dead = True
        for activity in self.world.activities:
            if activity.process is self and activity.going:
                activity.ended = self.world.steps


def _window(world: World, api: FakeApi, run: str) -> Window:
    class Stepped(world.window):  # type: ignore[name-defined, misc]
        """A window whose renewals are steps, too."""

        def _keep_renewing(self) -> None:
            pass

    return Stepped(api, namespace="everybody", run=run, duration_s=_DURATION_S, clock=lambda: world.now)


@pytest.fixture(autouse=True, scope="module")
def silence() -> Iterator[None]:
    """Thousands of windows have much to say."""
    with structlog.testing.capture_logs():
        yield


_plans = st.lists(
    st.lists(st.lists(st.sampled_from(sorted(_SIDES)), min_size=1, max_size=2), min_size=1, max_size=2),
    min_size=2,
    max_size=3,
)
_seeds = st.integers(0, 2**64 - 1)
_often = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
_STEPS = 250


def play(plans: list[list[list[str]]], seed: int, *, punctual: bool, **worlds: Any) -> World:
    """Let chance decide many steps, then give everybody a turn until all are done.

    Some processes are slower than others, some die, some answers of the server are lost. Who is punctual renews before
    the duration is over.
    """
    chance = random.Random(seed)
    world = World(body=chance.choice([1, 3, 10]), **worlds)
    world.scheduled = True
    try:
        for number, process in enumerate(plans):
            Process(world, number, process)
        slowness = [chance.choice([1.0, 0.3, 0.03]) for _ in plans]
        lost = chance.choice([0.0, 0.0, 0.2])
        world.doubts = lambda: chance.random() < lost
        crashes, ticks = chance.choice([0.0, 0.01]), chance.choice([0.02, 0.1, 0.3])
        for _ in range(_STEPS):
            alive = [process for process in world.processes if not process.dead]
            if len(alive) > 1 and chance.random() < crashes:
                chance.choice(alive).crash()
            elif chance.random() < ticks:
                step_s = _TICK_S if punctual else 4 * _TICK_S
                oldest = min(process.renewed for process in alive)
                if not punctual or world.now + step_s - oldest < _DURATION_S:
                    world.now += step_s
            elif enabled := world.enabled():
                world.step(chance.choices(enabled, [slowness[actor.process.number] for actor in enabled])[0])
        world.finish()
        world.judge(punctual=punctual)
    finally:
        world.close()
    return world


@given(_plans, _seeds)
@_often
def test_who_is_in_time_is_alone_and_valid(plans, seed) -> None:
    """With any crash, and any delay short of the duration, nothing overlaps, nothing is lost, nobody starves."""
    play(plans, seed, punctual=True)


@given(_plans, _seeds)
@_often
def test_who_is_late_does_not_count(plans, seed) -> None:
    """With any delay at all, a measurement that is not told otherwise was alone."""
    play(plans, seed, punctual=False)


def explore(plans: list[list[list[str]]], **worlds: Any) -> int:
    """Play every interleaving of processes that do not renew; return how many there are."""
    prefix: list[int] = []
    for count in itertools.count(1):
        world = World(**worlds)
        world.scheduled = True
        widths: list[int] = []
        try:
            for number, process in enumerate(plans):
                Process(world, number, process, renews=False)
            while enabled := world.enabled():
                choice = prefix[len(widths)] if len(widths) < len(prefix) else 0
                prefix[len(widths) :] = [choice, *prefix[len(widths) + 1 :]]
                widths.append(len(enabled))
                world.step(enabled[choice])
            assert all(actor.over for process in world.processes for actor in process.actors), "they wait for ever"
            world.judge(punctual=True)
        finally:
            world.close()
        while prefix and prefix[-1] + 1 == widths[len(prefix) - 1]:
            prefix.pop()
        if not prefix:
            return count
        prefix[-1] += 1
    raise AssertionError


@pytest.mark.parametrize("sides", [("measuring", "measuring"), ("measuring", "provisioning")])
def test_no_interleaving_of_two_overlaps(sides) -> None:
    """Every order in which the calls of two processes can come is tried."""
    assert explore([[[side]] for side in sides]) > 500


class LooksFirst(Window):
    """A mutant: whether it may go was looked up before it joins, not in the same swap."""

    def _enter(self, mine: Entry, deadline: float) -> None:
        looked = _read(self._api.get(LEASE, NAME, self._namespace)).joined(mine)
        if looked.ahead(mine.id):
            super()._enter(mine, deadline)
            return
        going = msgspec.structs.replace(mine, going=True)
        self._update(lambda line: line.joined(going))


class Overtakes(Window):
    """A mutant: a provisioning goes before a measurement that only waits."""

    def _enter(self, mine: Entry, deadline: float) -> None:
        def rushed(line: Line) -> Line:
            calm = not any(entry.going and entry.side == "measuring" for entry in line.entries)
            return line.intruded(self._fresh(mine)) if calm and mine.side == "provisioning" else line

        self._update(rushed)
        super()._enter(mine, deadline)


class Hasty(Window):
    """A mutant: it takes for dead who has only not renewed yet."""

    def _death(self, entry: Entry, now: float) -> float:
        return super()._death(entry, now) - _DURATION_S + _PERIOD_S / 2


class Patient(Window):
    """A mutant: nobody is ever dead."""

    def _dead(self, line: Line, now: float) -> set[str]:
        return set()


class Trusting(Window):
    """A mutant: a measurement is valid, whatever has become of its entry."""

    def _judge(self, mine: Entry) -> None:
        self._left(mine)


def test_the_model_finds_the_overlap_when_the_announcement_comes_after_the_look() -> None:
    """Looking first lets two go that did not see each other."""
    with pytest.raises(AssertionError, match="both go on"):
        explore([[["measuring"]], [["provisioning"]]], window=LooksFirst)


def test_the_model_finds_the_overlap_when_writes_do_not_compare() -> None:
    """Without the comparison of versions one party's entry is overwritten by the other's."""
    with pytest.raises((AssertionError, InvalidError)):
        explore([[["measuring"]], [["provisioning"]]], compares=False)


@pytest.mark.parametrize(
    ("mutant", "punctual", "found"),
    [
        (LooksFirst, True, "both go on|overtook"),
        (Overtakes, True, "overtook"),
        (Hasty, True, "were in time, and were struck out"),
        (Patient, True, "wait for ever"),
        (Trusting, False, "does not know"),
    ],
)
def test_chance_finds_what_is_wrong_with_a_mutant(mutant, punctual, found) -> None:
    """The model can fail: each mutant of the protocol is found out by what the model asserts."""

    @given(_plans, _seeds)
    @settings(_often, derandomize=True, max_examples=1000, phases=[Phase.generate], report_multiple_bugs=False)
    def played(plans, seed) -> None:
        play(plans, seed, punctual=punctual, window=mutant)

    with pytest.raises(AssertionError, match=found):
        played()
