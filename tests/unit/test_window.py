"""What one window does: renewing, losing, being disturbed, waiting aloud; and the Leases of NICs."""

import threading
import time
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from stuntime.errors import InvalidError, TestbedError, UnfitError
from stuntime.kubevirt.api import InterruptedRunError
from stuntime.kubevirt.kinds import LEASE, NAMESPACE_LABEL, OURS, RUN_LABEL
from stuntime.kubevirt.leases import lease_name
from stuntime.kubevirt.window import LINE, NAME, Entry, Line, Window
from tests.unit.kubeapi.server import FakeServer
from tests.unit.test_window_model import FakeApi, World

_NIC = "stuntime-nic-eth1"


class Calm(Window):
    """A window that renews when it is told to."""

    def _keep_renewing(self) -> None:
        pass


@pytest.fixture
def world() -> World:
    """Return a world without a schedule: waiting jumps in time."""
    return World()


def window(world: World, run: str = "ours", api: FakeApi | None = None) -> Window:
    return Calm(api or FakeApi(world), namespace="everybody", run=run, clock=lambda: world.now)


def entry(key: str, side: str, *, going: bool = False) -> Entry:
    return Entry(id=key, side=side, run="run", who=key, lasts_s=60.0, beat=key, going=going)


def line(*entries: str) -> Line:
    """Return a line of entries: m and p wait, M and P go."""
    sides = {"m": "measuring", "p": "provisioning"}
    return Line(tuple(entry(each, sides[each[0].lower()], going=each[0].isupper()) for each in entries))


@pytest.mark.parametrize(
    ("stands", "who", "ahead"),
    [
        (line("m1"), "m1", []),
        (line("P1", "P2", "m1"), "m1", ["P1", "P2"]),
        (line("P1", "P2", "p3"), "p3", []),
        (line("P1", "m1", "p2", "m2"), "p2", ["m1"]),
        (line("P1", "m1", "p2", "m2"), "m2", ["P1", "m1", "p2"]),
        (line("M1", "p1", "p2"), "p2", ["M1"]),
    ],
)
def test_who_has_to_be_waited_for(stands, who, ahead) -> None:
    """A measurement waits for all ahead of it, a provisioning for the measurements."""
    assert [each.id for each in stands.ahead(who)] == ahead
    begun = stands.begun(who).find(who)
    assert begun is not None
    assert begun.going == (not ahead)


def test_the_lease_says_who_goes(world) -> None:
    """It is a Lease with a holder, and afterwards one without."""
    ours = window(world)
    with ours.measuring("a.b.c.ipv4"):
        lease = world.store.objects[NAME]
        assert lease["spec"]["holderIdentity"] == "ours: measuring a.b.c.ipv4"
        assert lease["spec"]["leaseDurationSeconds"] == 60
        assert lease["spec"]["acquireTime"].endswith("Z")
        assert lease["metadata"]["labels"] == OURS
    lease = world.store.objects[NAME]
    assert "holderIdentity" not in lease["spec"]
    assert lease["metadata"]["annotations"][LINE] == "[]"


def test_provisionings_go_together(world) -> None:
    """They do not wait for each other."""
    with window(world).provisioning("one"), window(world, "theirs").provisioning("two"):
        assert world.store.objects[NAME]["spec"]["holderIdentity"] == "ours: provisioning one and 1 more"


@pytest.mark.parametrize("failed", [RuntimeError("x"), InterruptedRunError("x", "y"), KeyboardInterrupt()])
def test_a_body_that_fails_keeps_its_error_and_leaves(world, failed) -> None:
    """The line is empty afterwards, also when the run was told to stop."""
    api = FakeApi(world)
    for hold in (window(world, api=api).measuring, window(world, api=api).provisioning):
        with pytest.raises(type(failed)), hold("it"):  # noqa: PT012 - the body is what fails
            api.stopped = isinstance(failed, InterruptedRunError)
            raise failed
        assert world.line() == Line()
        api.stopped = False


def test_who_is_told_to_stop_while_waiting_leaves(world) -> None:
    """Waiting ends at once, and nobody waits for whoever waited."""
    api = FakeApi(world)
    with window(world, "theirs").measuring("it"):
        api.states = lambda *_, **__: setattr(api, "stopped", True) or api.pause(0)
        with pytest.raises(InterruptedRunError), window(world, api=api).provisioning("that"):
            pytest.fail("it must not go")
        assert [each.who for each in world.line().entries] == ["it"]


