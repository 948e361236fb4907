"""A run that is ended from outside, and two that want the machine at the same time."""

import os
import signal
from pathlib import Path

import pytest

from stuntime.store import OutputDirectory
from tests.sandbox.harness import STUNTIME, Command, Commands, contents, results

pytestmark = pytest.mark.sandbox

PLANNED = [f"linux-bridge.{path}.static.ipv4" for path in ("from-static-node", "between-other-nodes")]
INTERRUPTED, KILLED = 130, -signal.SIGKILL
CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: INTERRUPTED, signal.SIGKILL: KILLED}
# What the run tells when it has come there, and the how manieth time.
MOMENTS = {
    "booting": ("sandbox.network.up", 1),
    "warming-up": ("measure.warming-up", 1),
    "migrating": ("measure.migrating", 1),
    "collecting the second": ("measure.collecting", 2),
}


def _start(commands: Commands, output: Path, *options: str) -> Command:
    return commands.start(*STUNTIME, "-v", "suite", ",".join(PLANNED), "--output", str(output), *options)


def _kept(output: Path, moment: str) -> None:
    """Check that the results of what was over are there and can be read, and that the rest is known to be missing."""
    over = PLANNED[:1] if moment == "collecting the second" else []
    assert [scenario for scenario, result in results(output).items() if result.valid] == over
    assert OutputDirectory.resume(output).missing() == [(scenario, 1) for scenario in PLANNED if scenario not in over]


@pytest.mark.parametrize(("number", "moment"), [
    *((signal.SIGINT, moment) for moment in MOMENTS),
    *((signal.SIGTERM, moment) for moment in ("booting", "migrating")),
    *((signal.SIGKILL, moment) for moment in MOMENTS),
], ids=lambda value: getattr(value, "name", value))  # fmt: skip
def test_ended_at_any_moment(commands: Commands, tmp_path: Path, number: signal.Signals, moment: str) -> None:
    """A signal ends a run at any moment: nothing of it is left, and what was measured before is kept.

    The fixture `nothing_left` looks for what is left.
    """
    output = tmp_path / "output"
    command = _start(commands, output)
    command.until(*MOMENTS[moment])
    command.signal(number)
    finished = command.finish()
    assert finished.code == CODES[number], finished.stderr
    assert "Traceback" not in finished.stderr
    _kept(output, moment)


def test_impatience(commands: Commands, tmp_path: Path) -> None:
    """A signal that comes again and again while the run is ending does no harm."""
    command = _start(commands, tmp_path / "output")
    command.until("measure.warming-up")
    for _ in range(3):
        command.signal(signal.SIGINT)
    assert command.finish().code == INTERRUPTED


def test_ovn_is_ended(commands: Commands, tmp_path: Path) -> None:
    """A run on OVN that is killed leaves none of its daemons."""
    scenario = "ovn-localnet.from-static-node.static.ipv4"
    command = commands.start(*STUNTIME, "-v", "run", scenario, "--capture", "--output", str(tmp_path / "output"))
    command.until("measure.migrating")
    command.signal(signal.SIGKILL)
    assert command.finish().code == KILLED


def test_first_process_is_killed(commands: Commands, tmp_path: Path) -> None:
    """The end of the sandbox's process 1 ends all that is in it; the command says that it was killed."""
    command = _start(commands, tmp_path / "output")
    command.until("measure.migrating")
    (first,) = command.children()
    os.kill(first, signal.SIGKILL)
    assert command.finish().code == 128 + signal.SIGKILL


def test_killed_run_is_resumed(commands: Commands, tmp_path: Path) -> None:
    """The directory of a killed run can be gone on with: what was measured stays, what is missing is measured."""
    output = tmp_path / "output"
    command = _start(commands, output)
    command.until("measure.migrating", 2)
    command.signal(signal.SIGKILL)
    command.finish()
    kept = {name: text for name, text in contents(output).items() if PLANNED[0] in name}
    assert f"results/{PLANNED[0]}.json" in kept
    resumed = commands.run(*STUNTIME, "suite", "--resume", str(output))
    assert resumed.code == 0, resumed.stderr
    after = contents(output)
    assert {name: after[name] for name in kept} == kept
    assert [result.valid for result in results(output).values()] == [True, True]


def test_two_at_once(commands: Commands, tmp_path: Path) -> None:
    """A second suite waits for the first one and says for whom; interrupted while it waits, it ends at once."""
    first = _start(commands, tmp_path / "first", "--no-migrate")
    first.until("sandbox.network.up")
    second = commands.start(*STUNTIME, "run", PLANNED[0], "--output", str(tmp_path / "second"))
    interrupted = {
        number: _start(commands, tmp_path / number.name) for number in (signal.SIGINT, signal.SIGTERM)
    }  # fmt: skip
    for waiting in (second, *interrupted.values()):
        waiting.until("sandbox.waiting")
        assert f"pid {first.pid}:" in waiting.stderr
        assert "suite" in waiting.stderr
    codes = {}
    for number, waiting in interrupted.items():
        waiting.signal(number)
        codes[number] = waiting.finish().code
        assert not (tmp_path / number.name).exists()
    assert first.running()
    assert first.finish().code == 0
    ended = second.finish()
    assert ended.code == 0, ended.stderr
    assert results(tmp_path / "second")[PLANNED[0]].valid
    assert codes == {signal.SIGINT: INTERRUPTED, signal.SIGTERM: INTERRUPTED}
