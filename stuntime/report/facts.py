"""What the page says of a measurement, the exit criteria, the environment and of what was invalid."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import PurePosixPath
from typing import Any

from stuntime.aggregate import Aggregate, ScenarioVerdict
from stuntime.comparability import HARD, hard_to_compare, of_results, shown
from stuntime.conditions import Conditions, conditions_of
from stuntime.policy import Policy
from stuntime.ranges import Range
from stuntime.report.evidence import Evidence
from stuntime.result import Result
from stuntime.scenario import Scenario
from stuntime.threshold import Verdict

#: Of long lists so many are shown.
SHOWN = 40
#: What the platforms' table begins with; the rest is in the environment.
_BESIDE = ("testbed", "versions", *HARD)
_PHASE_WORDS = {
    "preparation": ", began while the migration was prepared",
    "switch-over": ", began in the switch-over",
    "after": ", began after the migration",
}


@dataclass(frozen=True)
class Criterion:
    """An exit criterion, whether it is met, and what shows it."""

    name: str
    met: bool
    shown: str


@dataclass(frozen=True)
class SideBySide:
    """Several platforms: their names, each fact with its value on each, what makes their numbers hard to compare."""

    names: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    hard: Sequence[str]


def platforms_of(details: Mapping[str, Result]) -> SideBySide | None:
    """Return the platforms that were measured, with the ranges of each; None when there is one only."""
    groups: dict[str, list[Result]] = {}
    for result in details.values():
        if result.environment is not None:
            groups.setdefault(f"{result.environment.cluster_id} ({result.environment.testbed})", []).append(result)
    if len(groups) < 2:  # noqa: PLR2004 - nothing stands beside one
        return None
    names = list(groups)
    known = [of_results(group) for group in groups.values()]
    rows = [("stuntime", [_range_of(group) for group in groups.values()])]
    rows += [(name, [shown(facts.get(name, ())) for facts in known]) for name in _BESIDE]
    hard = [
        told
        for (one, ones), (other, others) in combinations(zip(names, known, strict=True), 2)
        for told in hard_to_compare(ones, others, (one, other))
    ]
    return SideBySide(names, rows, hard)


def _range_of(results: Iterable[Result]) -> str:
    measured = [result.measurement for result in results if result.valid and result.measurement]
    found = Range.of(m.stuntime_s for m in measured if m.stuntime_s is not None)
    return f"{found} (n = {found.n})" if found else "no value"


def facts_of(result: Result, evidence: Evidence | None) -> Iterable[tuple[str, str]]:
    """Yield what is known of a measurement, by name."""
    measured, moved = result.measurement, result.migration
    yield "run", f"{result.run}, repetition {result.repetition}, {result.started}"
    if measured is not None:
        sent, answered, lost = measured.probes_sent, measured.probes_answered, measured.probes_lost
        if measured.bounds_s is not None:
            upper = measured.bounds_s.upper
            least = f"at least {measured.bounds_s.lower:.3f} s"
            yield "bounds", f"{least}, at most {upper:.3f} s" if upper is not None else least
        yield "probes", f"{sent} sent, {answered} answered, {lost} lost, one every {measured.spacing_s:.3f} s"
        for outage in measured.outages:
            length = "never ended" if outage.duration_s is None else f"{outage.duration_s:.3f} s"
            yield (
                "outage",
                f"{length}, {count_of(outage.probes_lost, 'probe')} lost{_PHASE_WORDS.get(outage.phase or '', '')}",
            )
        if measured.reasons:
            yield "remarks", ", ".join(measured.reasons)
    if moved is not None:
        took = "" if moved.started is None or moved.ended is None else f", took {moved.ended - moved.started:.3f} s"
        yield (
            "migration",
            f"{moved.source} to {moved.target}, {moved.mode}{took}; migration no. {moved.ordinal} of this VM"
            + (f"; source and target: {moved.configuration['nodes']}" if "nodes" in moved.configuration else ""),
        )
    if result.capture is not None:
        told = result.capture.stuntime_s
        yield "packet capture", "says nothing" if told is None else f"says {told:.3f} s by the same rule"
    if result.error is not None:
        yield "error", f"{result.error.message}; way out: {result.error.way_out}"
    if evidence is not None and evidence.files:
        folders = dict.fromkeys(str(PurePosixPath(file.file).parent) for file, _ in evidence.files)
        names = [
            PurePosixPath(file.file).name + (f" ({wrong})" if wrong else f" ({file.bytes} bytes)")
            for file, wrong in evidence.files
        ]
        yield "evidence", f"{', '.join(names)} in {', '.join(folders)}"


def count_of(number: int, what: str) -> str:
    """Return a number and what it counts."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def criteria_of(
    aggregate: Aggregate, details: Mapping[str, Result], evidence: Mapping[str, Evidence], policy: Policy
) -> Iterable[Criterion]:
    """Yield the exit criteria, each with what shows whether it is met."""
    expected = [v for v in aggregate.verdicts if v.scenario in aggregate.expected]
    missing = [v.scenario.id for v in expected if not v.documents or "missing:" in v.judgement.sentence]
    yield Criterion(
        "All expected scenarios were run, or why not is documented",
        not missing,
        f"{len(expected) - len(missing)} of {len(expected)}" + (f"; missing: {', '.join(missing)}" if missing else ""),
    )
    invalid = sum(v.verdict == Verdict.ERROR for v in expected)
    yield Criterion("Every expected scenario has a valid verdict", not invalid, f"{invalid} without")
    failed = sum(v.verdict == Verdict.FAIL for v in aggregate.verdicts)
    yield Criterion(
        "No scenario is over its threshold, above its published range or cut off", not failed, f"{failed} are"
    )
    yield _baseline_criterion(expected, details, policy)
    listed = [v.scenario.id for v in expected if v.scenario.id in details and details[v.scenario.id].evidence]
    intact = sum(found.intact for found in evidence.values())
    yield Criterion(
        "Evidence is listed for every scenario",
        len(listed) == len(expected),
        f"{len(listed)} of {len(expected)} list it; of {intact} all files are here and unchanged",
    )
    yield Criterion("Every document could be read", not aggregate.unreadable, f"{len(aggregate.unreadable)} could not")


