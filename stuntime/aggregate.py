"""Many results, one verdict per scenario. Pure; needs no testbed."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import product
from math import inf

from stuntime.conditions import conditions_of, differences
from stuntime.documents import Document, Loaded, Unreadable, contradiction
from stuntime.errors import ExitCode, UsageError
from stuntime.policy import Policy
from stuntime.published import PublishedRange
from stuntime.ranges import Range
from stuntime.scenario import Scenario, measuring_order, scenarios, select
from stuntime.threshold import Judgement, Threshold, Verdict, exit_code, judge, worst

ALL_RUNS = "all"


@dataclass(frozen=True)
class ScenarioVerdict:
    """The verdict of a scenario and what it was made of.

    `documents` are its repetitions; `decisive` is the one that the verdict is of (None: there is none). `stuntime` and
    `initiator_view` summarise the valid ones that recovered; `not_recovered` and `invalid` count the others.
    """

    scenario: Scenario
    judgement: Judgement
    documents: tuple[Document, ...]
    decisive: Document | None
    threshold: Threshold
    baseline: Range | None = None
    published: PublishedRange | None = None
    stuntime: Range | None = None
    initiator_view: Range | None = None
    not_recovered: int = 0
    invalid: tuple[tuple[str, str], ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Shorthand."""
        return self.judgement.verdict


@dataclass(frozen=True)
class Aggregate:
    """All verdicts, in measuring order, each expected scenario exactly once.

    `runs` were judged, `aside` were found and were not. `unreadable` counts against the exit code, `unreadable_aside`
    lies with runs that were not judged. `notes` are sentences that a reader has to know.
    """

    verdicts: tuple[ScenarioVerdict, ...]
    runs: tuple[str, ...]
    aside: tuple[str, ...]
    unreadable: tuple[Unreadable, ...]
    unreadable_aside: tuple[Unreadable, ...]
    notes: tuple[str, ...]
    expected: frozenset[Scenario]
    control: bool

    @cached_property
    def exit_code(self) -> ExitCode:
        """The exit code that the verdicts ask for; 4 also when a document could not be read."""
        code = exit_code([verdict.verdict for verdict in self.verdicts])
        return ExitCode.INVALID if self.unreadable and code == ExitCode.OK else code


def aggregate(
    loaded: Loaded, policy: Policy | None = None, *, expect: str | None = None, run: str | None = None
) -> Aggregate:
    """Return the verdict of every expected scenario.

    Expected is the selection `expect`, else what the judged runs planned, else the 12 of IPv4; without a result it is
    an `error`. Other scenarios of the same ip families are `skipped`; one that was not expected and has results is
    judged all the same. `run` is the id of a run, or `all`; without it the newest is judged. Raise UsageError when
    `expect` or `run` names nothing.
    """
    policy = policy or Policy()
    begun = _begun(loaded)
    runs = _judged_runs(begun, run)
    documents = [document for document in loaded.documents if document.result.run in runs]
    plans = [plan for plan in loaded.plans if plan.run in runs]
    planned = {
        (plan.run, scenario, repetition): None
        for plan in plans
        for repetition, scenario in product(range(1, plan.repeat + 1), plan.scenarios)
    }
    grouped: defaultdict[str, list[Document]] = defaultdict(list)
    for document in documents:
        grouped[document.result.scenario].append(document)
    expected = _expected(expect, [scenario for _, scenario, _ in planned], grouped)
    policy.thresholds_file.require_used([*expected, *map(Scenario.parse, grouped)])

    unreadable = [found for found in loaded.unreadable if found.run is None or found.run in runs]
    asked = {scenario.id for scenario in expected}
    missing = _missing([key for key in planned if key[1] in asked], documents)
    trouble = _trouble(loaded, unreadable, runs, missing)
    control_runs = frozenset(plan.run for plan in plans if not plan.migrate)
    families = sorted({scenario.ip_family for scenario in expected})
    known = dict.fromkeys([*scenarios(ip_families=families), *expected, *map(Scenario.parse, sorted(grouped))])
    verdicts = [
        _verdict(
            scenario,
            grouped.get(scenario.id, []),
            policy,
            expected=scenario in expected,
            trouble=trouble.get(scenario.id, []),
            control_runs=control_runs,
        )
        for scenario in measuring_order(known)
    ]
    aside = tuple(sorted(set(begun) - runs))
    return Aggregate(
        verdicts=tuple(verdicts),
        runs=tuple(sorted(runs)),
        aside=aside,
        unreadable=tuple(unreadable),
        unreadable_aside=tuple(found for found in loaded.unreadable if found not in unreadable),
        notes=tuple(_notes(run, runs, aside, control_runs, verdicts, policy)),
        expected=frozenset(expected),
        control=bool(control_runs),
    )


def _begun(loaded: Loaded) -> dict[str, datetime]:
    """Return when each run began, by its id: as its plan says, else when its first result did."""
    begun: dict[str, datetime] = {}
    for document in loaded.documents:
        run = document.result.run
        begun[run] = min(document.started, begun.get(run, document.started))
    return begun | {plan.run: datetime.fromisoformat(plan.started) for plan in loaded.plans}


def _judged_runs(begun: dict[str, datetime], asked: str | None) -> set[str]:
    if asked == ALL_RUNS:
        return set(begun)
    if asked is not None:
        if asked not in begun:
            raise UsageError(f"there is no run {asked!r}", f"known are {', '.join(sorted(begun)) or 'none'}, or `all`")
        return {asked}
    return {max(begun, key=lambda run: (begun[run], run))} if begun else set()


