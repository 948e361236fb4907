"""A baseline is made of what may be pooled, and of nothing else."""

import json

import pytest

from stuntime.aggregate import aggregate
from stuntime.baseline import baseline_of, read_baseline, thresholds_yaml
from stuntime.documents import load
from stuntime.errors import InvalidError, UsageError
from stuntime.policy import Policy
from stuntime.result import to_json
from stuntime.scenario import Scenario
from stuntime.threshold import Thresholds
from stuntime.thresholds_file import read_thresholds
from tests.results import SANDBOX, SCENARIO, document, write

TEN = [document(repetition=n, stuntime_s=round(0.2 + n / 100, 3)) for n in range(1, 11)]


def made(*folders, **options):
    return baseline_of(load(folders), author="A. Person", created="2026-11-24", **options)


def test_ten_values(tmp_path):
    """It holds all values, their range and number, the lab, its versions, the author, the date, the inputs' digest."""
    found = made(write(tmp_path, *TEN))
    values = found.scenarios[SCENARIO]
    assert (values.n, values.smallest_s, values.largest_s) == (10, 0.21, 0.3)
    assert len(values.values_s) == 10
    assert found.conditions.cluster_id == "sandbox-0035969ec53f"
    assert found.conditions.product_versions["qemu"] == "7.2.22"
    assert (found.author, found.created, found.measured[0]) == ("A. Person", "2026-11-24", "2026-11-23")
    assert len(found.inputs_sha256) == 64


def test_fewer_only_when_said(tmp_path):
    """Nine values are refused unless fewer are asked for, and that is recorded."""
    folder = write(tmp_path, *TEN[:9])
    with pytest.raises(InvalidError, match="has 9"):
        made(folder)
    assert made(folder, at_least=9).at_least == 9


def test_what_may_not_be_pooled_is_left_out_and_named(tmp_path):
    """Invalid results, control runs and those that never recovered give no value, and the file says so."""
    bad = [
        document(repetition=11, migration=None),
        document(repetition=12, stuntime_s=None),
        document(repetition=13, measurement={"valid": False, "reasons": ["several-pings"]}),
    ]
    folder = write(tmp_path, *TEN, *bad)
    (folder / "results" / "torn.json").write_text("{")
    found = made(folder)
    assert found.scenarios[SCENARIO].n == 10
    assert sorted(left.why.split(":")[0] for left in found.left_out) == [
        "control-run",
        "invalid",
        "not-recovered",
        "result-torn",
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"environment": {"testbed": "kubevirt"}}, "testbed"),
        ({"environment": {"cluster_id": "elsewhere"}}, "cluster_id"),
        ({"environment": {"product_versions": {"qemu": "9"}}}, "product_versions"),
        ({"environment": {"network": {"kind": "other"}}}, r"networks.linux-bridge.configuration.kind"),
        ({"environment": {"nic": "mlx5"}}, "networks.linux-bridge.nic"),
        ({"environment": {"guest_image": "other"}}, "guest_image"),
        ({"environment": {"accelerator": "kvm"}}, "accelerator"),
        ({"interval_s": 0.2}, "interval_s"),
        ({"recovery_probes": 5}, "recovery_probes"),
    ],
)
def test_unlike_conditions_are_refused_by_name(tmp_path, fields, said):
    """Each listed field has to be equal; the error says which one is not, and in which files."""
    with pytest.raises(InvalidError, match=said):
        made(write(tmp_path, *TEN, document(repetition=11, **fields)))


def test_contradicting_results_are_refused(tmp_path):
    """Nobody can know which of two is true."""
    with pytest.raises(InvalidError, match="differ"):
        made(write(tmp_path / "a", *TEN), write(tmp_path / "b", document(stuntime_s=0.1)))


def test_digest_depends_on_the_documents_alone(tmp_path):
    """The same inputs in other places give the same digest; another value another one."""
    one = made(write(tmp_path / "a", *TEN))
    other = made(write(tmp_path / "b" / "c", *reversed(TEN)))
    third = made(write(tmp_path / "d", *TEN[:9], document(repetition=10, stuntime_s=0.29)))
    assert one.inputs_sha256 == other.inputs_sha256 != third.inputs_sha256


def test_it_survives_its_file_and_gives_thresholds(tmp_path):
    """Written, read and used: the thresholds are those of the formula, also as a thresholds file."""
    folder = write(tmp_path, *TEN)
    file = tmp_path / "baseline.json"
    file.write_bytes(to_json(made(folder)))
    baseline = read_baseline(file)
    assert Policy(baseline=baseline).threshold_of(Scenario.parse(SCENARIO)).seconds == 1.2
    thresholds = tmp_path / "thresholds.yaml"
    thresholds.write_text(thresholds_yaml(baseline, Thresholds()))
    assert read_thresholds(thresholds).thresholds.scenarios[SCENARIO].threshold == 1.2


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"kind": "stuntime-published"}'])
def test_what_is_no_baseline_is_refused(tmp_path, text):
    """Another file is no baseline."""
    file = tmp_path / "baseline.json"
    file.write_text(text)
    with pytest.raises(UsageError):
        read_baseline(file)


def test_an_edited_baseline_is_refused(tmp_path):
    """A range that does not follow from its values was edited by hand."""
    file = tmp_path / "baseline.json"
    found = json.loads(to_json(made(write(tmp_path, *TEN))))
    found["scenarios"][SCENARIO]["largest_s"] = 3.0
    file.write_text(json.dumps(found))
    with pytest.raises(UsageError, match="does not follow"):
        read_baseline(file)


def test_a_baseline_of_another_lab_is_used_and_told(tmp_path):
    """Its thresholds are never looser than without it, so they count; that it is of another lab is said."""
    baseline = made(write(tmp_path, *[{**d, "environment": {**d["environment"], "cluster_id": "other"}} for d in TEN]))
    found = aggregate(load([SANDBOX]), Policy(baseline=baseline))
    assert any(
        "baseline of other" in note and "cluster_id is other and sandbox-0035969ec53f" in note for note in found.notes
    )
    assert {v.scenario.id: v for v in found.verdicts}[SCENARIO].threshold.seconds == 1.2


def test_a_baseline_of_this_lab_needs_no_note(tmp_path):
    """Networks that the baseline does not have are no difference."""
    assert aggregate(load([SANDBOX]), Policy(baseline=made(write(tmp_path, *TEN)))).notes == ()