def _baseline_criterion(
    expected: Sequence[ScenarioVerdict], details: Mapping[str, Result], policy: Policy
) -> Criterion:
    name = "A baseline of this lab is present"
    if policy.baseline is None:
        return Criterion(name, met=False, shown="none was given (--baseline)")
    covered = sum(v.baseline is not None for v in expected)
    told = f"{covered} of {len(expected)} scenarios, at least {policy.baseline.at_least} values of each, "
    told += f"by {policy.baseline.author}, {policy.baseline.created}"
    cluster = policy.baseline.conditions.cluster_id
    others = {c.cluster_id for c in all_conditions(details.values())} - {cluster}
    if others:
        told += f"; but it is of {cluster}, and measured was {', '.join(sorted(others))}"
    return Criterion(name, met=covered == len(expected) and not others, shown=told)


def all_conditions(results: Iterable[Result]) -> list[Conditions]:
    """Return each of the conditions that occur."""
    found: list[Conditions] = []
    for result in results:
        conditions = conditions_of(result)
        if conditions is not None and conditions not in found:
            found.append(conditions)
    return found


def environment_of(details: Mapping[str, Result]) -> Iterable[tuple[str, str]]:
    """Yield each known fact of the environment; where results differ, each value with how many say so."""
    told: dict[str, dict[str, int]] = {}

    def tell(name: str, value: Any) -> None:
        if value not in (None, {}, ""):
            values = told.setdefault(name, {})
            values[str(value)] = values.get(str(value), 0) + 1

    for result in details.values():
        found = result.environment
        tell("tool", f"stuntime {result.tool_version}")
        tell("interval of the probes", f"{result.interval_s:g} s")
        if found is None:
            continue
        network = Scenario.parse(result.scenario).network
        tell("testbed", found.testbed)
        tell("cluster", found.cluster_id)
        for name, version in sorted(found.product_versions.items()):
            tell(name, version)
        tell("guest image", found.guest_image)
        tell("guest kernel", found.guest_kernel)
        tell("accelerator", found.accelerator)
        tell(f"network {network}", ", ".join(f"{key} {value}" for key, value in sorted(found.network.items())))
        tell(f"NIC of {network}", found.nic)
        for name, facts in sorted(found.nodes.items()):
            tell(f"node {name}", ", ".join(f"{key} {value}" for key, value in sorted(facts.items())))
        for role, facts in sorted(found.guests.items()):
            tell(f"ping of the {role} VM", facts.get("ping"))
    for name, values in told.items():
        if len(values) == 1:
            yield name, next(iter(values))
        else:
            yield name, "; ".join(f"{value} ({count} results)" for value, count in values.items())


def trouble_of(aggregate: Aggregate) -> Iterable[tuple[str, str]]:
    """Yield what was invalid, missing or unreadable, and why."""
    for verdict in aggregate.verdicts:
        if verdict.verdict == Verdict.ERROR and not verdict.invalid:
            yield verdict.scenario.id, verdict.judgement.sentence
        yield from ((verdict.scenario.id, f"{why} ({file})") for file, why in verdict.invalid[:SHOWN])
    for found in aggregate.unreadable:
        yield found.file, f"{found.error.reason}: {found.error}"
    for found in aggregate.unreadable_aside:
        yield found.file, f"{found.error.reason}: {found.error} (of a run that is not judged)"


def policy_of(policy: Policy) -> Iterable[tuple[str, str]]:
    """Yield what the results were judged by."""
    thresholds = policy.thresholds_file.thresholds
    entries = len(thresholds.networks) + len(thresholds.scenarios)
    yield "thresholds", "a thresholds file" if entries or thresholds.everywhere.given else "no file: built in"
    baseline = policy.baseline
    if baseline is None:
        yield "baseline", "none"
    else:
        where = f"{baseline.conditions.cluster_id}, {baseline.created}, by {baseline.author}"
        yield "baseline", f"{where}, digest {baseline.inputs_sha256[:16]}"
    if policy.published is not None:
        yield "published ranges", policy.published.release or "a release without a name"