def test_a_dead_holder_frees_the_window_and_is_told_when_it_comes_back(world) -> None:
    """Whoever waits sees it die, and says for whom it waited; the holder's measurement is invalid."""
    with (
        capture_logs() as logs,
        pytest.raises(InvalidError, match="lost") as lost,
        window(world, "slow").measuring("it"),
        window(world).measuring("that"),
    ):
        assert world.now == pytest.approx(1060.0)
    assert lost.value.reason == "window-lost"
    assert [(log["event"], log["log_level"]) for log in logs] == [
        ("window.waiting", "warning"),
        ("window.freed", "warning"),
    ]
    assert logs[0]["waits_for"] == ["slow: measuring it"]


def test_a_holder_that_renews_is_waited_for(world) -> None:
    """However long it takes."""
    theirs, ours = window(world, "theirs"), window(world)
    jumps: list[float] = []

    def pass_time(until: float) -> None:
        jumps.append(world.now)
        world.now = min(until, world.now + 50)
        if len(jumps) < 10:
            theirs.renew()
            ours.renew()
        else:
            stack.__exit__(None, None, None)

    world.pass_time = pass_time
    stack = theirs.measuring("it")
    stack.__enter__()
    with ours.provisioning("that"):
        assert world.now == pytest.approx(1300.0)


@pytest.mark.parametrize("side", ["measuring", "provisioning"])
def test_who_was_taken_for_dead_and_goes_on_disturbs(world, side) -> None:
    """It comes back to the head of the line, and the measurement that it meets is invalid; its own is, too."""
    slow, ours = window(world, "slow"), window(world)
    late = getattr(slow, side)("it")
    late.__enter__()
    with pytest.raises(InvalidError, match=f"slow: {side} it went on") as disturbed, ours.measuring("that"):  # noqa: PT012
        slow.renew()
        assert [(each.who, each.going) for each in world.line().entries] == [("it", True), ("that", True)]
    assert disturbed.value.reason == "window-disturbed"
    if side == "measuring":
        with pytest.raises(InvalidError, match="lost"):
            late.__exit__(None, None, None)
    else:
        late.__exit__(None, None, None)
    assert world.line() == Line()


def test_renewals_that_came_too_late_are_a_loss(world) -> None:
    """Also when nobody else was there to take the window."""
    ours = window(world)
    with pytest.raises(InvalidError) as lost, ours.measuring("it"):  # noqa: PT012 - it is raised at the end
        world.now += 61
        ours.renew()
    assert lost.value.reason == "window-lost"
    with pytest.raises(InvalidError), ours.measuring("it"):
        world.now += 61
    with ours.measuring("it"):
        for _ in range(5):
            world.now += 50
            ours.renew()


def test_a_lease_that_somebody_deleted_is_a_loss(world) -> None:
    """Then nobody was kept out."""
    with pytest.raises(InvalidError) as lost, window(world).measuring("it"):
        world.store.delete(NAME, None)
    assert lost.value.reason == "window-lost"


def test_a_server_that_is_away_at_the_end_is_a_loss(world) -> None:
    """Whether the window was kept is not known; a provisioning only says that its entry stays for a while."""
    api = FakeApi(world)
    ours = window(world, api=api)
    with pytest.raises(InvalidError) as lost, ours.measuring("it"):
        api.away = TestbedError("away", "wait", reason="api-away")
    assert lost.value.reason == "window-lost"
    api.away = None
    with capture_logs() as logs, ours.provisioning("that"):
        api.away = TestbedError("away", "wait", reason="api-away")
    assert logs[-1]["event"] == "window.left"
    api.away = None
    with window(world, "theirs").measuring("it"):
        assert world.now == pytest.approx(1120.0)
    with ours.measuring("it"):
        pass


def test_the_tear_down_marks_a_measurement_elsewhere_and_holds_off_the_next(world) -> None:
    """It waits for nobody, and what it leaves behind settles."""
    api = FakeApi(world, stopped=True)
    with pytest.raises(InvalidError, match="tear-down of ours") as disturbed, window(world, "theirs").measuring("it"):
        window(world, api=api).disturb("ours")
    assert disturbed.value.reason == "window-disturbed"
    began = world.now
    with window(world, "theirs").measuring("again"):
        assert world.now == pytest.approx(began + 20)


