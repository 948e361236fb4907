"""The thresholds file says what it means, or where it does not."""

import pytest

from stuntime.errors import UsageError
from stuntime.scenario import scenarios
from stuntime.threshold import Entry
from stuntime.thresholds_file import read_thresholds

SCENARIO = "linux-bridge.from-static-node.static.ipv4"


def read(tmp_path, text):
    file = tmp_path / "thresholds.yaml"
    file.write_text(text)
    return read_thresholds(file)


def test_all_levels(tmp_path):
    """Entries are read for all, by network and by scenario."""
    found = read(
        tmp_path,
        "global: {factor: 3, floor: 0.2}\nnetworks:\n  lab-7:\n    ceiling: 2\nscenarios:\n"
        f"  {SCENARIO}: {{threshold: 1}}\n",
    ).thresholds
    assert found.everywhere == Entry(factor=3, floor=0.2)
    assert found.networks == {"lab-7": Entry(ceiling=2)}
    assert found.scenarios == {SCENARIO: Entry(threshold=1)}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "says nothing"),
        ("{}", 1, "says nothing"),
        ("- 1", 1, "list"),
        ("global: 5", 1, "no mapping"),
        ("global:\n  threshold: 500ms", 2, "'500ms'"),
        ('global:\n  threshold: "5"', 2, "'5'"),
        ("global:\n  threshold: -1", 2, "-1"),
        ("global:\n  threshold: 0", 2, "0"),
        ("global:\n  threshold: 1e99", 2, "1e99"),
        ("global:\n  threshold: 99999", 2, "99999"),
        ("global:\n  threshold: .inf", 2, ".inf"),
        ("global:\n  threshold: .nan", 2, ".nan"),
        ("global:\n  threshold: true", 2, "'true'"),
        ("global:\n  threshold:", 2, "nothing"),
        ("global:\n  threshold: 1:30", 2, "'1:30'"),
        ("global:\n  factor: 0.5", 2, "factor"),
        ("global:\n  floor: 6", 1, "above the ceiling"),
        ("global:\n  floor: 2\nnetworks:\n  linux-bridge:\n    ceiling: 1", 4, "above the ceiling"),
        ("global:\n  limit: 5", 2, "'limit'"),
        ("globl:\n  threshold: 5", 1, "'globl'"),
        ("global: {threshold: 5}\nglobal: {threshold: 6}", 2, "twice"),
        ("networks:\n  Linux Bridge: {ceiling: 5}", 2, "name of a network"),
        ("networks:\n  linux-bridge: {}", 2, "says nothing"),
        ("networks:\n  linux-bridge: {threshold: 5, factor: 2}", 2, "also factor"),
        ("scenarios:\n  linux-bridge: {threshold: 5}", 2, "no scenario id"),
        ("scenarios:\n  linux-bridge.sideways.static.ipv4: {threshold: 5}", 2, "no path"),
        ("global: [1\nx: 2", 2, "no YAML"),
        ("global: &a\n  factor: *a", 1, "itself"),
        ("global: \x01", 1, "no YAML"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(tmp_path, text, line, said):
    """Each mistake is told with the line it stands in."""
    with pytest.raises(UsageError) as error:
        read(tmp_path, text)
    assert said in str(error.value)
    if "\x01" not in text:
        assert f"thresholds.yaml:{line}:" in str(error.value)


def test_a_misspelt_network_is_refused(tmp_path):
    """An entry that no scenario could ever be judged by is a mistake, not a loose threshold."""
    found = read(tmp_path, "scenarios:\n  linux-brige.to-static-node.static.ipv4: {threshold: 1}")
    with pytest.raises(UsageError, match=r"yaml:2: .*linux-brige"):
        found.require_used(scenarios())


def test_a_file_that_is_not_there(tmp_path):
    """A file that cannot be read is a usage error."""
    with pytest.raises(UsageError):
        read_thresholds(tmp_path / "none.yaml")
