"""What goes wrong in guests, migrations, networks and on the disk, each for real, and what stuntime says of it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import pytest

from stuntime.errors import TestbedError
from stuntime.ping import parse_ping_log
from stuntime.result import Result
from stuntime.store import OutputDirectory, Plan
from tests.sandbox.faults import STEP_S
from tests.sandbox.harness import FAULTS, STUNTIME, Commands, Finished, agree, contents, junit_kinds, results, wait_for

pytestmark = pytest.mark.sandbox

_RECOVERY_TIMEOUT_S = 3
_DISK_BYTES = 4 << 20


@dataclass(frozen=True)
class Run:
    """A suite on a testbed with a fault that has run."""

    output: Path
    finished: Finished
    results: dict[str, Result]


def _suite(commands: Commands, fault: str, selection: str, output: Path, *options: str) -> Run:
    finished = commands.run(*FAULTS, fault, "suite", selection, "--output", str(output), *options)
    assert "Traceback" not in finished.stderr, finished.stderr
    return Run(output, finished, results(output))


def _reason(result: Result) -> str | None:
    return result.error.reason if result.error else None


def _source_was_reachable_at_the_end(run: Run, scenario: str) -> bool:
    """Tell whether the last probes that ping sent were answered, in its log among the evidence."""
    with (run.output / "evidence" / scenario / "ping.log").open() as lines:
        log = parse_ping_log(lines)
    measured = run.results[scenario].measurement
    return measured is not None and measured.recovered and log.sent - max(reply.seq for reply in log.replies) <= 2


BRIDGE, OVN = (f"{network}.from-static-node.static.ipv4" for network in ("linux-bridge", "ovn-localnet"))
BRIDGE_NEXT = BRIDGE.replace("from-static-node", "between-other-nodes")
OVN_MIGRATED = OVN.replace("static.ipv4", "migrated.ipv4")


@pytest.fixture(scope="module")
def dead_target(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a suite in which QEMU at the target dies in the first migration on each network."""
    output = tmp_path_factory.mktemp("dead-target") / "output"
    with commands.leaving_nothing():
        return _suite(commands, "target-dies", f"{BRIDGE},{BRIDGE_NEXT},{OVN}", output)


@pytest.mark.parametrize("scenario", [BRIDGE, OVN])
def test_target_dies(dead_target: Run, scenario: str) -> None:
    """A migration whose target dies is an error, and the VM can still be reached at its source."""
    result = dead_target.results[scenario]
    assert _reason(result) == "migration-failed"
    assert result.migration is None
    assert _source_was_reachable_at_the_end(dead_target, scenario), result.measurement


def test_after_a_failure(dead_target: Run) -> None:
    """The scenario after a failed one is measured on fresh VMs: theirs is their first migration."""
    result = dead_target.results[BRIDGE_NEXT]
    assert result.valid, result
    assert result.migration is not None
    assert result.migration.ordinal == 1


def test_a_failed_migration_is_no_verdict(dead_target: Run) -> None:
    """Trouble of the laboratory is an error in JUnit and exit code 4; it keeps what helps to understand it."""
    kinds = junit_kinds(dead_target.output)
    assert {s: kinds[s] for s in dead_target.results} == {
        BRIDGE: "error", BRIDGE_NEXT: "passed", OVN: "error",
    }  # fmt: skip
    assert dead_target.finished.code == 4
    for scenario in (BRIDGE, OVN):
        told = {Path(file.file).name for file in dead_target.results[scenario].evidence}
        assert {"ping.log", "observer.log", "node-a-links.txt"} <= told
        assert any(name.endswith(".console.log") for name in told)


def test_resume_measures_errors_again(dead_target: Run, commands: Commands, tmp_path: Path) -> None:
    """`--resume` measures what failed, and leaves valid results and their evidence as they are."""
    output = tmp_path / "output"
    shutil.copytree(dead_target.output, output)
    finished = commands.run(*STUNTIME, "suite", "--resume", str(output))
    assert finished.code == 0, finished.stderr
    before, after = contents(dead_target.output), contents(output)
    kept = [name for name in before if BRIDGE_NEXT in name]
    assert kept
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    again = results(output)
    assert all(again[scenario].valid for scenario in (BRIDGE, BRIDGE_NEXT, OVN))
    assert set(junit_kinds(output).values()) == {"passed", "skipped"}


def test_migration_never_converges(commands: Commands, tmp_path: Path) -> None:
    """A migration that does not end by its deadline is cancelled: an error, and the source can still be reached."""
    run = _suite(commands, "never-converges", OVN, tmp_path / "output")
    assert _reason(run.results[OVN]) == "migration-timeout"
    assert _source_was_reachable_at_the_end(run, OVN), run.results[OVN].measurement
    assert run.finished.code == 4


