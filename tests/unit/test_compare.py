"""Two sides, scenario by scenario."""

import pytest

from stuntime.aggregate import aggregate
from stuntime.aggregate_file import document_of
from stuntime.baseline import baseline_of
from stuntime.compare import Finding, compare, read_side
from stuntime.documents import load
from stuntime.errors import InvalidError, UsageError
from stuntime.published import markdown, outwards, published_of, read_published
from stuntime.result import to_json
from tests.results import EVERY_VERDICT, SANDBOX, SCENARIO, document, write

OTHER = "ovn-localnet.to-static-node.static.ipv4"
IMAGINED = SCENARIO.replace("linux-bridge", "lab-7")


def side(folder, *values, scenario=SCENARIO, **fields):
    write(folder, *(document(scenario, repetition=n, stuntime_s=s, **fields) for n, s in enumerate(values, 1)))
    return read_side(folder)


def steps(start, count=6):
    return [round(start + n / 1000, 3) for n in range(count)]


def test_a_regression_beyond_chance(tmp_path):
    """Six values all above six others are beyond chance; the direction says what it is."""
    a, b = side(tmp_path / "a", *steps(0.2)), side(tmp_path / "b", *steps(0.4))
    (pair,) = compare(a, b).pairs
    assert pair.finding == Finding.REGRESSION
    assert pair.change_s == pytest.approx(0.2)
    assert compare(b, a).pairs[0].finding == Finding.IMPROVEMENT


def test_no_difference(tmp_path):
    """Values that lie among each other differ by chance."""
    a, b = side(tmp_path / "a", *steps(0.2)), side(tmp_path / "b", *steps(0.2))
    assert compare(a, b).pairs[0].finding == Finding.NO_DIFFERENCE


def test_too_few_to_say_anything(tmp_path):
    """Three values each cannot be beyond chance, however far they are apart, and that is not called no difference."""
    a, b = side(tmp_path / "a", *steps(0.2, 3)), side(tmp_path / "b", *steps(4.0, 3))
    (pair,) = compare(a, b).pairs
    assert pair.finding == Finding.TOO_FEW
    assert "too few" in pair.sentence


def test_many_comparisons_are_corrected_for(tmp_path):
    """Five values each would be beyond chance alone, and are not among twelve scenarios."""
    names = [v.scenario.id for v in aggregate(load([SANDBOX])).verdicts]
    for folder, start in (("a", 0.2), ("b", 0.4)):
        for name in names:
            side(tmp_path / folder, *steps(start if name == SCENARIO else 0.3, 5), scenario=name)
    many = compare(read_side(tmp_path / "a"), read_side(tmp_path / "b"))
    assert many.comparisons == 12
    assert next(pair for pair in many.pairs if pair.a == SCENARIO).finding == Finding.TOO_FEW
    one = compare(side(tmp_path / "c", *steps(0.2, 5)), side(tmp_path / "d", *steps(0.4, 5)))
    assert one.pairs[0].finding == Finding.REGRESSION


def test_never_recovered_is_a_regression_whatever_the_number(tmp_path):
    """Where B is cut off and A never was, no statistics are needed."""
    a, b = side(tmp_path / "a", 0.2), side(tmp_path / "b", None)
    assert [pair.finding for pair in compare(a, b).regressions] == [Finding.NOT_RECOVERED]


def test_networks_of_different_names_are_paired_by_what_matches(tmp_path):
    """--match leaves the network out; without it nothing pairs, and with two networks on a side it is ambiguous."""
    a, b = side(tmp_path / "a", *steps(0.2)), side(tmp_path / "b", *steps(0.4), scenario=IMAGINED)
    with pytest.raises(UsageError, match="no scenario in common"):
        compare(a, b)
    (pair,) = compare(a, b, ["path", "initiator", "ip_family"]).pairs
    assert (pair.a, pair.b, pair.finding) == (SCENARIO, IMAGINED, Finding.REGRESSION)
    with pytest.raises(UsageError, match="are the same by"):
        compare(read_side(SANDBOX), b, ["path", "initiator", "ip_family"])


