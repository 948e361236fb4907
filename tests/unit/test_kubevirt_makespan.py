"""How long a wave of scenarios takes, in scaled time (all of them: python -m tests.benchmarks.makespan)."""

from pathlib import Path

from stuntime.scenario import NETWORKS, PATHS, measuring_order, scenarios
from tests.benchmarks.makespan import bound_s, makespan_s, serial_s


def test_a_wave_boots_once(tmp_path: Path) -> None:
    """Three scenarios of a network take much less than three boots and migrations, one after the other.

    What the machine adds is scaled, too: on a quiet one it is the bound, one boot and three migrations with 15 s each.
    """
    planned = measuring_order(scenarios(NETWORKS[:1], PATHS, ("static",)))
    assert (bound_s(planned), serial_s(planned)) == (195, 375)
    assert makespan_s(tmp_path, planned, scale=25, together=3) < serial_s(planned) * 0.75
