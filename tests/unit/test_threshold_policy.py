"""Where a threshold comes from, and what is said of a measurement that is judged by it."""

import msgspec
import pytest

from stuntime.result import Result
from stuntime.scenario import Scenario
from stuntime.threshold import Entry, Thresholds, Verdict, from_baseline, judge, threshold_of
from tests.results import SCENARIO, document

ID = Scenario.parse(SCENARIO)


def result(**fields) -> Result:
    return msgspec.convert(document(**fields), Result)


@pytest.mark.parametrize(
    ("largest_s", "threshold_s"), [(0.05, 0.5), (0.125, 0.5), (0.3, 1.2), (1.25, 5.0), (1.4, 5.0), (9.0, 5.0)]
)
def test_from_baseline(largest_s, threshold_s):
    """A baseline's threshold is four times its largest value, between half a second and five."""
    assert from_baseline(largest_s, 4.0, 0.5, 5.0) == threshold_s


@pytest.mark.parametrize(
    ("scenario", "network", "everywhere", "largest_s", "expected_s", "origin"),
    [
        (Entry(threshold=1), Entry(threshold=2), Entry(threshold=3), 0.3, 1, "the scenario's entry"),
        (Entry(), Entry(threshold=2), Entry(threshold=3), 0.3, 2, "the network's entry"),
        (Entry(), Entry(), Entry(threshold=3), 0.3, 1.2, "the baseline"),
        (Entry(), Entry(), Entry(threshold=3), None, 3, "the entry for all"),
        (Entry(), Entry(), Entry(), None, 5, "built in"),
        (Entry(), Entry(), Entry(ceiling=2), None, 2, "the entry for all"),
        (Entry(), Entry(), Entry(ceiling=1), 0.3, 1, "the baseline"),
        (Entry(factor=2), Entry(threshold=3), Entry(), 0.3, 0.6, "the baseline, by the scenario's entry"),
        (Entry(factor=2), Entry(threshold=3), Entry(), None, 3, "the network's entry"),
        (Entry(), Entry(ceiling=1), Entry(threshold=3), None, 1, "the network's entry"),
        (Entry(), Entry(factor=10), Entry(ceiling=2), 0.3, 2, "the baseline, by the network's entry"),
        (Entry(), Entry(), Entry(floor=0.9), 0.1, 0.9, "the baseline"),
    ],
)
def test_order(scenario, network, everywhere, largest_s, expected_s, origin):
    """The first that says something counts: scenario, network, baseline, all, 5 s."""
    thresholds = Thresholds(everywhere, {ID.network: network}, {ID.id: scenario})
    found = threshold_of(ID, thresholds, largest_s)
    assert (found.seconds, found.origin) == (expected_s, origin)


def test_at_the_threshold_passes_and_above_it_fails():
    """A threshold is the largest stuntime that passes."""
    assert judge(result(stuntime_s=1.2), 1.2).verdict == Verdict.PASS
    assert judge(result(stuntime_s=1.201), 1.2).verdict == Verdict.FAIL


def test_never_recovered_fails_without_a_number():
    """A VM that cannot be reached any more is a failure, whatever the threshold."""
    judged = judge(result(stuntime_s=None), 3600)
    assert judged.verdict == Verdict.FAIL
    assert "at least 59.800 s" in judged.sentence


@pytest.mark.parametrize(
    "fields",
    [
        {"measurement": None},
        {"migration": None},
        {"measurement": {"valid": False}},
        {"measurement": {"reasons": ["observer-incomplete"]}},
        {"measurement": {"stuntime_s": None}},
        {"error": {"reason": "x", "message": "y", "way_out": "z", "exit_code": 5}},
    ],
)
def test_nothing_that_is_not_valid_passes(fields):
    """A result without a migration, a number or validity, however it contradicts itself, is an error."""
    assert judge(result(**fields), 3600).verdict == Verdict.ERROR


def test_no_outage_says_what_could_hide_in_it():
    """0 s is not certainty: the sentence says how long an outage between two probes can have been."""
    judged = judge(result(stuntime_s=0.0, measurement={"bounds_s": {"lower": 0.0, "upper": 0.105}}))
    assert judged.verdict == Verdict.PASS
    assert "up to 0.105 s could hide" in judged.sentence


def test_a_control_run_is_judged_only_as_one():
    """Without a migration a number counts only where the run was asked to migrate nothing, and it is said."""
    judged = judge(result(migration=None), control=True)
    assert judged.verdict == Verdict.PASS
    assert "control run" in judged.sentence


def test_published_range_can_be_left_on_both_sides():
    """Above the published range is a failure, below it is a pass that says that the range is no longer true."""
    span_s = (0.2, 0.4)
    above, inside, below = (judge(result(stuntime_s=value), published_s=span_s) for value in (0.401, 0.4, 0.199))
    assert (above.verdict, inside.verdict, below.verdict) == (Verdict.FAIL, Verdict.PASS, Verdict.PASS)
    assert "above-published-range" in above.sentence
    assert "publish anew" in below.sentence
    assert "publish anew" not in inside.sentence


def test_a_zero_says_what_could_hide_in_it():
    """An outage shorter than two probes reads 0, and the sentence says how long it could have been."""
    measured = {"bounds_s": {"lower": 0.0, "upper": 0.187}}
    assert "up to 0.187 s could hide" in judge(result(stuntime_s=0.0, measurement=measured)).sentence
    assert "could hide" not in judge(result(stuntime_s=0.3)).sentence
