"""The order of the measurement, at each place where it can fail (real migrations: tests/sandbox)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from stuntime.errors import ExitCode, InvalidError, MigrationError, StuntimeError, TestbedError, UnfitError, UsageError
from stuntime.guest import GuestCommandError
from stuntime.measure import Options, measure
from stuntime.result import Result
from stuntime.scenario import Scenario
from stuntime.store import OutputDirectory
from stuntime.suite import run_plan
from stuntime.testbed import Migration, Pair, Route, VirtualMachine
from stuntime.threshold import Verdict, judge
from tests.unit.pinglog import PEER, START, log_lines, probes
from tests.unit.test_store import PLAN

SCENARIO = Scenario.parse("linux-bridge.from-static-node.static.ipv4")
PAIR = Pair(VirtualMachine("static", {"ipv4": "10.0.0.1"}), VirtualMachine("migrated", {"ipv4": PEER}))
SENT = probes(80, lost=(41, 42))


def observer_lines() -> list[str]:
    replies = [(seq, probe) for seq, probe in enumerate(SENT, start=1) if probe.rtt_s is not None]
    lines = [f"reply {START + probe.sent + probe.rtt_s:.6f} {seq} 7\n" for seq, probe in replies]
    return [f"stuntime-observer 1 {PEER}\n", *lines, f"end {START + 9:.6f} 0\n"]


class Lab:
    """A testbed that writes down what it is asked for, and fails where it is told to."""

    name = "lab"

    def __init__(self, fails_at: str = "", error: StuntimeError | None = None) -> None:
        self.fails_at, self.error = fails_at, error or TestbedError("told to", "do not tell it to")
        self.done: list[str] = []
        self.node = "a"
        self.time = START + 3.9
        self.ping_log = "".join(log_lines(SENT)).encode()

    def _do(self, step: str) -> None:
        self.done.append(step)
        if step == self.fails_at:
            raise self.error

    def now(self) -> float:
        return self.time

    @contextmanager
    def network(self, name: str, evidence: Path) -> Iterator[None]:
        self._do(f"up {name}")
        yield
        self._do(f"down {name}")

    @contextmanager
    def pair(self, scenario: Scenario, evidence: Path) -> Iterator[Pair]:
        self._do("boot")
        try:
            yield PAIR
        finally:
            self.done.append("release")

    def route(self, scenario: Scenario) -> Route:
        return Route("a", "a", "b")

    def node_of(self, vm: VirtualMachine) -> str:
        return self.node if vm is PAIR.migrated else "a"

    def shell(self, vm: VirtualMachine) -> "LabShell":
        return LabShell(self)

    @contextmanager
    def quiet_window(self, who: str) -> Iterator[None]:
        self._do("quiet")
        yield
        self.done.append("noise")

    def migrate(self, vm: VirtualMachine, target: str, *, timeout_s: float) -> Migration:
        self._do("migrate")
        self.time, self.node = START + 4.3, target
        return Migration(START + 3.85, START + 3.89, START + 4.2, "a", target, "u", "pre-copy", 1)

    @contextmanager
    def capture(self, vm: VirtualMachine, file: Path) -> Iterator[None]:
        self._do("capture")
        yield

    def environment(self, pair: Pair) -> dict:
        texts = dict.fromkeys(("testbed", "cluster_id", "nic", "guest_image", "guest_kernel", "accelerator"), "x")
        return {**texts, "product_versions": {}, "network": {}, "nodes": {}}

    def release(self, scenario: Scenario) -> None:
        self.done.append("removed")

    def abandon(self) -> None:
        self.done.append("abandoned")

    @contextmanager
    def provisioning(self, who: str) -> Iterator[None]:
        yield


class LabShell:
    """Answers the prober's commands as a guest would."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def run(self, command: str, *, timeout_s: float = 30.0) -> str:
        if "ping -V" in command:
            self.lab._do("check ping")
            return "6.1.0\nping from iputils 20221126\n"
        if "127.0.0.1" in command:
            self.lab._do("sample clock")
            return f"[{self.lab.time:.6f}] 64 bytes from 127.0.0.1"
        if "ping -n -c 3" in command:
            self.lab._do("first answers")
        if "-D -O" in command:
            self.lab._do("start ping")
        if "kill -INT" in command:
            self.lab.done.append("stop")
        if "sed -n" in command:
            self.lab._do("look")
            count = int(command.split("tail -n ")[1].split(maxsplit=1)[0])
            return "\n".join(f"{seq / 10:.1f} {seq} 1.0" for seq in range(6, 6 + count))
        if "tail -n" in command:
            return "[1.0] 64 bytes from x: icmp_seq=5 ttl=64 time=1 ms"
        return ""

    def write(self, path: str, content: bytes) -> None:
        self.lab._do("write")

    def read(self, path: str) -> bytes:
        self.lab._do(f"read {path.rsplit('/', 1)[-1]}")
        return self.lab.ping_log if path.endswith("ping.out") else "".join(observer_lines()).encode()