def test_who_waited_long_enough_goes_and_marks_whom_it_meets(world) -> None:
    """What cannot be left undone waits for a measurement as long as it may, then goes; the measurement is invalid."""
    began = world.now
    going = []
    with (
        pytest.raises(InvalidError, match="ours: provisioning it went on") as disturbed,
        window(world, "theirs").measuring("that"),
        window(world).provisioning("it", wait_s=45),
    ):
        going = [(each.who, each.going) for each in world.line().entries]
    assert world.now == pytest.approx(began + 45)
    assert going == [("it", True), ("that", True)]
    assert disturbed.value.reason == "window-disturbed"
    assert world.line() == Line()


def test_the_tear_down_spares_its_own(world) -> None:
    """A measurement of the process that is torn down ends anyway; one that only waits is not disturbed."""
    ours = window(world)
    with ours.measuring("it"):
        ours.disturb("ours")


def test_an_unreadable_line_is_told(world) -> None:
    """Somebody edited it."""
    with window(world).provisioning("it"):
        pass
    world.store.objects[NAME]["metadata"]["annotations"][LINE] = "nonsense"
    with pytest.raises(TestbedError, match="cannot be read") as unreadable, window(world).measuring("it"):
        pytest.fail("it must not go")
    assert unreadable.value.reason == "window-unreadable"


class RealTimeApi(FakeApi):
    """A store that is waited for in real time."""

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)
        self._refuse()


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_thread_renews_all_and_survives_a_server_that_is_away(world) -> None:
    """It begins with the first that is held, renews NICs too, and ends with the last."""
    api = RealTimeApi(world)
    ours = Window(api, namespace="everybody", run="ours", duration_s=1.0)

    def renewals() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "window-renewal"]

    with ours.provisioning("one"), ours.provisioning("two"), ours.nic("eth1", "run ours", wait_s=0):
        first = {each.beat for each in world.line().entries}
        nic = world.store.objects[_NIC]["metadata"]["resourceVersion"]
        eventually(lambda: not first & {each.beat for each in world.line().entries})
        eventually(lambda: world.store.objects[_NIC]["metadata"]["resourceVersion"] != nic)
        assert len(renewals()) == 1
        with capture_logs() as logs:
            api.away = TestbedError("away", "wait", reason="api-away")
            eventually(lambda: any(log["event"] == "window.not-renewed" for log in logs))
            api.away = None
        second = {each.beat for each in world.line().entries}
        eventually(lambda: not second & {each.beat for each in world.line().entries})
    eventually(lambda: not renewals())
    with ours.provisioning("three"):
        assert len(renewals()) == 1
        api.stopped = True
        eventually(lambda: not renewals())


def test_a_nic_is_held_by_one_process(world) -> None:
    """Who else wants it is told by whom it is held; afterwards no Lease of it is left."""
    ours, again = window(world), window(world)
    with ours.nic("eth1", "run ours", wait_s=0):
        assert world.store.objects[_NIC]["metadata"]["labels"] == {**OURS, RUN_LABEL: "ours", NAMESPACE_LABEL: "ns"}
        with (
            pytest.raises(UnfitError, match=r"eth1 is taken by run ours \(") as taken,
            again.nic("eth1", "run ours", wait_s=0),
        ):
            pytest.fail("it is taken")
        assert taken.value.reason == "nic-taken"
        with window(world, "theirs").nic("eth2", "run theirs", wait_s=0):
            pass
    assert not [name for name in world.store.objects if name.startswith("stuntime-nic")]
    with again.nic("eth1", "run ours", wait_s=0):
        pass


def test_a_nic_is_waited_for_as_long_as_told(world) -> None:
    """Short of its holder's death it is not given; a holder that renews keeps it, one that is dead does not."""
    ours, theirs = window(world), window(world, "theirs")
    with capture_logs() as logs, ours.nic("eth1", "run ours", wait_s=0):
        with pytest.raises(UnfitError), theirs.nic("eth1", "run theirs", wait_s=30):
            pytest.fail("it is taken")
        assert world.now == pytest.approx(1030.0)
        ours.renew()
        with pytest.raises(UnfitError), theirs.nic("eth1", "run theirs", wait_s=50):
            pytest.fail("it is taken")
        assert [log["event"] for log in logs] == ["nic.waiting", "nic.waiting"]
        with theirs.nic("eth1", "run theirs", wait_s=600):
            assert world.now == pytest.approx(1090.0)
            ours.renew()
            assert logs[-1]["event"] == "nic.lost"
            assert world.store.objects[_NIC]["spec"]["leaseTransitions"] == 1
    assert logs[-1]["event"] != "nic.left"
    assert _NIC not in world.store.objects


