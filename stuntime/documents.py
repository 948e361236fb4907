"""Result documents on a disk: found, read and checked, so many that only what is judged of each is kept in memory."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from stuntime.errors import InvalidError, StuntimeError, UsageError
from stuntime.result import Environment, Result, parse_result
from stuntime.scenario import Scenario
from stuntime.store import SUMMARY, Plan, Summary

AGGREGATE = "aggregate.json"
_OURS = (SUMMARY, AGGREGATE)
_EVIDENCE = "evidence"
#: What no measurement can say: a year between two replies, a moment after the year 5000.
_LONGEST_S, _LATEST = 3e7, 1e11


@dataclass(frozen=True, slots=True)
class Document:
    """A result document: where it lies, and the result without its bulk (`whole` returns that).

    `digest` is that of its content: two of the same run, scenario and repetition with the same one are copies.
    """

    file: str
    digest: bytes
    started: datetime
    result: Result

    @property
    def key(self) -> tuple[str, str, int]:
        """What it claims to be: scenario, run, repetition."""
        return self.result.scenario, self.result.run, self.result.repetition

    @property
    def root(self) -> Path:
        """The directory that the paths of its evidence are relative to."""
        folder = Path(self.file).parent
        return folder.parent if folder.name == "results" else folder

    def whole(self) -> Result:
        """Return the whole result, read again; raise InvalidError when it has changed or gone in between."""
        try:
            return parse_result(Path(self.file).read_bytes(), self.file)
        except OSError as error:
            raise InvalidError(
                f"{self.file} cannot be read any more: {error.strerror}", "aggregate again", reason="result-unreadable"
            ) from error


@dataclass(frozen=True)
class Unreadable:
    """A file that is no usable result: why, the run of the directory it lies in, the scenario that its name tells."""

    file: str
    error: InvalidError
    run: str | None = None
    scenario: str | None = None


@dataclass(frozen=True)
class Loaded:
    """What was found, in an order that does not depend on where it lay or how it was named.

    `contradictions` are pairs of documents that claim to be the same measurement and differ.
    """

    documents: tuple[Document, ...]
    plans: tuple[Plan, ...]
    unreadable: tuple[Unreadable, ...]
    contradictions: tuple[tuple[Document, Document], ...]


def load(paths: Iterable[Path]) -> Loaded:
    """Return the results in files and folders, those below them too.

    What is no result is kept with the reason and stops nothing. Raise UsageError when a path does not exist or there
    is nothing at all.
    """
    found: dict[tuple[tuple[str, str, int], bytes], Document] = {}
    plans: dict[bytes, Plan] = {}
    unreadable: dict[str, Unreadable] = {}
    environments: dict[bytes, Environment] = {}
    seen: set[str] = set()
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist", "name result files, or the output directory of a run")
        for file, run in _files(path, plans, unreadable):
            if (real := os.path.realpath(file)) in seen:
                continue
            seen.add(real)
            try:
                document = _document(file, environments)
            except InvalidError as error:
                unreadable[file] = Unreadable(file, error, run, _scenario_of(file))
                continue
            known = found.get((document.key, document.digest))
            if known is None or document.file < known.file:
                found[document.key, document.digest] = document
    if not (found or plans or unreadable):
        raise UsageError("there are no results", "name result files, or the output directory of a run")
    documents = sorted(found.values(), key=lambda document: (document.key, document.digest))
    first: dict[tuple[str, str, int], Document] = {}
    contradictions = [
        (first[document.key], document)
        for document in documents
        if first.setdefault(document.key, document) is not document
    ]
    return Loaded(
        documents=tuple(documents),
        plans=tuple(plans[key] for key in sorted(plans)),
        unreadable=tuple(unreadable[file] for file in sorted(unreadable)),
        contradictions=tuple(contradictions),
    )


def _files(path: Path, plans: dict[bytes, Plan], unreadable: dict[str, Unreadable]) -> Iterator[tuple[str, str | None]]:
    """Yield the files that should be results, each with the run of the directory that it belongs to."""
    if path.is_file():
        yield str(path), None
        return
    runs: dict[str, str | None] = {}
    entered: set[str] = set()  # links are followed, in circles not
    for folder, below, names in os.walk(
        path, onerror=lambda error: _unreadable_folder(error, unreadable), followlinks=True
    ):
        if (real := os.path.realpath(folder)) in entered:
            below.clear()
            continue
        entered.add(real)
        below[:] = sorted(name for name in below if name != _EVIDENCE and not name.startswith("."))
        run = runs.get(os.path.dirname(folder))  # noqa: PTH120 - a hundred thousand times
        if SUMMARY in names:
            plan = _plan(os.path.join(folder, SUMMARY), unreadable)  # noqa: PTH118
            if plan is not None:
                plans[msgspec.json.encode(plan)] = plan
                run = plan.run
        runs[folder] = run
        for name in sorted(names):
            if name.endswith(".json") and name not in _OURS and not name.startswith("."):
                yield os.path.join(folder, name), run  # noqa: PTH118


def _unreadable_folder(error: OSError, unreadable: dict[str, Unreadable]) -> None:
    file = str(error.filename)
    wrong = InvalidError(f"{file} cannot be read: {error.strerror}", "mend its permissions", reason="result-unreadable")
    unreadable[file] = Unreadable(file, wrong)


def _plan(file: str, unreadable: dict[str, Unreadable]) -> Plan | None:
    try:
        plan = msgspec.json.decode(Path(file).read_bytes(), type=Summary).plan
        _moment(plan.started)
        for scenario in plan.scenarios:
            Scenario.parse(scenario)
    except (OSError, msgspec.DecodeError, ValueError, OverflowError, UsageError) as error:
        wrong = InvalidError(
            f"{file} is torn or foreign: {error}", "name with --expect what was planned", reason="plan-torn"
        )
        unreadable[file] = Unreadable(file, wrong)
        return None
    return plan


def _scenario_of(file: str) -> str | None:
    """Return the scenario that the name of a result's file tells, ID.json or ID.REPETITION.json."""
    try:
        return Scenario.parse(".".join(Path(file).name.removesuffix(".json").split(".")[:4])).id
    except UsageError:
        return None


