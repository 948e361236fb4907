"""The output directory of a run: results, their evidence and a summary, each file written whole or not at all.

DIR/summary.json                 the run's plan and its table
DIR/results/ID[.REPETITION].json one result document per measurement
DIR/evidence/ID[.REPETITION]/    its raw evidence
"""

import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from stuntime.errors import InvalidError, TestbedError, UsageError
from stuntime.result import EvidenceFile, Result, parse_result, to_json

SUMMARY = "summary.json"


class Plan(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a run was asked to measure. `scenarios` are ids in measuring order; `started` is ISO 8601 with offset.

    `settings` are the testbed's own options that decide what is measured, where they are not the defaults.
    """

    run: str
    tool_version: str
    testbed: str
    started: str
    scenarios: tuple[str, ...]
    repeat: int
    interval_s: float
    recovery_probes: int | None
    recovery_timeout_s: float
    migrate: bool
    capture: bool
    settings: dict[str, Any] = {}


class Row(Struct, frozen=True, forbid_unknown_fields=True):
    """A result in one line."""

    scenario: str
    repetition: int
    stuntime_s: float | None
    initiator_view_s: float | None
    recovered: bool | None
    valid: bool
    error: str | None


class Summary(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The document summary.json: the plan, written before anything is measured, and what was measured so far."""

    plan: Plan
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class OutputDirectory:
    """An output directory of one run."""

    root: Path
    plan: Plan

    @classmethod
    def create(cls, root: Path, plan: Plan) -> "OutputDirectory":
        """Make the directory of a new run; raise UsageError when it holds one already or cannot be written."""
        if (root / SUMMARY).exists() or any((root / "results").glob("*")):
            raise UsageError(f"{root} holds a run already", f"go on with `--resume {root}`, or name another directory")
        directory = cls(root, plan)
        try:
            for part in ("results", "evidence"):
                (root / part).mkdir(parents=True, exist_ok=True)
            write_whole(root / SUMMARY, to_json(Summary(plan=plan)))
        except OSError as error:
            raise UsageError(f"{root} cannot be written: {error.strerror}", "name another one with --output") from error
        return directory

    @classmethod
    def resume(cls, root: Path) -> "OutputDirectory":
        """Open the directory of a run that is to be gone on with; raise UsageError when it is none."""
        return cls(root, read_plan(root))

    def missing(self) -> list[tuple[str, int]]:
        """Return scenario id and repetition of all that the plan names and no valid result is there for, in order."""
        done = {
            (result.scenario, result.repetition)
            for result in self.results()
            if result.valid and result.run == self.plan.run
        }
        planned = product(range(1, self.plan.repeat + 1), self.plan.scenarios)
        return [(scenario, repetition) for repetition, scenario in planned if (scenario, repetition) not in done]

    def results(self) -> list[Result]:
        """Return the results that can be read, in the order of their files; `aggregate` tells of torn ones."""
        found = []
        for path in sorted((self.root / "results").glob("*.json")):
            with suppress(InvalidError):
                found.append(parse_result(path.read_bytes(), str(path)))
        return found

    def evidence(self, scenario: str, repetition: int) -> Path:
        """Return an empty folder for a measurement's evidence; raise TestbedError when the disk does not take it."""
        folder = self._evidence(scenario, repetition)
        try:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
        except OSError as error:
            raise _not_writable(folder, error) from error
        return folder

    def write(self, result: Result) -> Result:
        """Write a result document with the digests of its evidence, and the summary; return the result as written.

        Raise TestbedError when the disk does not take it.
        """
        files = sorted(path for path in self._evidence(result.scenario, result.repetition).rglob("*") if path.is_file())
        whole = msgspec.structs.replace(result, evidence=tuple(_evidence_file(path, self.root) for path in files))
        write_evidence(self.document(result.scenario, result.repetition), to_json(whole))
        self.refresh()
        return whole

    def document(self, scenario: str, repetition: int) -> Path:
        """Return the file of a measurement's result document."""
        return self.root / "results" / f"{_stem(scenario, repetition)}.json"

    def refresh(self) -> None:
        """Write the summary of the results that are there now; raise TestbedError when the disk does not take it."""
        rows = tuple(_row(known) for known in self.results())
        write_evidence(self.root / SUMMARY, to_json(Summary(plan=self.plan, rows=rows)))

    def _evidence(self, scenario: str, repetition: int) -> Path:
        return self.root / "evidence" / _stem(scenario, repetition)


def read_plan(root: Path) -> Plan:
    """Return the plan of the run in a directory; raise UsageError when it holds none."""
    try:
        return msgspec.json.decode((root / SUMMARY).read_bytes(), type=Summary).plan
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{root} holds no run: {error}", "name the output directory of a run") from error


def _row(result: Result) -> Row:
    measured = result.measurement
    return Row(
        scenario=result.scenario,
        repetition=result.repetition,
        stuntime_s=measured.stuntime_s if measured else None,
        initiator_view_s=measured.initiator_view_s if measured else None,
        recovered=measured.recovered if measured else None,
        valid=result.valid,
        error=result.error.reason if result.error else None,
    )


def write_evidence(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raise TestbedError when the disk does not take it."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise _not_writable(path, error) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: under a temporary name beside it, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _stem(scenario: str, repetition: int) -> str:
    return scenario if repetition == 1 else f"{scenario}.{repetition}"


def _evidence_file(path: Path, base: Path) -> EvidenceFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return EvidenceFile(str(path.relative_to(base)), digest, path.stat().st_size)


def _not_writable(path: Path, error: OSError) -> TestbedError:
    return TestbedError(
        f"{path} cannot be written: {error.strerror}",
        "make room and go on with --resume: what was measured before is intact",
        reason="output-not-writable",
    )
