"""At most as many scenarios of a run hold VMs as there are slots, whoever dies."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from stuntime.kubevirt import api as api_module
from stuntime.kubevirt.api import Api, InterruptedRunError
from stuntime.kubevirt.kinds import LEASE
from stuntime.kubevirt.slots import Slots
from tests.unit.kubeapi.server import FakeServer


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "_PAUSE_S", 0.02)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(namespaces=["ns", "stuntime"]) as fake:
        yield fake


def slots(api: Api, limit: int = 2, duration_s: float = 0.8, run: str = "run") -> Slots:
    return Slots(api, namespace="stuntime", run=run, limit=limit, duration_s=duration_s)


def leases(server: FakeServer) -> list[str]:
    return sorted(one["metadata"]["name"] for one in server.api().find(LEASE, namespace="stuntime"))


def test_no_more_than_the_limit_hold_one(server: FakeServer):
    """However many processes want a slot at the same moment, never more than the limit hold one, and all get one."""
    lock, holding, most, done = threading.Lock(), [0], [0], [0]

    def process(number: int) -> None:
        with slots(server.api("ns"), limit=3).holding(f"scenario {number}"):
            with lock:
                holding[0] += 1
                most[0] = max(most[0], holding[0])
            time.sleep(0.05)
            with lock:
                holding[0] -= 1
                done[0] += 1

    threads = [threading.Thread(target=process, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (most[0], done[0]) == (3, 10)
    assert leases(server) == []


def test_a_slot_is_held_longer_than_its_lease(server: FakeServer):
    """A holder that lives renews its slot, so that nobody takes it over however long it holds it."""
    with slots(server.api("ns"), limit=1).holding("first"):
        waiting = server.api("ns")
        threading.Timer(2.5, waiting.stop).start()
        with pytest.raises(InterruptedRunError), slots(waiting, limit=1).holding("second"):
            pass
    assert leases(server) == []


def test_the_slot_of_a_dead_holder_frees_itself(server: FakeServer):
    """A slot whose holder renews it no more is taken over after its duration, and not before."""
    dead = slots(server.api("ns"), limit=1)
    assert dead._take("dead") == "stuntime-slot-ns.run-0"
    began = time.monotonic()
    with slots(server.api("ns"), limit=1).holding("heir"):
        assert time.monotonic() - began >= 0.8


def test_runs_have_slots_of_their_own(server: FakeServer):
    """Two runs do not wait for each other's slots."""
    with ExitStack() as stack:
        for run in ("one", "two"):
            stack.enter_context(slots(server.api("ns"), limit=1, run=run).holding("scenario"))
        assert leases(server) == ["stuntime-slot-ns.one-0", "stuntime-slot-ns.two-0"]


def test_a_run_that_is_stopped_gives_its_slot_back(server: FakeServer):
    """A slot is free at once when its holder was told to stop."""
    api = server.api("ns")
    with slots(api, limit=1).holding("first"):
        api.stop()
    assert leases(server) == []


def test_a_holder_that_lost_its_slot_takes_nobody_elses(server: FakeServer):
    """Whoever was taken for dead leaves the slot to the one that has it now."""
    api = server.api("ns")
    with slots(api, limit=1, duration_s=60.0).holding("first"):
        found = api.get(LEASE, "stuntime-slot-ns.run-0", "stuntime")
        assert found is not None
        found["spec"]["holderIdentity"] = "somebody else"
        api.replace(LEASE, found, "stuntime")
    assert leases(server) == ["stuntime-slot-ns.run-0"]