def test_never_talks_again(commands: Commands, tmp_path: Path) -> None:
    """Connectivity that never comes back is a verdict: fail, with a lower bound that the log bears out.

    The bound reaches from before the migration's end to the last probe that cannot have been in flight any more.
    """
    timeout = ("--recovery-timeout", str(_RECOVERY_TIMEOUT_S))
    run = _suite(commands, "never-talks-again", f"{BRIDGE},{OVN_MIGRATED}", tmp_path / "output", *timeout)
    kinds = junit_kinds(run.output)
    for scenario in (BRIDGE, OVN_MIGRATED):
        result = run.results[scenario]
        measured = result.measurement
        assert result.valid, result
        assert measured is not None
        assert not measured.recovered
        assert measured.stuntime_s is None
        assert measured.bounds_s is not None
        assert measured.bounds_s.upper is None
        assert _RECOVERY_TIMEOUT_S - 1 - 2 * measured.spacing_s <= measured.bounds_s.lower <= result.duration_s
        assert f"not recovered, at least {measured.bounds_s.lower:.3f} s" in (run.output / "junit.xml").read_text()
        assert kinds[scenario] == "failure"
    assert run.finished.code == 1


@pytest.mark.parametrize("scenario", [BRIDGE, OVN_MIGRATED])
def test_loss_before_the_migration(commands: Commands, tmp_path: Path, scenario: str) -> None:
    """A network that loses probes before the migration is asked for yields an error, never a stuntime."""
    run = _suite(commands, "loss-in-warm-up", scenario, tmp_path / "output")
    result = run.results[scenario]
    assert not result.valid, result
    measured = result.measurement
    assert measured is not None
    assert {"outage-before-migration", "loss-before-first-reply"} & set(measured.reasons), measured.reasons
    assert junit_kinds(run.output)[scenario] == "error"
    assert run.finished.code == 4


CLOCKS = {
    f"ovn-localnet.{path}.{initiator}.{family}": (whose, step)
    for family, step in (("ipv4", STEP_S), ("ipv6", -STEP_S))
    for path, initiator, whose in (
        ("from-static-node", "static", "static"),
        ("from-static-node", "migrated", "static"),
        ("between-other-nodes", "migrated", "migrated"),
    )
}