def taken(lab: Lab, tmp_path: Path, **options) -> Result:
    return measure(lab, SCENARIO, Options(**options), run="a-run", repetition=1, evidence=tmp_path)


def test_the_order_is_the_rule(tmp_path: Path) -> None:
    """Check, sample, quiet window, ping, migrate, recover, collect: in this order, and a result comes of it."""
    lab = Lab()
    result = taken(lab, tmp_path)
    steps = ["boot", "check ping", "quiet", "sample clock", "start ping", "migrate", "stop", "noise", "read ping.out"]
    places = [lab.done.index(step) for step in [*steps, "read observer.log", "release"]]
    assert places == sorted(places)
    assert result.error is None
    assert result.measurement.stuntime_s == pytest.approx(0.3, abs=1e-3)
    assert result.measurement.outages[0].phase == "switch-over"
    assert (result.migration.source, result.migration.target) == ("a", "b")
    assert {file.name for file in tmp_path.iterdir()} == {"ping.log", "observer.log"}


def test_a_vm_elsewhere_is_brought_to_its_start(tmp_path: Path) -> None:
    """An unmeasured migration brings the migrated VM to where the path begins, before ping starts."""
    lab = Lab()
    lab.node = "c"
    taken(lab, tmp_path)
    assert lab.done.count("migrate") == 2
    assert lab.done.index("migrate") < lab.done.index("start ping")


@pytest.mark.parametrize(
    "step", ["boot", "check ping", "write", "sample clock", "quiet", "start ping", "look", "read ping.out", "capture"]
)
def test_a_failure_anywhere_becomes_a_result(tmp_path: Path, step: str) -> None:
    """Whatever fails, a result with the error comes, the verdict is `error`, and the VMs are released."""
    lab = Lab(step)
    result = taken(lab, tmp_path, capture=True)
    assert (result.error.reason, result.error.exit_code) == ("testbed-failed", ExitCode.TESTBED)
    assert judge(result).verdict is Verdict.ERROR
    if step != "boot":
        assert lab.done[-1] == "release"


def test_a_failed_migration_keeps_its_logs(tmp_path: Path) -> None:
    """What was measured around a migration that failed is kept, and the verdict is `error` all the same."""
    lab = Lab("migrate", MigrationError("the target died", "look at its log"))
    result = taken(lab, tmp_path)
    assert result.error.reason == "migration-failed"
    assert result.measurement.recovered
    assert result.migration is None
    assert judge(result).verdict is Verdict.ERROR


@pytest.mark.parametrize(("source", "target", "node"), [("x", "b", "b"), ("a", "c", "c"), ("a", "b", "a")])
def test_a_migration_that_went_elsewhere_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, target: str, node: str
) -> None:
    """Source and target are verified by name, whatever the testbed says of them."""
    lab = Lab()
    moved = lab.migrate(PAIR.migrated, "b", timeout_s=1.0)
    lab.node = "a"

    def elsewhere(vm: VirtualMachine, asked: str, *, timeout_s: float) -> Migration:
        lab.node, lab.time = node, START + 4.3
        return replace(moved, source=source, target=target)

    monkeypatch.setattr(lab, "migrate", elsewhere)
    result = taken(lab, tmp_path)
    assert (result.error.reason, judge(result).verdict) == ("migration-elsewhere", Verdict.ERROR)


