"""How long a wave of scenarios takes, in scaled time (all of them: python -m tests.benchmarks.makespan)."""

from pathlib import Path

from stuntime.scenario import NETWORKS, measuring_order, scenarios
from tests.benchmarks.makespan import bound_s, makespan_s, serial_s


def test_a_wave_boots_once(tmp_path: Path) -> None:
    """Six scenarios of a network take less than half of what six boots and migrations take one after the other.

    What the machine adds is scaled, too: on a quiet one it is the bound, one boot and six migrations with 15 s each.
    """
    planned = measuring_order(scenarios(NETWORKS[:1]))
    assert (bound_s(planned), serial_s(planned)) == (300, 750)
    assert makespan_s(tmp_path, planned, scale=50, together=6) < serial_s(planned) / 2