def test_all_kinds_of_sides_say_the_same(tmp_path):
    """A directory, its aggregate and its baseline hold the same values."""
    folder = tmp_path / "a"
    direct = side(folder, *steps(0.2, 10))
    (tmp_path / "b").mkdir()
    loaded = load([folder])
    (tmp_path / "b" / "aggregate.json").write_bytes(to_json(document_of(aggregate(loaded))))
    baseline = tmp_path / "baseline.json"
    baseline.write_bytes(to_json(baseline_of(loaded, author="A", created="2026-11-24")))
    for other in (read_side(tmp_path / "b"), read_side(baseline)):
        assert {s: v.values_s for s, v in other.scenarios.items()} == {
            s: v.values_s for s, v in direct.scenarios.items()
        }
        assert other.conditions == direct.conditions


def test_what_is_left_out_and_on_one_side_only_is_told(tmp_path):
    """Invalid and unreadable documents, scenarios without a partner and unlike conditions are named."""
    found = compare(read_side(SANDBOX), read_side(EVERY_VERDICT))
    assert "ovn-localnet.to-static-node.static.ipv4" in found.only_a
    assert len(found.left_out_b) == 6
    assert found.unreadable == 3
    a, b = side(tmp_path / "a", 0.2), side(tmp_path / "b", 0.2, environment={"cluster_id": "elsewhere"})
    assert compare(a, b).conditions_differ == ("cluster_id is sandbox-0035969ec53f and elsewhere",)


def test_against_a_published_range_both_directions_count(tmp_path):
    """Above is a regression; below is news: the range is no longer true."""
    file = tmp_path / "published.json"
    side(tmp_path / "a", 0.25, 0.31)
    file.write_bytes(to_json(published_of(load([tmp_path / "a"]), "1")))
    published = read_side(file)
    for name, value, finding in (("b", 0.41, Finding.ABOVE), ("c", 0.19, Finding.BELOW), ("d", 0.4, Finding.INSIDE)):
        found = compare(published, side(tmp_path / name, value))
        assert found.pairs[0].finding == finding
        assert bool(found.regressions) == (finding == Finding.ABOVE)
    assert compare(published, side(tmp_path / "e", None)).pairs[0].finding == Finding.NOT_RECOVERED


@pytest.mark.parametrize(
    ("value_s", "spacing_s", "down", "up"),
    [(0.319, 0.101, 0.3, 0.4), (0.3, 0.1, 0.3, 0.3), (0.0, 0.1, 0.0, 0.0), (0.0123, 0.0101, 0.01, 0.02)],
)
def test_a_published_range_is_rounded_outwards(value_s, spacing_s, down, up):
    """A measurement is true to one probe, and so is what is published; a range is never made smaller."""
    assert outwards(value_s, spacing_s, down=True) == down
    assert outwards(value_s, spacing_s, down=False) == up


def test_what_could_hide_in_a_zero_is_published(tmp_path):
    """No range ends at 0: an outage shorter than two probes reads 0, and customers may see it all the same."""
    measured = {"bounds_s": {"lower": 0.0, "upper": 0.187}}
    write(tmp_path, document(stuntime_s=0.0, measurement=measured))
    (found,) = published_of(load([tmp_path]), "1").ranges
    assert (found.from_s, found.to_s) == (0.0, 0.2)


def test_publish_says_conditions_and_that_it_is_no_sla(tmp_path):
    """The article has the ranges, both views, the conditions, and the sentence; its document is read back."""
    published = published_of(load([SANDBOX]), "4.20")
    text = markdown(published)
    assert "| from-static-node | static | ipv4 | 0.3 to 0.4 s | 0.319 s | 1 | 0.317 s |" in text
    for said in ("4.20", "qemu 7.2.22", "every 0.1 s", "no service level agreement", "sandbox-0035969ec53f"):
        assert said in text
    file = tmp_path / "published.json"
    file.write_bytes(to_json(published))
    assert read_published(file).ranges[0].to_s == 0.4


def test_publish_does_not_hide_what_never_recovered(tmp_path):
    """A range without the measurements that never recovered says how many there were."""
    side(tmp_path, 0.2, None)
    write(tmp_path, document(OTHER, stuntime_s=None))
    text = markdown(published_of(load([tmp_path]), None))
    assert "and 1 not recovered" in text
    assert f"**{OTHER}**: never recovered" in text


def test_publish_refuses_unlike_conditions(tmp_path):
    """A range over two labs is nobody's."""
    side(tmp_path / "a", 0.2)
    side(tmp_path / "b", 0.2, run="b", environment={"cluster_id": "elsewhere"})
    with pytest.raises(InvalidError, match="cluster_id"):
        published_of(load([tmp_path]), None)
