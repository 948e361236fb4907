"""The document aggregate.json: the verdicts of a run, with all values, for other tools and for `compare`."""

import msgspec
from msgspec import Struct

from stuntime import __version__
from stuntime.aggregate import Aggregate, ScenarioVerdict
from stuntime.conditions import Conditions, conditions_of
from stuntime.ranges import Range


class AggregateRow(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A scenario's verdict, what it was judged by and what it was made of (see `aggregate.ScenarioVerdict`)."""

    scenario: str
    verdict: str
    sentence: str
    expected: bool
    threshold_s: float
    threshold_from: str
    baseline_largest_s: float | None
    published_s: tuple[float, float] | None
    stuntime: Range | None
    initiator_view: Range | None
    not_recovered: int
    invalid: tuple[str, ...]


class UnreadableRow(Struct, frozen=True, forbid_unknown_fields=True):
    """A file that is no usable result document."""

    file: str
    reason: str
    message: str


class AggregateDocument(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All verdicts. `conditions` are those that occur among the results, one by one."""

    kind: str = "stuntime-aggregate"
    schema_version: int = 1
    tool_version: str
    exit_code: int
    control: bool
    runs: tuple[str, ...]
    runs_not_judged: tuple[str, ...]
    notes: tuple[str, ...]
    unreadable: tuple[UnreadableRow, ...]
    conditions: tuple[Conditions, ...]
    scenarios: tuple[AggregateRow, ...]


def document_of(aggregate: Aggregate) -> AggregateDocument:
    """Return the document of an aggregate."""
    conditions = {}
    for verdict in aggregate.verdicts:
        for document in verdict.documents:
            if (found := conditions_of(document.result)) is not None:
                conditions[msgspec.json.encode(found, order="deterministic")] = found
    return AggregateDocument(
        tool_version=__version__,
        exit_code=int(aggregate.exit_code),
        control=aggregate.control,
        runs=aggregate.runs,
        runs_not_judged=aggregate.aside,
        notes=aggregate.notes,
        unreadable=tuple(
            UnreadableRow(found.file, found.error.reason, str(found.error))
            for found in (*aggregate.unreadable, *aggregate.unreadable_aside)
        ),
        conditions=tuple(conditions[key] for key in sorted(conditions)),
        scenarios=tuple(
            _row(verdict, expected=verdict.scenario in aggregate.expected) for verdict in aggregate.verdicts
        ),
    )


def _row(verdict: ScenarioVerdict, *, expected: bool) -> AggregateRow:
    return AggregateRow(
        scenario=verdict.scenario.id,
        verdict=str(verdict.verdict),
        sentence=verdict.judgement.sentence,
        expected=expected,
        threshold_s=verdict.threshold.seconds,
        threshold_from=verdict.threshold.origin,
        baseline_largest_s=verdict.baseline.largest_s if verdict.baseline else None,
        published_s=(verdict.published.from_s, verdict.published.to_s) if verdict.published else None,
        stuntime=verdict.stuntime,
        initiator_view=verdict.initiator_view,
        not_recovered=verdict.not_recovered,
        invalid=tuple(f"{file}: {why}" for file, why in verdict.invalid),
    )