def _expected(expect: str | None, planned: Iterable[str], measured: Iterable[str]) -> list[Scenario]:
    if expect is not None:
        everything = scenarios(ip_families=("ipv4", "ipv6"))
        return select(expect, list(dict.fromkeys([*everything, *map(Scenario.parse, [*planned, *sorted(measured)])])))
    return [Scenario.parse(text) for text in dict.fromkeys(planned)] or scenarios()


def _missing(planned: Iterable[tuple[str, str, int]], documents: Iterable[Document]) -> dict[str, list[str]]:
    """Return, by scenario, the repetitions that a run planned and no result is there for."""
    measured = {(document.result.run, document.result.scenario, document.result.repetition) for document in documents}
    missing: defaultdict[str, list[str]] = defaultdict(list)
    for run, scenario, repetition in planned:
        if (run, scenario, repetition) not in measured:
            missing[scenario].append(f"{repetition} of run {run}")
    return missing


def _trouble(
    loaded: Loaded, unreadable: Sequence[Unreadable], runs: set[str], missing: dict[str, list[str]]
) -> dict[str, list[Judgement]]:
    """Return what is wrong with a scenario beside its results: torn files, contradictions, missing repetitions."""
    trouble: defaultdict[str, list[Judgement]] = defaultdict(list)
    for found in unreadable:
        if found.scenario is not None:
            trouble[found.scenario].append(Judgement(Verdict.ERROR, f"{found.error.reason}: {found.error}"))
    for one, other in loaded.contradictions:
        if one.result.run in runs:
            error = contradiction(one, other)
            trouble[one.result.scenario].append(Judgement(Verdict.ERROR, f"{error.reason}: {error}"))
    for scenario, repetitions in missing.items():
        sentence = f"missing: there is no result for repetition {_some(repetitions)}"
        trouble[scenario].append(Judgement(Verdict.ERROR, sentence))
    return trouble


def _some(items: Sequence[str], most: int = 5) -> str:
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")


def _verdict(
    scenario: Scenario,
    documents: Sequence[Document],
    policy: Policy,
    *,
    expected: bool,
    trouble: Sequence[Judgement],
    control_runs: frozenset[str],
) -> ScenarioVerdict:
    baseline, published = policy.baseline_of(scenario), policy.published_of(scenario)
    threshold = policy.threshold_of(scenario)
    span_s = (published.from_s, published.to_s) if published else None
    judged = [
        (judge(d.result, threshold.seconds, published_s=span_s, control=d.result.run in control_runs), d)
        for d in documents
    ]
    judged.sort(key=lambda pair: (-_size(pair[1]), pair[1].key, pair[1].digest))
    judgements = [*(judgement for judgement, _ in judged), *trouble]
    if not judgements:
        sentence = "missing: there is no result" if expected else "not asked for"
        judgements = [Judgement(Verdict.ERROR if expected else Verdict.SKIPPED, sentence)]
    decided = worst(judgements)
    good = [d.result.measurement for j, d in judged if j.verdict in (Verdict.PASS, Verdict.FAIL)]
    numbers = Range.of(m.stuntime_s for m in good if m and m.recovered and m.stuntime_s is not None)
    views = Range.of(m.initiator_view_s for m in good if m and m.recovered and m.initiator_view_s is not None)
    return ScenarioVerdict(
        scenario=scenario,
        judgement=Judgement(decided.verdict, decided.sentence + _of_many(documents, numbers)),
        documents=tuple(sorted((d for _, d in judged), key=lambda d: (d.key, d.digest))),
        decisive=next((d for j, d in judged if j == decided), judged[0][1] if judged else None),
        threshold=threshold,
        baseline=baseline,
        published=published,
        stuntime=numbers,
        initiator_view=views,
        not_recovered=sum(1 for m in good if m and not m.recovered),
        invalid=tuple((d.file, j.sentence) for j, d in judged if j.verdict == Verdict.ERROR),
    )


def _of_many(documents: Sequence[Document], numbers: Range | None) -> str:
    if len(documents) <= 1:
        return ""
    return f"; {len(documents)} repetitions" + (f", {numbers} in {numbers.n}" if numbers else "")


def _size(document: Document) -> float:
    """Return what makes a result worse among those of the same verdict: not recovered, then the largest number."""
    measured = document.result.measurement
    if measured is None:
        return -1.0
    return inf if measured.stuntime_s is None or not measured.recovered else measured.stuntime_s


def _notes(
    asked: str | None,
    runs: set[str],
    aside: Sequence[str],
    control_runs: frozenset[str],
    verdicts: Sequence[ScenarioVerdict],
    policy: Policy,
) -> Iterable[str]:
    if aside:
        newest = ", the newest" if asked is None else ""
        yield (
            f"judged is run {', '.join(sorted(runs))}{newest}; not judged: {_some(aside)}. "
            "Another is judged with --run ID, all with --run all"
        )
    if control_runs:
        yield f"control run: in {_some(sorted(control_runs))} nothing was migrated; these are no stuntimes"
    yield from _of_other_conditions(verdicts, policy)
    for verdict in verdicts:
        published, found = verdict.published, verdict.stuntime
        if published is not None and found is not None and found.smallest_s < published.from_s:
            yield f"{verdict.scenario.id} is below its published range: the range is no longer true, publish anew"


def _of_other_conditions(verdicts: Sequence[ScenarioVerdict], policy: Policy) -> Iterable[str]:
    """Yield in which fields what was measured differs from the baseline's and the published conditions."""
    seen = {}
    for document in (document for verdict in verdicts for document in verdict.documents):
        result = document.result
        seen[id(result.environment), result.interval_s, result.recovery_probes] = result
    for name, reference in policy.references():
        told = {
            difference: None
            for result in seen.values()
            if (conditions := conditions_of(result)) is not None
            for difference in differences(reference, conditions)
        }
        if told:
            yield f"these results were not measured under the conditions of {name}: {'; '.join(told)}"
