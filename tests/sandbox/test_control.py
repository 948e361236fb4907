"""The control run: the same measurement with nothing migrated."""

import pytest

from stuntime.result import Result
from tests.sandbox.harness import STUNTIME, Commands, results

pytestmark = pytest.mark.sandbox

SCENARIOS = [
    f"{network}.from-static-node.{initiator}.{family}"
    for network, initiator, family in (
        ("linux-bridge", "static", "ipv4"),
        ("linux-bridge", "migrated", "ipv6"),
        ("ovn-localnet", "static", "ipv6"),
        ("ovn-localnet", "migrated", "ipv4"),
    )
]


@pytest.fixture(scope="module")
def control(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Measure a few scenarios of both networks with nothing migrated."""
    output = tmp_path_factory.mktemp("control") / "output"
    with commands.leaving_nothing():
        finished = commands.run(
            *STUNTIME, "suite", ",".join(SCENARIOS), "--no-migrate", "--capture", "--output", str(output)
        )
    assert finished.code == 0, finished.stderr
    return results(output)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_migrated_is_no_outage(control: dict[str, Result], scenario: str) -> None:
    """Where nothing migrates the stuntime is 0, nothing is lost, and the measurement is valid."""
    result = control[scenario]
    assert result.valid, result
    assert result.migration is None
    measured = result.measurement
    assert measured is not None
    assert measured.stuntime_s == 0.0
    assert (measured.outages, measured.gaps, measured.probes_lost) == ((), (), 0)
    assert measured.recovered


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_packets_say_the_same(control: dict[str, Result], scenario: str) -> None:
    """The packets of a control run hold no outage either."""
    captured = control[scenario].capture
    assert captured is not None
    assert captured.stuntime_s == 0.0


def test_bounds(control: dict[str, Result]) -> None:
    """A control run says what could have hidden in it: no more than the longest distance of two replies."""
    for result in control.values():
        measured = result.measurement
        assert measured is not None
        assert measured.bounds_s is not None
        assert measured.bounds_s.lower == 0.0
        assert measured.bounds_s.upper == pytest.approx(measured.noise_s, abs=0.001)