@pytest.fixture(scope="module")
def stepped(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a suite in which a guest's clock steps in every migration."""
    output = tmp_path_factory.mktemp("stepped") / "output"
    with commands.leaving_nothing():
        return _suite(commands, "clock-steps", ",".join(CLOCKS), output, "--capture")


@pytest.mark.parametrize("scenario", CLOCKS)
def test_clock_steps(stepped: Run, scenario: str) -> None:
    """A guest's clock that steps during the migration changes the number by less than a probe, and is told."""
    result = stepped.results[scenario]
    measured = result.measurement
    assert result.valid, result
    assert measured is not None
    assert agree(result), (measured, result.capture)
    whose, step = CLOCKS[scenario]
    sizes = [size for _, size in measured.clock_steps if abs(size) > 1]
    assert len(sizes) == (whose == "static")
    assert all(abs(size - step) <= 1.5 for size in sizes)  # the guest's `date` sets whole seconds, a moment later


@pytest.mark.parametrize("scenario", CLOCKS)
def test_clock_samples_show_the_step(stepped: Run, scenario: str) -> None:
    """The samples of the guests' clocks before and after the measurement show whose clock stepped, and by how much."""
    whose, step = CLOCKS[scenario]
    samples = stepped.results[scenario].clocks[whose]
    assert samples.before is not None
    assert samples.after is not None
    moved = samples.after.ahead_s - samples.before.ahead_s
    assert abs(moved - step) <= 1 + samples.before.error_s + samples.after.error_s + _paused_s(stepped, scenario)


def _paused_s(run: Run, scenario: str) -> float:
    measured = run.results[scenario].measurement
    return (measured.stuntime_s if measured else None) or 0.0


def test_guest_never_boots(commands: Commands, tmp_path: Path) -> None:
    """Guests that do not boot, or whose QEMU ends, are an error of their scenarios; the other network is measured."""
    run = _suite(commands, "never-boots", f"{BRIDGE},{BRIDGE_NEXT},{OVN}", tmp_path / "output")
    assert {s: _reason(r) for s, r in run.results.items()} == {
        BRIDGE: "guest-not-booted", BRIDGE_NEXT: "guest-not-booted", OVN: None,
    }  # fmt: skip
    assert run.results[OVN].valid
    ended = run.results[BRIDGE_NEXT].error
    assert ended is not None
    assert "QEMU has ended" in ended.message
    assert run.finished.code == 4


def test_ping_missing(commands: Commands, tmp_path: Path) -> None:
    """A guest without ping is an error that says what to put into it; the scenario after it is measured."""
    run = _suite(commands, "ping-missing", f"{BRIDGE},{BRIDGE_NEXT}", tmp_path / "output")
    error = run.results[BRIDGE].error
    assert error is not None
    assert (error.reason, error.exit_code) == ("ping-missing", 3)
    assert "iputils" in error.way_out
    assert run.results[BRIDGE_NEXT].valid
    assert run.finished.code == 4


def test_interval_refused(commands: Commands, tmp_path: Path) -> None:
    """A ping that refuses the interval to its user is an error that names the three ways out."""
    output = tmp_path / "output"
    finished = commands.run(*FAULTS, "interval-refused", "run", BRIDGE, "--output", str(output))
    error = results(output)[BRIDGE].error
    assert error is not None
    assert error.reason == "interval-refused"
    assert "minimal interval allowed for user is 200ms" in error.message
    for way_out in ("root", "CAP_NET_RAW", "iputils"):
        assert way_out in error.way_out
    assert finished.code == error.exit_code == 3


def test_observer_cannot_run(commands: Commands, tmp_path: Path) -> None:
    """Without an observer a static initiator is measured by ping's own stamps, and a migrated one is refused."""
    migrated = BRIDGE_NEXT.replace("static.ipv4", "migrated.ipv4")
    run = _suite(commands, "observer-cannot-run", f"{BRIDGE},{migrated}", tmp_path / "output", "--capture")
    assert run.results[BRIDGE].valid, run.results[BRIDGE]
    assert agree(run.results[BRIDGE])
    assert not (run.output / "evidence" / BRIDGE / "observer.log").exists()
    error = run.results[migrated].error
    assert error is not None
    assert error.reason == "observer-missing"
    assert "python3" in error.way_out
    assert run.results[migrated].measurement is None
    assert "observer.unavailable" in run.finished.stderr


_PLAN = Plan(
    run="run",
    tool_version="0",
    testbed="sandbox",
    started="2026-01-01T00:00:00+00:00",
    scenarios=(BRIDGE,),
    repeat=1,
    interval_s=0.1,
    recovery_probes=None,
    recovery_timeout_s=60.0,
    migrate=True,
    capture=False,
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Hold a file system that is soon full."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_no_room_for_evidence(small_disk: Path) -> None:
    """A disk that takes no further file is told as what it is before the next measurement begins."""
    output = OutputDirectory.create(small_disk / "output", _PLAN)
    subprocess.run(["mount", "-o", "remount,nr_inodes=20", small_disk], check=True)
    with pytest.raises(TestbedError) as caught:
        list(map(output.evidence, repeat(BRIDGE), range(1, 40)))
    assert caught.value.reason == "output-not-writable"


def _fill(disk: Path) -> Path:
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def _has_a_row(output: Path) -> bool:
    summary = output / "summary.json"
    return summary.exists() and '"stuntime_s"' in summary.read_text()


@pytest.mark.parametrize("options", [(), ("--capture",)], ids=["plain", "capture"])
def test_disk_full(commands: Commands, small_disk: Path, options: tuple[str, ...]) -> None:
    """A disk that is full ends the run with 5 and a way out; what was measured is intact, and `--resume` goes on."""
    output = small_disk / "output"
    command = commands.start(*STUNTIME, "suite", f"{BRIDGE},{BRIDGE_NEXT}", *options, "--output", str(output))
    wait_for(lambda: _has_a_row(output) or not command.running(), "the first result")
    filler, before = _fill(small_disk), contents(output)
    finished = command.finish()
    assert "Traceback" not in finished.stderr, finished.stderr
    assert finished.code == 5
    assert "cannot be written: No space left on device" in finished.stderr
    assert "--resume" in finished.stderr
    first = [name for name in before if BRIDGE in name]
    assert f"results/{BRIDGE}.json" in first
    assert {name: contents(output)[name] for name in first} == {name: before[name] for name in first}
    assert OutputDirectory.resume(output).missing() == [(BRIDGE_NEXT, 1)]

    filler.unlink()
    resumed = commands.run(*STUNTIME, "suite", "--resume", str(output))
    assert resumed.code == 0, resumed.stderr
    assert {name: contents(output)[name] for name in first} == {name: before[name] for name in first}
    assert all(result.valid for result in results(output).values())
    assert set(results(output)) == {BRIDGE, BRIDGE_NEXT}