def test_a_nic_that_is_held_comes_back_when_its_lease_was_deleted(world) -> None:
    """It still is in use."""
    ours = window(world)
    with ours.nic("eth1", "run ours", wait_s=0):
        world.store.delete(_NIC, None)
        ours.renew()
        assert world.store.objects[_NIC]["spec"]["holderIdentity"].startswith("run ours (")


def test_a_nic_is_taken_for_longer_than_a_command_lives(world) -> None:
    """The same name may take it again and gives it back, from any process; another one does neither."""
    window(world).take_nic("eth1", "run ours", duration_s=14400)
    window(world).take_nic("eth1", "run ours", duration_s=14400)
    assert world.store.objects[_NIC]["spec"]["leaseDurationSeconds"] == 14400
    with pytest.raises(UnfitError, match="taken by run ours"):
        window(world).take_nic("eth1", "run theirs", duration_s=14400, wait_s=600)
    with capture_logs() as logs:
        window(world).give_nics("run theirs")
        window(world).give_nics("run ours", but=["eth1"])
    assert not logs
    assert _NIC in world.store.objects
    for _ in range(2):
        window(world).give_nics("run ours")
        assert _NIC not in world.store.objects


def test_a_nic_that_was_half_given_back_can_be_taken(world) -> None:
    """Its holder died between saying so and deleting the Lease."""
    ours = window(world)
    ours.take_nic("eth1", "run ours", duration_s=60)
    del world.store.objects[_NIC]["spec"]["holderIdentity"]
    window(world).take_nic("eth1", "run theirs", duration_s=60)
    assert world.store.objects[_NIC]["spec"]["holderIdentity"] == "run theirs"


def test_a_nic_is_given_back_after_the_run_was_told_to_stop(world) -> None:
    """With the last words."""
    api = FakeApi(world)
    with window(world, api=api).nic("eth1", "run ours", wait_s=0):
        api.stopped = True
    assert _NIC not in world.store.objects


@pytest.mark.parametrize(("nic", "name"), [("eth1", "stuntime-nic-eth1"), ("enp1s0f0np0", "stuntime-nic-enp1s0f0np0")])
def test_the_lease_of_a_nic_has_its_name(nic, name) -> None:
    """Where objects can have it."""
    assert lease_name(nic) == name


def test_nics_with_odd_names_have_leases_of_their_own() -> None:
    """A VLAN's or an upper-case name is no name of an object, and is told apart."""
    names = {lease_name(nic) for nic in ("eth1-5", "eth1.5", "ETH1.5", "eth1@5", "eth1_5")}
    assert len(names) == 5
    assert all(LEASE.object(name)["metadata"]["name"].replace("-", "").isalnum() for name in names)


def test_many_threads_of_two_processes_meet_at_one_server() -> None:
    """Over HTTP, from a server that is away for a while: nothing overlaps, everybody has a turn."""
    going: list[str] = []
    overlaps: list[list[str]] = []
    done: list[str] = []

    def hold(ours: Window, side: str) -> None:
        with getattr(ours, side)("it"):
            going.append(side)
            if "measuring" in (now := list(going)) and len(now) > 1:
                overlaps.append(now)
            time.sleep(0.02)
            going.remove(side)
        done.append(side)

    def scenario(ours: Window) -> None:
        for side in ("provisioning", "measuring", "provisioning"):
            hold(ours, side)

    with FakeServer(namespaces=["ns", "everybody"]) as server:
        apis = [server.api("ns", patience_s=30) for _ in range(2)]
        windows = [Window(api, namespace="everybody", run=str(number)) for number, api in enumerate(apis)]
        threads = [threading.Thread(target=scenario, args=(ours,)) for ours in windows for _ in range(4)]
        for thread in threads:
            thread.start()
        server.away_for(0.5).join()
        for thread in threads:
            thread.join(60)
        for api in apis:
            api.stop()
    assert not overlaps
    assert (done.count("measuring"), done.count("provisioning")) == (8, 16)
