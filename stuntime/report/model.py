"""What the page says, as plain values: the template only lays it out. Pure but for the evidence it is given."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from stuntime.aggregate import Aggregate, ScenarioVerdict
from stuntime.policy import Policy
from stuntime.ranges import Range
from stuntime.report.drawing import Moment, range_bar, timeline
from stuntime.report.evidence import Evidence
from stuntime.report.facts import (
    SHOWN,
    Criterion,
    SideBySide,
    all_conditions,
    count_of,
    criteria_of,
    environment_of,
    facts_of,
    platforms_of,
    policy_of,
    trouble_of,
)
from stuntime.result import Result
from stuntime.scenario import INITIATORS, PATHS, Scenario
from stuntime.threshold import Verdict

MARKS = {Verdict.PASS: "✔", Verdict.FAIL: "✖", Verdict.ERROR: "!", Verdict.SKIPPED: "-"}
PATH_WORDS = {
    "from-static-node": "away from the static VM's node",
    "between-other-nodes": "between two other nodes",
    "to-static-node": "to the static VM's node",
}


@dataclass(frozen=True)
class Cell:
    """A scenario in the matrix, and its section."""

    id: str
    verdict: str
    mark: str
    sentence: str
    number: str
    hidden: str
    view: str
    why_differ: str
    threshold: str
    baseline: str
    published: str
    count: int
    values: str
    bar: str
    drawing: str
    moments: Sequence[Moment] = ()
    facts: Sequence[tuple[str, str]] = ()
    invalid: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Row:
    """A line of the matrix: where the migrated VM moves; a cell (or None) for each initiator."""

    path: str
    words: str
    cells: Sequence[Cell | None]


@dataclass(frozen=True)
class Network:
    """The half of the matrix that is one network and ip family."""

    name: str
    ip_family: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Page:
    """All that the page says."""

    verdict: str
    mark: str
    headline: str
    summary: str
    bad: Sequence[Cell]
    runs: str
    measured: str
    where: str
    networks: Sequence[Network]
    cells: Sequence[Cell]
    criteria: Sequence[Criterion]
    environment: Sequence[tuple[str, str]]
    trouble: Sequence[tuple[str, str]]
    notes: Sequence[str]
    policy: Sequence[tuple[str, str]] = field(default=())
    platforms: SideBySide | None = None


def page_of(
    aggregate: Aggregate, details: Mapping[str, Result], evidence: Mapping[str, Evidence], policy: Policy
) -> Page:
    """Return what the page says; `details` and `evidence` are of the decisive results, by scenario id."""
    widest_s = _widest_s(aggregate.verdicts)
    cells = {
        v.scenario: _cell(v, details.get(v.scenario.id), evidence.get(v.scenario.id), widest_s)
        for v in aggregate.verdicts
    }
    verdict, headline, summary = _banner(aggregate)
    days = sorted(d.started.date().isoformat() for v in aggregate.verdicts for d in v.documents)
    conditions = all_conditions(details.values())
    return Page(
        verdict=verdict,
        mark=MARKS[Verdict(verdict)],
        headline=headline,
        summary=summary,
        bad=[cells[v.scenario] for v in aggregate.verdicts if v.verdict in (Verdict.FAIL, Verdict.ERROR)],
        runs=", ".join(aggregate.runs[:SHOWN]) or "none",
        measured=" to ".join(dict.fromkeys((days[0], days[-1]))) if days else "never",
        where=", ".join(dict.fromkeys(f"{c.cluster_id} ({c.testbed})" for c in conditions)) or "unknown",
        networks=[
            _network(name, family, cells)
            for (name, family), _ in groupby(
                aggregate.verdicts, key=lambda v: (v.scenario.network, v.scenario.ip_family)
            )
        ],
        cells=[cells[v.scenario] for v in aggregate.verdicts if v.verdict != Verdict.SKIPPED],
        criteria=list(criteria_of(aggregate, details, evidence, policy)),
        environment=list(environment_of(details)),
        trouble=list(trouble_of(aggregate)),
        notes=aggregate.notes,
        policy=list(policy_of(policy)),
        platforms=platforms_of(details),
    )


def _banner(aggregate: Aggregate) -> tuple[str, str, str]:
    counts = {verdict: sum(v.verdict == verdict for v in aggregate.verdicts) for verdict in Verdict}
    asked = len(aggregate.verdicts) - counts[Verdict.SKIPPED]
    unproven = counts[Verdict.ERROR]
    if counts[Verdict.FAIL]:
        verdict, headline = Verdict.FAIL, f"{counts[Verdict.FAIL]} of {asked} scenarios failed"
        headline += f", {unproven} without a verdict" if unproven else ""
    elif unproven or aggregate.unreadable:
        verdict = Verdict.ERROR
        headline = f"No verdict for {unproven} of {asked} scenarios" if unproven else "Not all documents could be read"
    else:
        verdict, headline = Verdict.PASS, f"All {asked} scenarios passed"
    if aggregate.control:
        headline += " (control run: nothing was migrated)"
    numbers = [(v.stuntime.largest_s, v) for v in aggregate.verdicts if v.stuntime]
    lost = [v for v in aggregate.verdicts if v.not_recovered]
    told = []
    if lost:
        told.append(f"In {count_of(len(lost), 'scenario')} the VMs never talked again.")
    if numbers:
        value_s, longest = max(numbers, key=lambda item: item[0])
        told.append(
            f"The longest stuntime was {value_s:.3f} s ({longest.scenario.id}); its threshold is "
            f"{longest.threshold.seconds:.3f} s."
        )
    return str(verdict), headline, " ".join(told)


def _network(name: str, family: str, cells: Mapping[Scenario, Cell]) -> Network:
    rows = [
        Row(path, PATH_WORDS[path], [cells.get(Scenario(name, path, initiator, family)) for initiator in INITIATORS])
        for path in PATHS
    ]
    return Network(name, family, rows)


def _widest_s(verdicts: Iterable[ScenarioVerdict]) -> float:
    """Return the largest number that is drawn in a bar: all bars have one scale, so that they can be compared."""
    shown = [v for v in verdicts if v.verdict != Verdict.SKIPPED]
    numbers = [found.largest_s for v in shown for found in (v.stuntime, v.baseline) if found]
    return max([*numbers, *(v.threshold.seconds for v in shown)], default=1.0)


def _cell(verdict: ScenarioVerdict, result: Result | None, evidence: Evidence | None, widest_s: float) -> Cell:
    scenario = verdict.scenario
    drawn = timeline(result, evidence, f"Probes of {scenario.id}") if result and evidence else None
    view = verdict.initiator_view
    found = verdict.stuntime
    of = f"{verdict.not_recovered} of {len(verdict.documents)} " if len(verdict.documents) > 1 else ""
    lost = f"{of}never recovered" if verdict.not_recovered else ""
    published = verdict.published
    return Cell(
        id=scenario.id,
        verdict=str(verdict.verdict),
        mark=MARKS[verdict.verdict],
        sentence=verdict.judgement.sentence,
        number="; ".join(filter(None, (lost, str(found) if found else ""))) or "no value",
        hidden=_hidden(result),
        view=str(view) if view else "unknown",
        why_differ=_why_differ(scenario, found, view, result),
        threshold=str(verdict.threshold),
        baseline=f"{verdict.baseline} (n = {verdict.baseline.n})" if verdict.baseline else "none",
        published=f"{published.from_s:g} to {published.to_s:g} s" if published else "",
        count=len(verdict.documents),
        values=_values(found),
        bar=range_bar(
            f"Stuntime of {scenario.id}",
            found,
            verdict.baseline,
            verdict.threshold.seconds,
            widest_s=widest_s,
            endless=bool(verdict.not_recovered),
        ),
        drawing=drawn[0] if drawn else "",
        moments=drawn[1] if drawn else (),
        facts=list(facts_of(result, evidence)) if result else (),
        invalid=verdict.invalid[:SHOWN],
    )


def _hidden(result: Result | None) -> str:
    """Return what an outage could have lasted that was too short to be seen; nothing where one was seen."""
    measured = result.measurement if result else None
    if measured is None or measured.stuntime_s != 0 or not measured.bounds_s or measured.bounds_s.upper is None:
        return ""
    return f"{measured.bounds_s.upper:.3f} s (between two probes)"


def _values(found: Range | None) -> str:
    if found is None:
        return ""
    shown = ", ".join(f"{value:.3f}" for value in found.values_s[-SHOWN:])
    more = f" (the largest {SHOWN} of {found.n})" if found.n > SHOWN else ""
    return f"{shown} s{more}; median {found.median_s:.3f} s"


def _why_differ(scenario: Scenario, found: Range | None, view: Range | None, result: Result | None) -> str:
    """Return why the initiator's view is another number; nothing where they agree to a spacing."""
    measured = result.measurement if result else None
    if found is None or view is None or measured is None or abs(found.largest_s - view.largest_s) <= measured.spacing_s:
        return ""
    if scenario.initiator == "migrated":
        return (
            "The pinging VM is the one that moves. While it is paused it sends nothing and its clock stands still, so "
            "its own log shows a shorter outage or none; the static VM hears nothing from it all that time."
        )
    return "The pinging VM's own time stamps and the observer's disagree by more than a probe."