def test_a_recovery_that_cannot_be_seen_in_time_is_refused() -> None:
    """Options with which every measurement would fail are a mistake of whoever gave them."""
    with pytest.raises(UsageError):
        Options(recovery_probes=700)
    with pytest.raises(UsageError):
        Options(interval_s=6.0)


def test_a_second_failure_does_not_hide_the_first(tmp_path: Path) -> None:
    """When collecting fails after another failure, the first one is told."""
    lab = Lab("look", InvalidError("first", "mend it", reason="the-first"))
    lab.ping_log = b""
    assert taken(lab, tmp_path).error.reason == "the-first"


def test_a_failed_migration_is_told_though_more_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails after a failed migration, such as the console of a VM that died of it, does not hide it."""
    lab = Lab("migrate", MigrationError("the target died", "look at its log"))
    do = lab._do

    def do_and_go_silent(step: str) -> None:
        do(step)
        if "migrate" in lab.done:
            raise TestbedError("no answer", "look at its console", reason="console-silent")

    monkeypatch.setattr(lab, "_do", do_and_go_silent)
    assert taken(lab, tmp_path).error.reason == "migration-failed"


def test_a_log_that_says_nothing_is_an_error(tmp_path: Path) -> None:
    """An empty log is no measurement of 0."""
    lab = Lab()
    lab.ping_log = b""
    result = taken(lab, tmp_path)
    assert (result.error.reason, result.measurement) == ("log-empty", None)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("ping: cannot flood; minimal interval allowed for user is 200ms", "interval-refused"),
        ("connect: Network is unreachable", "peer-silent"),
    ],
)
def test_a_ping_that_may_not_or_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, reason: str) -> None:
    """An interval that is refused, and a peer that does not answer, are told before anything is migrated."""
    monkeypatch.setattr("stuntime.prober._ANSWERING_S", 0.0)
    result = taken(Lab("first answers", GuestCommandError("static", "ping", 2, said)), tmp_path)
    assert (result.error.reason, result.error.exit_code) == (reason, ExitCode.UNFIT)
    assert "CAP_NET_RAW" in result.error.way_out or reason != "interval-refused"


def test_an_interrupt_gets_through_at_once(tmp_path: Path) -> None:
    """SIGINT is no result: the VMs are released and nothing is collected."""
    lab = Lab("look", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        taken(lab, tmp_path)
    assert lab.done[-1] == "release"
    assert "read ping.out" not in lab.done


def test_a_network_that_fails_stops_only_its_own_scenarios(tmp_path: Path) -> None:
    """What a network was needed for is told, scenario by scenario; other networks have their turn."""
    output = OutputDirectory.create(tmp_path / "out", PLAN)
    seen = []
    lab = Lab("up linux-bridge", UnfitError("no bridge", "make one", reason="no-bridge"))
    run_plan(lab, output, Options(), lambda scenario, _, result: seen.append(result and result.error.reason))
    assert seen == ["no-bridge"] * 6
    assert len(output.missing()) == 6


def test_window_of_a_control_run_is_the_whole_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a migration every outage counts."""
    monkeypatch.setattr("stuntime.measure._CONTROL_S", 0.0)
    result = taken(Lab(), tmp_path, migrate=False)
    assert result.migration is None
    assert result.measurement.stuntime_s == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize(("proven", "lost"), [(False, ()), (True, ()), (False, (41, 42))])
def test_a_migration_that_nothing_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proven: bool, lost: tuple[int, ...]
) -> None:
    """No outage in a migration that nobody vouches for is invalid, never 0; an outage shows that it happened."""
    lab = Lab()
    lab.ping_log = "".join(log_lines(probes(80, lost=lost))).encode()
    monkeypatch.setitem(globals(), "SENT", probes(80, lost=lost))
    migrate = lab.migrate
    monkeypatch.setattr(lab, "migrate", lambda *args, **options: replace(migrate(*args, **options), proven=proven))
    result = taken(lab, tmp_path)
    if proven or lost:
        assert result.valid
        assert result.measurement.stuntime_s == pytest.approx(0.3 if lost else 0.0, abs=1e-3)
    else:
        assert not result.valid
        assert (result.error.reason, result.error.exit_code) == ("migration-unproven", ExitCode.INVALID)
        assert result.measurement.stuntime_s is None
        assert judge(result).verdict is Verdict.ERROR
