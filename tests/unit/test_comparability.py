"""Two platforms side by side: what is told of both, and what makes their numbers hard to compare."""

import json

import msgspec
import pytest

from stuntime.aggregate import aggregate
from stuntime.baseline import baseline_of
from stuntime.cli import main
from stuntime.comparability import HARD, hard_to_compare, of_results
from stuntime.compare import MATCH, compare, read_side
from stuntime.documents import load
from stuntime.policy import read_policy
from stuntime.report import page
from stuntime.result import CaptureCheck, Result, parse_result, to_json
from tests.results import SCENARIO, document, write

ELSEWHERE = {
    "testbed": "ssh",
    "cluster_id": "lab-2",
    "product_versions": {"Proxmox VE": "8.2"},
    "guest_kernel": "5.14.0",
    "network": {"kind": "vlan"},
}
IMAGINED = SCENARIO.replace("linux-bridge", "vmbr1")


def result(**fields) -> Result:
    return parse_result(json.dumps(document(**fields)).encode(), "a test")


def there(scenario=IMAGINED, **fields):
    return document(scenario, stuntime_s=0.4, run="20261101T000000Z-0000", environment=ELSEWHERE, **fields)


def test_the_same_is_easy_to_compare(tmp_path):
    """Two sets of one lab differ in nothing that makes them hard to compare."""
    one = of_results([result()])
    assert hard_to_compare(one, of_results([result(stuntime_s=0.5)])) == []


@pytest.mark.parametrize("name", HARD)
def test_each_difference_is_told(name):
    """Interval, spacing, guest kernel, capture and network type are each told, alone, with what they cost."""
    other = result()
    measured = other.measurement
    changed = {
        "interval": {"interval_s": 0.01},
        "spacing": {"measurement": msgspec.structs.replace(measured, spacing_s=measured.spacing_s * 2)},
        "guest kernel": {"environment": msgspec.structs.replace(other.environment, guest_kernel="5.14.0")},
        "capture": {
            "capture": None
            if other.capture
            else CaptureCheck(stuntime_s=0.3, requests_only_s=0.3, valid=True, reasons=())
        },
        "network type": {"environment": msgspec.structs.replace(other.environment, network={"kind": "vlan"})},
    }[name]
    told = hard_to_compare(of_results([result()]), of_results([msgspec.structs.replace(other, **changed)]))
    assert len(told) == 1
    assert told[0].startswith(f"the {name} is ")
    assert told[0].endswith(HARD[name])


def test_spacings_a_little_apart_are_alike():
    """Spacings that a scheduler's tick tells apart are the same."""
    one = {"spacing": ("0.104 s",)}
    assert hard_to_compare(one, {"spacing": ("0.101 s",)}) == []
    assert len(hard_to_compare(one, {"spacing": ("0.016 s",)})) == 1


def test_compare_shows_both(tmp_path, capsys, monkeypatch):
    """The comparison of two platforms prints where both were measured, and what makes them hard to compare."""
    write(tmp_path / "a", document())
    write(tmp_path / "b", there())
    found = compare(read_side(tmp_path / "a"), read_side(tmp_path / "b"), MATCH[1:])
    assert found.environment_b["platform"] == ("lab-2",)
    assert found.environment_b["versions"] == ("Proxmox VE 8.2",)
    assert len(found.hard_to_compare) == 2
    monkeypatch.setattr("stuntime.logs.configure", lambda *, verbose: None)  # the logs of all tests stay where they are
    argv = ("compare", str(tmp_path / "a"), str(tmp_path / "b"), "--match", "path,initiator,ip_family")
    assert main(argv) == 0
    said = capsys.readouterr().out
    for words in ("A: sandbox-", "B: lab-2", "B: Proxmox VE 8.2", "hard to compare: the network type is"):
        assert words in said


def test_what_is_not_known_of_a_baseline(tmp_path):
    """What a baseline does not keep is told as unknown beside another platform, and not beside its own."""
    baseline = tmp_path / "baseline.json"
    for folder, made in (("a", document()), ("b", there())):
        write(tmp_path / folder, made)
    loaded = load([tmp_path / "a"])
    baseline.write_bytes(to_json(baseline_of(loaded, author="A", created="2026-11-24", at_least=1)))
    assert compare(read_side(baseline), read_side(tmp_path / "a")).hard_to_compare == ()
    told = compare(read_side(baseline), read_side(tmp_path / "b"), MATCH[1:]).hard_to_compare
    assert "the guest kernel is not known of A" in told


def test_the_page_shows_both(tmp_path):
    """A page of two platforms has them side by side with their ranges; a page of one has not."""
    write(tmp_path / "a", document())
    write(tmp_path / "b", there())
    pages = {}
    for name, folders in (("one", ["a"]), ("both", ["a", "b"])):
        found = aggregate(load([tmp_path / folder for folder in folders]), run="all")
        details = {v.scenario.id: v.decisive.whole() for v in found.verdicts if v.decisive}
        pages[name] = page(found, details, read_policy(None, None, None)).decode()
    assert "side by side" not in pages["one"]
    assert "side by side" in pages["both"]
    assert "lab-2 (ssh)</th>" in pages["both"]
    assert "What makes these numbers hard to compare" in pages["both"]


def test_only_networks_that_are_compared_count(tmp_path):
    """A network that only one side has says nothing of the numbers that are compared."""
    write(tmp_path / "a", document(), document("ovn-localnet.to-static-node.static.ipv4"))
    write(tmp_path / "b", document(run="20261101T000000Z-0000"))
    found = compare(read_side(tmp_path / "a"), read_side(tmp_path / "b"))
    assert found.environment_a["network type"] == found.environment_b["network type"] == ("linux-bridge",)
    assert found.hard_to_compare == ()
