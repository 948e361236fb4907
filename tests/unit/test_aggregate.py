"""Many results, one verdict per scenario."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stuntime.aggregate import aggregate
from stuntime.aggregate_file import document_of
from stuntime.documents import load
from stuntime.errors import ExitCode, UsageError
from stuntime.result import to_json
from stuntime.scenario import scenarios
from stuntime.threshold import Verdict
from tests.results import EVERY_VERDICT, SANDBOX, SCENARIO, copy_of, document, plan, write

OTHER = "ovn-localnet.to-static-node.migrated.ipv4"


def verdicts(*folders, **options):
    return {v.scenario.id: v for v in aggregate(load(folders), **options).verdicts}


def test_real_results_pass():
    """Each of the 12 scenarios of a real run appears once and passes."""
    found = aggregate(load([SANDBOX]))
    assert [v.scenario for v in found.verdicts] == scenarios()
    assert {v.verdict for v in found.verdicts} == {Verdict.PASS}
    assert (found.exit_code, found.notes, found.unreadable) == (ExitCode.OK, (), ())


def test_every_verdict(monkeypatch):
    """A directory in which each verdict and each unusable document occurs gives the aggregate that was reviewed."""
    monkeypatch.chdir(EVERY_VERDICT.parent)
    found = document_of(aggregate(load([Path("every-verdict")])))
    assert json.loads(to_json(found)) == json.loads(Path("every-verdict.aggregate.json").read_text())


def test_missing_is_an_error_and_not_asked_for_is_skipped(tmp_path):
    """An expected scenario without a result is an error; another one of the same family is skipped."""
    plan(write(tmp_path, document()), [SCENARIO, OTHER])
    found = verdicts(tmp_path)
    assert len(found) == 12
    assert (found[SCENARIO].verdict, found[OTHER].verdict) == (Verdict.PASS, Verdict.ERROR)
    assert sum(v.verdict == Verdict.SKIPPED for v in found.values()) == 10


def test_without_a_plan_the_twelve_of_ipv4_are_expected(tmp_path):
    """Results alone do not say what should have been measured: then it is all of IPv4."""
    found = verdicts(write(tmp_path, document()))
    assert sum(v.verdict == Verdict.ERROR for v in found.values()) == 11


def test_expect_overrides_the_plan(tmp_path):
    """What is expected can be said; families not asked for are absent."""
    found = verdicts(write(tmp_path, document()), expect=f"{SCENARIO},*.to-static-node.static.ipv6")
    assert found[SCENARIO].verdict == Verdict.PASS
    assert found["ovn-localnet.to-static-node.static.ipv6"].verdict == Verdict.ERROR
    assert len(found) == 24
    with pytest.raises(UsageError):
        verdicts(tmp_path, expect="linux-brige.*")


def test_what_was_planned_and_is_not_expected_is_skipped(tmp_path):
    """A narrower expectation than the plan leaves the rest out; a torn file in it is still an error."""
    folder = plan(write(tmp_path, document()), [SCENARIO, OTHER])
    assert verdicts(folder, expect=SCENARIO)[OTHER].verdict == Verdict.SKIPPED
    (folder / "results" / f"{OTHER}.json").write_text("{")
    assert verdicts(folder, expect=SCENARIO)[OTHER].verdict == Verdict.ERROR


def test_links_are_followed_and_circles_end(tmp_path):
    """Results behind a link are found once; a link to above itself ends."""
    real = write(tmp_path / "real", document())
    there = tmp_path / "linked"
    there.mkdir()
    (there / "run").symlink_to(real)
    (there / "circle").symlink_to(there)
    assert len(load([there]).documents) == 1


def test_a_scenario_never_expected_is_judged_all_the_same(tmp_path):
    """A result that nobody asked for is not dropped: it may have failed."""
    strange = "lab-7.to-static-node.static.ipv6"
    plan(write(tmp_path, document(), document(strange, stuntime_s=6.0)), [SCENARIO])
    assert verdicts(tmp_path)[strange].verdict == Verdict.FAIL


def test_the_worst_repetition_counts(tmp_path):
    """Of repetitions the verdict is of the largest value; all values are kept."""
    write(tmp_path, *(document(repetition=n, stuntime_s=s) for n, s in enumerate([0.2, 5.1, 0.3], 1)))
    found = verdicts(tmp_path)[SCENARIO]
    assert found.verdict == Verdict.FAIL
    assert found.stuntime.values_s == (0.2, 0.3, 5.1)
    assert (found.stuntime.n, found.stuntime.median_s) == (3, 0.3)
    assert found.decisive.result.repetition == 2


def test_never_recovered_is_worse_than_any_number(tmp_path):
    """Not recovered decides before the largest number does."""
    write(tmp_path, document(stuntime_s=100.0), document(repetition=2, stuntime_s=None))
    found = verdicts(tmp_path)[SCENARIO]
    assert found.judgement.sentence.startswith("not recovered")
    assert found.not_recovered == 1


def test_a_missing_repetition_is_an_error(tmp_path):
    """A plan of three repetitions is not fulfilled by two: the third may have been the bad one."""
    plan(write(tmp_path, document(), document(repetition=2)), [SCENARIO], repeat=3)
    found = verdicts(tmp_path)[SCENARIO]
    assert found.verdict == Verdict.ERROR
    assert "repetition 3 of run" in found.judgement.sentence


def test_of_several_runs_the_newest_is_judged_and_it_says_so(tmp_path):
    """The newest run is judged; another one can be asked for, or all."""
    old = document(run="old", started="2026-01-01T00:00:00+00:00", stuntime_s=6.0)
    new = document(run="new", started="2026-01-02T00:00:00+02:00", stuntime_s=0.2)
    loaded = load([write(tmp_path, old, new)])
    newest = aggregate(loaded)
    assert (newest.runs, newest.aside) == (("new",), ("old",))
    assert any("old" in note and "new" in note for note in newest.notes)
    verdict = {v.scenario.id: v.verdict for v in aggregate(loaded, run="old").verdicts}
    assert verdict[SCENARIO] == Verdict.FAIL
    everything = {v.scenario.id: v for v in aggregate(loaded, run="all").verdicts}
    assert everything[SCENARIO].verdict == Verdict.FAIL
    assert len(everything[SCENARIO].documents) == 2
    with pytest.raises(UsageError, match="no run 'older'"):
        aggregate(loaded, run="older")


def test_a_run_that_left_nothing_is_still_the_newest(tmp_path):
    """A newer run that crashed before its first result does not let an older one pass for it."""
    plan(write(tmp_path / "a", document(run="a")), [SCENARIO], run="a", started="2026-01-01T00:00:00+00:00")
    plan(tmp_path / "b", [SCENARIO], run="b", started="2026-01-02T00:00:00+00:00")
    assert verdicts(tmp_path)[SCENARIO].verdict == Verdict.ERROR


def test_control_runs_are_told_from_measurements(tmp_path):
    """Where nothing was migrated the verdict says so, and only a run that was asked for that may pass."""
    control = document(migration=None, stuntime_s=0.0)
    assert verdicts(write(tmp_path / "a", control))[SCENARIO].verdict == Verdict.ERROR
    plan(write(tmp_path / "b", control), [SCENARIO], migrate=False)
    found = aggregate(load([tmp_path / "b"]))
    assert found.control
    assert any("control run" in note for note in found.notes)


def test_torn_foreign_and_newer_documents_are_named_and_stop_nothing(tmp_path):
    """Each document that cannot be used is named with the reason; the others are judged; the exit code is 4."""
    folder = copy_of(SANDBOX, tmp_path)
    results = folder / "results"
    (results / "torn.json").write_text("{")
    (results / "foreign.json").write_text("[1]")
    (results / "newer.json").write_text(json.dumps(document(schema_version=2)))
    (results / "text.json").write_bytes(b"\xff\xfe no JSON")
    (results / "empty.json").write_bytes(b"")
    (results / "fields.json").write_text(json.dumps(document(surprise=1)))
    found = aggregate(load([folder]))
    assert {(Path(u.file).name, u.error.reason) for u in found.unreadable} == {
        ("torn.json", "result-torn"),
        ("foreign.json", "result-foreign"),
        ("newer.json", "result-newer"),
        ("text.json", "result-torn"),
        ("empty.json", "result-torn"),
        ("fields.json", "result-foreign"),
    }
    assert {v.verdict for v in found.verdicts} == {Verdict.PASS}
    assert found.exit_code == ExitCode.INVALID


@pytest.mark.parametrize(
    "fields",
    [
        {"started": "yesterday"},
        {"started": "2026-01-01T00:00:00"},
        {"repetition": 0},
        {"schema_version": 0},
        {"duration_s": -1},
        {"stuntime_s": -0.1},
        {"scenario": "linux-bridge"},
        {"measurement": {"spacing_s": 0}},
        {"measurement": {"spacing_s": 1e300}},
        {"started": "0001-01-01T00:00:00+23:00"},
        {"duration_s": 1e300},
        {"measurement": {"outages": [{"start": 2, "end": 1, "duration_s": 1, "probes_lost": 1, "phase": None}]}},
        {
            "measurement": {
                "outages": [{"start": 1e300, "end": None, "duration_s": None, "probes_lost": 1, "phase": None}]
            }
        },
    ],
)
def test_a_document_that_makes_no_sense_is_foreign(tmp_path, fields):
    """What no measurement can say is refused when it is read, not when it is shown."""
    (tmp_path / "x.json").write_text(
        json.dumps(
            {
                **document(**{k: v for k, v in fields.items() if k != "scenario"}),
                **{k: v for k, v in fields.items() if k == "scenario"},
            }
        )
    )
    assert [u.error.reason for u in load([tmp_path]).unreadable] == ["result-foreign"]


def test_a_torn_result_makes_its_scenario_an_error(tmp_path):
    """The name of a torn file says which scenario has lost its result."""
    folder = copy_of(SANDBOX, tmp_path)
    (folder / "results" / f"{SCENARIO}.json").write_text('{"schema_version": 1')
    found = verdicts(folder)[SCENARIO]
    assert found.verdict == Verdict.ERROR


def test_a_torn_plan_is_named(tmp_path):
    """A plan that cannot be read does not hide what it asked for: the exit code is 4."""
    folder = copy_of(SANDBOX, tmp_path)
    (folder / "summary.json").write_text("{")
    found = aggregate(load([folder]))
    assert [u.error.reason for u in found.unreadable] == ["plan-torn"]
    assert found.exit_code == ExitCode.INVALID


def test_two_that_claim_to_be_the_same_and_differ_are_an_error(tmp_path):
    """Two different results of the same run, scenario and repetition: both files are named, neither wins."""
    one, other = write(tmp_path / "a", document()), write(tmp_path / "b", document(stuntime_s=0.1))
    found = verdicts(one, other)[SCENARIO]
    assert found.verdict == Verdict.ERROR
    assert str(one) in found.judgement.sentence
    assert str(other) in found.judgement.sentence


def test_copies_are_one(tmp_path):
    """The same result in two places, however its JSON is laid out, is one."""
    one = write(tmp_path / "a", document())
    other = tmp_path / "b.json"
    other.write_text(json.dumps(document(), indent=7))
    assert len(load([one, one, other]).documents) == 1


def test_evidence_is_not_searched_for_results(tmp_path):
    """JSON among the evidence is evidence."""
    folder = copy_of(SANDBOX, tmp_path)
    (folder / "evidence" / "pod.json").write_text("{}")
    assert not load([folder]).unreadable


def test_an_empty_directory_and_one_that_is_not_there(tmp_path):
    """Nothing to judge is a usage error."""
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError):
            load([path])


def shuffled(documents, seed, folder):
    """Write the documents into several folders, in an order and under names of the seed's choosing."""
    chance = random.Random(seed)
    folders = [folder / str(n) for n in range(3)]
    for path in folders:
        path.mkdir(parents=True, exist_ok=True)
    for number, found in enumerate(chance.sample(documents, len(documents))):
        (chance.choice(folders) / f"{chance.random()}-{number}.json").write_text(json.dumps(found))
    chance.shuffle(folders)
    return folders