def _document(file: str, environments: dict[bytes, Environment]) -> Document:
    try:
        with open(file, "rb") as opened:  # noqa: PTH123 - a hundred thousand times
            text = opened.read()
    except OSError as error:
        raise InvalidError(
            f"{file} cannot be read: {error.strerror}", "mend its permissions", reason="result-unreadable"
        ) from error
    result = parse_result(text, file)
    try:
        started = _require_sense(result)
    except (ValueError, OverflowError, UsageError) as error:
        raise InvalidError(f"{file} is no result document: {error}", "leave it out", reason="result-foreign") from error
    digest = hashlib.blake2b(msgspec.json.encode(result, order="deterministic"), digest_size=16).digest()
    return Document(file, digest, started, _light(result, environments))


def _require_sense(result: Result) -> datetime:
    """Return when the measurement began; raise ValueError or UsageError when the document says what cannot be."""
    Scenario.parse(result.scenario)
    if result.schema_version < 1 or result.repetition < 1:
        raise ValueError("schema_version and repetition count from 1")
    measured, moved = result.measurement, result.migration
    durations = [result.duration_s, result.interval_s]
    times: list[float | None] = []
    if moved is not None:
        times = [moved.requested, moved.started, moved.ended, moved.end_seen, *moved.phases.values()]
    if measured is not None:
        durations += [
            measured.stuntime_s or 0.0,
            measured.initiator_view_s or 0.0,
            measured.noise_s,
            measured.spacing_s,
        ]
        spans = [(outage.start, outage.end) for outage in measured.outages]
        spans += [(gap.start, gap.end) for gap in measured.gaps]
        times += [time for span in spans for time in span] + [time for time, _ in measured.clock_steps]
        if not measured.spacing_s > 0:
            raise ValueError("spacing_s is not above 0")
        if any(end is not None and end < start for start, end in spans):
            raise ValueError("an outage ends before it begins")
    if not all(0 <= duration < _LONGEST_S for duration in durations):
        raise ValueError("a duration is negative or absurd")
    if not all(time is None or 0 <= time < _LATEST for time in times):
        raise ValueError("a time is absurd")
    return _moment(result.started)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} has no offset from UTC")
    return moment.astimezone(UTC)


def _light(result: Result, environments: dict[bytes, Environment]) -> Result:
    """Return a result with what its verdict and its conditions need; alike environments are kept once."""
    replace = msgspec.structs.replace
    environment = result.environment
    if environment is not None:
        environment = replace(environment, nodes={}, guests={})
        key = msgspec.json.encode(environment, order="deterministic")
        environment = environments.setdefault(key, environment)
    moved, measured = result.migration, result.measurement
    return replace(
        result,
        measurement=measured and replace(measured, outages=(), gaps=(), clock_steps=()),
        migration=moved and replace(moved, phases={}, configuration={}),
        clocks={},
        environment=environment,
        evidence=(),
    )


def usable(result: Result) -> str | None:
    """Return why a result may not go into a baseline or a published range; None when it may."""
    measured = result.measurement
    if result.error is not None:
        return f"{result.error.reason}: {result.error.message}"
    if measured is None or not result.valid:
        return f"invalid: {', '.join(measured.reasons) if measured else 'nothing was measured'}"
    if result.migration is None:
        return "control-run: nothing was migrated"
    if not measured.recovered:
        return "not-recovered: there is no number"
    return "no-number: the measurement has none" if measured.stuntime_s is None else None


def refused(loaded: Loaded) -> list[tuple[str, str]]:
    """Return the file of each document that may not be pooled, and why."""
    told = [(found.file, found.error.reason) for found in loaded.unreadable]
    return told + [(d.file, why) for d in loaded.documents if (why := usable(d.result)) is not None]


def refuse_contradictions(loaded: Loaded) -> None:
    """Raise InvalidError, naming both files, when two documents claim the same measurement and differ."""
    if loaded.contradictions:
        one, other = loaded.contradictions[0]
        raise contradiction(one, other)


def contradiction(one: Document, other: Document) -> StuntimeError:
    """Return the error of two documents that claim to be the same measurement and differ."""
    files = " and ".join(sorted((one.file, other.file)))
    scenario, run, repetition = one.key
    return InvalidError(
        f"{files} both claim to be repetition {repetition} of {scenario} in run {run}, and differ",
        "leave one of them out: nobody but you can know which one is true",
        reason="results-contradict",
    )
