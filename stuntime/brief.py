"""What a Tekton task says of its work in one line: short enough for a result, which shares 4 KB with all others."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from stuntime.aggregate_file import AggregateDocument
from stuntime.documents import AGGREGATE
from stuntime.errors import ExitCode, StuntimeError
from stuntime.store import write_evidence
from stuntime.threshold import Verdict

_SENTENCE = 400


def of_scenario(root: Path, scenario: str) -> dict[str, Any]:
    """Return the verdict of a scenario in an output directory that was judged, and its stuntime in seconds."""
    found = _aggregate(root)
    rows = [row for row in found.scenarios if row.scenario == scenario] if found else []
    if not rows:
        return {"scenario": scenario, "verdict": str(Verdict.ERROR), "stuntime_s": None, "why": "nothing was judged"}
    row = rows[0]
    return {
        "scenario": scenario,
        "verdict": row.verdict,
        "stuntime_s": row.stuntime.largest_s if row.stuntime else None,
        "why": row.sentence[:_SENTENCE],
    }


def of_run(root: Path) -> dict[str, Any]:
    """Return how many scenarios of an output directory have which verdict, and the exit code that they ask for."""
    found = _aggregate(root)
    if found is None:
        return {"exit_code": int(ExitCode.INVALID), "why": "nothing was judged"}
    counted = Counter(row.verdict for row in found.scenarios)
    numbers = [row.stuntime.largest_s for row in found.scenarios if row.stuntime]
    return {
        "exit_code": found.exit_code,
        **{str(verdict): counted[str(verdict)] for verdict in Verdict},
        "largest_stuntime_s": max(numbers, default=None),
    }


def of_failure(scenario: str, error: BaseException) -> dict[str, Any]:
    """Return what is said of a scenario that nothing could be measured of."""
    why = f"{error.reason}: {error}" if isinstance(error, StuntimeError) else type(error).__name__
    return {"scenario": scenario, "verdict": str(Verdict.ERROR), "stuntime_s": None, "why": why[:_SENTENCE]}


def write(path: Path, told: dict[str, Any]) -> None:
    """Write it whole, in one line without a line break, all of it ASCII; raise TestbedError where that fails."""
    write_evidence(path, json.dumps(told).encode())


def _aggregate(root: Path) -> AggregateDocument | None:
    """Return what was judged; None where that was not come to."""
    if not (root / AGGREGATE).exists():
        return None
    return msgspec.json.decode((root / AGGREGATE).read_bytes(), type=AggregateDocument)
