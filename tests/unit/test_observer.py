"""The observer's clock, which knows on which side of a step a time stamp was taken."""

import pytest

from stuntime import observer


class Machine:
    """A machine whose two clocks are set by the test."""

    def __init__(self) -> None:
        self.now, self.ahead = 100.0, 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + self.ahead


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(observer, "time", made)
    return made


@pytest.mark.parametrize("step", [3.0, -3.0, 0.6, -0.6])
def test_a_stamp_from_either_side_of_a_step_has_its_true_time(machine: Machine, step: float) -> None:
    """Packets that were queued around a step of the wall clock get the times at which they came."""
    clock = observer.Clock()
    machine.now = 100.5
    clock.look()
    stamped = []
    for at in (100.6, 100.7, 100.8, 100.9):
        machine.now = at
        if at == 100.8:
            machine.ahead += step
        stamped.append((at, machine.time()))
    machine.now = 101.0
    assert clock.look() == pytest.approx(step)
    for at, wall in stamped:
        assert clock.of(wall) - clock.start == pytest.approx(at)


def test_packets_that_waited_long_have_the_times_at_which_they_came(machine: Machine) -> None:
    """An observer that was starved reads a whole queue, and no packet in it has the time of the reading."""
    clock = observer.Clock()
    stamped = []
    for at in (101.0, 102.0, 103.0):
        machine.now = at
        stamped.append((at, machine.time()))
    machine.now = 110.0
    assert clock.look() == 0
    machine.now = 111.0
    assert clock.look() == 0
    assert [clock.of(wall) - clock.start for _, wall in stamped] == pytest.approx([at for at, _ in stamped])
