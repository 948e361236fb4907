"""How long a wave of scenarios takes, in scaled time (all of them: python -m tests.benchmarks.makespan)."""

from pathlib import Path

from stuntime.scenario import NETWORKS, measuring_order, scenarios
from tests.benchmarks.makespan import bound_s, makespan_s, serial_s


def test_a_wave_boots_once(tmp_path: Path) -> None:
    """Six scenarios of a network take one boot and six migrations with 15 s each, not six boots."""
    planned = measuring_order(scenarios(NETWORKS[:1]))
    assert (bound_s(planned), serial_s(planned)) == (300, 750)
    assert makespan_s(tmp_path, planned, scale=50, together=6) <= bound_s(planned)
