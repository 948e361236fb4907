"""The output directory: whole files, and what is missing."""

import os
from pathlib import Path

import pytest

from stuntime.errors import TestbedError, UsageError
from stuntime.outage import analyze
from stuntime.ping import parse_ping_log
from stuntime.result import ErrorRecord
from stuntime.scenario import scenarios
from stuntime.store import OutputDirectory, Plan, read_plan
from tests.unit.pinglog import log_lines, probes
from tests.unit.test_result import result

PLAN = Plan(
    run="a-run",
    tool_version="0.1.0",
    testbed="sandbox",
    started="2026-03-04T10:11:12+00:00",
    scenarios=tuple(scenario.id for scenario in scenarios()[:3]),
    repeat=2,
    interval_s=0.1,
    recovery_probes=None,
    recovery_timeout_s=60.0,
    migrate=True,
    capture=False,
)


def test_a_run_is_resumed_with_what_is_missing(tmp_path: Path) -> None:
    """Valid results are kept; errors, invalid, torn and absent ones are measured again."""
    output = OutputDirectory.create(tmp_path / "out", PLAN)
    assert len(output.missing()) == 6
    first, second, third = PLAN.scenarios
    clipped = analyze(parse_ping_log(log_lines(probes(60, lost=(1,)))))
    for document in (
        result(scenario=first),
        result(scenario=second, error=ErrorRecord("a-reason", "it failed", "mend it", 5)),
        result(scenario=third, measurement=clipped),
    ):
        output.evidence(document.scenario, 1)
        output.write(document)
    (output.root / "results" / f"{third}.2.json").write_text("{")
    resumed = OutputDirectory.resume(output.root)
    assert resumed.plan == PLAN
    assert resumed.missing() == [(second, 1), (third, 1), (first, 2), (second, 2), (third, 2)]


def test_evidence_is_recorded_with_its_digest(tmp_path: Path) -> None:
    """Each file of evidence stands in the document with its size and digest."""
    output = OutputDirectory.create(tmp_path, PLAN)
    (output.evidence(PLAN.scenarios[0], 1) / "ping.log").write_bytes(b"abc")
    (kept,) = output.write(result(scenario=PLAN.scenarios[0])).evidence
    assert (kept.file, kept.bytes) == (f"evidence/{PLAN.scenarios[0]}/ping.log", 3)
    assert kept.sha256.startswith("ba7816bf")


def test_a_directory_with_a_run_is_not_written_over(tmp_path: Path) -> None:
    """A second run into the same directory is refused, and the way out is to resume."""
    OutputDirectory.create(tmp_path, PLAN)
    with pytest.raises(UsageError) as refused:
        OutputDirectory.create(tmp_path, PLAN)
    assert "--resume" in refused.value.way_out


def test_results_of_another_run_are_never_adopted(tmp_path: Path) -> None:
    """A folder that holds results is refused, and results of another run do not count as this one's."""
    output = OutputDirectory.create(tmp_path / "out", PLAN)
    output.evidence(PLAN.scenarios[0], 1)
    output.write(result(run="another-run"))
    assert len(output.missing()) == 6
    (output.root / "summary.json").unlink()
    with pytest.raises(UsageError):
        OutputDirectory.create(output.root, PLAN)


@pytest.mark.parametrize("content", [None, "{", '{"plan": {}}'])
def test_a_directory_without_a_run_cannot_be_resumed(tmp_path: Path, content: str | None) -> None:
    """Nothing, something torn or something foreign is no run."""
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(UsageError, match="holds no run"):
        read_plan(tmp_path)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails half-way leaves the old file whole, no half one beside it, and says what to do."""
    output = OutputDirectory.create(tmp_path, PLAN)
    output.evidence(PLAN.scenarios[0], 1)
    output.write(result(scenario=PLAN.scenarios[0]))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TestbedError, match="No space left") as refused:
        output.write(result(scenario=PLAN.scenarios[0], duration_s=9.0))
    assert "--resume" in refused.value.way_out
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_output_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A file where the directory should be is a clear error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        OutputDirectory.create(tmp_path / "file", PLAN)