RESULTS = st.builds(
    lambda scenario, run, repetition, value, kind: document(
        scenario,
        run=f"run-{run}",
        started=f"2026-01-0{run}T00:00:00+00:00",
        repetition=repetition,
        stuntime_s=value,
        **({"migration": None} if kind == 0 else {"measurement": {"valid": False}} if kind == 1 else {}),
    ),
    st.sampled_from([SCENARIO, OTHER, "lab-7.to-static-node.static.ipv6"]),
    st.integers(1, 2),
    st.integers(1, 3),
    st.one_of(st.none(), st.sampled_from([0.0, 0.2, 4.999, 5.0, 5.001, 60.0])),
    st.integers(0, 8),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(RESULTS, min_size=1, max_size=6), st.integers(), st.integers())
def test_the_order_of_inputs_never_matters(tmp_path_factory, results, one, other):
    """However results are spread over files and folders, the verdicts are the same."""
    told = []
    for seed in (one, other):
        found = aggregate(load(shuffled(results, seed, tmp_path_factory.mktemp("shuffled"))), run="all")
        told.append([(v.scenario, v.verdict, v.stuntime, v.initiator_view, v.not_recovered) for v in found.verdicts])
    assert told[0] == told[1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(RESULTS, min_size=1, max_size=5), RESULTS)
def test_adding_a_result_never_removes_a_failure(tmp_path_factory, results, added):
    """A scenario that failed fails also with one result more, whatever that says."""
    before = verdicts(*shuffled(results, 1, tmp_path_factory.mktemp("before")), run="all")
    after = verdicts(*shuffled([*results, added], 2, tmp_path_factory.mktemp("after")), run="all")
    for scenario, verdict in before.items():
        if verdict.verdict == Verdict.FAIL:
            assert after[scenario].verdict == Verdict.FAIL
        if verdict.verdict == Verdict.ERROR and "missing" not in verdict.judgement.sentence:
            assert after[scenario].verdict in (Verdict.ERROR, Verdict.FAIL)
