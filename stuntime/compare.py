"""Two sets of values, scenario by scenario: two releases, two labs, before and after."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from pathlib import Path

import msgspec
from msgspec import Struct

from stuntime.aggregate_file import AggregateDocument
from stuntime.baseline import Baseline, read_baseline
from stuntime.comparability import Surroundings, hard_to_compare, of_conditions, of_networks, of_results
from stuntime.conditions import Conditions, conditions_of, differences
from stuntime.documents import AGGREGATE, load, refuse_contradictions, refused, usable
from stuntime.errors import UsageError
from stuntime.published import read_published
from stuntime.ranges import Range
from stuntime.ranktest import ALPHA, holm, mann_whitney, smallest_p
from stuntime.scenario import Scenario, measuring_order

MATCH = ("network", "path", "initiator", "ip_family")


class Finding(StrEnum):
    """What is said of a pair of scenarios."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    NO_DIFFERENCE = "no-difference"
    TOO_FEW = "too-few"
    NOT_RECOVERED = "not-recovered"
    ABOVE = "above-published-range"
    INSIDE = "in-published-range"
    BELOW = "below-published-range"


REGRESSIONS = (Finding.REGRESSION, Finding.NOT_RECOVERED, Finding.ABOVE)


@dataclass(frozen=True)
class Values:
    """The values of a scenario on one side; `published_s` is the range where only that is known."""

    values_s: tuple[float, ...] = ()
    not_recovered: int = 0
    published_s: tuple[float, float] | None = None


@dataclass(frozen=True)
class Side:
    """One of the two sets; `left_out` tells (file, why) of documents that are in none, `unreadable` counts the torn.

    `surroundings`: what is known of where and how it was measured.
    """

    name: str
    scenarios: dict[Scenario, Values]
    conditions: tuple[Conditions, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    unreadable: int = 0
    surroundings: Surroundings = field(default_factory=dict)


class Pair(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A scenario on both sides. `change_s` is the difference of the medians, `p` corrected for all comparisons."""

    a: str
    b: str
    stuntime_a: Range | None
    stuntime_b: Range | None
    published_s: tuple[float, float] | None
    not_recovered_a: int
    not_recovered_b: int
    change_s: float | None
    p: float | None
    finding: str
    sentence: str


class Comparison(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The document that `compare --json` prints."""

    kind: str = "stuntime-comparison"
    schema_version: int = 1
    a: str
    b: str
    match: tuple[str, ...]
    alpha: float
    comparisons: int
    conditions_differ: tuple[str, ...]
    environment_a: dict[str, tuple[str, ...]]
    environment_b: dict[str, tuple[str, ...]]
    hard_to_compare: tuple[str, ...]
    pairs: tuple[Pair, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    left_out_a: tuple[str, ...]
    left_out_b: tuple[str, ...]
    unreadable: int

    @property
    def regressions(self) -> list[Pair]:
        """The pairs that became worse."""
        return [pair for pair in self.pairs if pair.finding in REGRESSIONS]


def read_side(path: Path) -> Side:
    """Return what a directory of results, an aggregate, a baseline or a published file holds; raise UsageError."""
    match _kind(path):
        case "stuntime-aggregate":
            return _of_aggregate(path)
        case "stuntime-baseline":
            baseline = read_baseline(path)
            known = of_conditions([baseline.conditions])
            return Side(str(path), _of_baseline(baseline), (baseline.conditions,), surroundings=known)
        case "stuntime-published":
            published = read_published(path)
            spans = {Scenario.parse(r.scenario): Values((), 0, (r.from_s, r.to_s)) for r in published.ranges}
            known = of_conditions([published.conditions], [found.spacing_s for found in published.ranges])
            return Side(str(path), spans, (published.conditions,), surroundings=known)
    if (path / AGGREGATE).is_file() and not _holds_results(path):
        return _of_aggregate(path / AGGREGATE)
    return _of_results(path)


def _holds_results(path: Path) -> bool:
    """Tell whether there are results besides an aggregate, which may be older than they are."""
    try:
        return bool(load([path]).documents)
    except UsageError:
        return False


def _kind(file: Path) -> str:
    class Kind(Struct):
        kind: str = ""

    try:
        return msgspec.json.decode(file.read_bytes(), type=Kind).kind if file.is_file() else ""
    except (OSError, msgspec.DecodeError):
        return ""


def _of_results(path: Path) -> Side:
    loaded = load([path])
    refuse_contradictions(loaded)
    values: defaultdict[Scenario, list[float]] = defaultdict(list)
    lost: defaultdict[Scenario, int] = defaultdict(int)
    conditions: dict[bytes, Conditions] = {}
    for document in loaded.documents:
        measured, scenario = document.result.measurement, Scenario.parse(document.result.scenario)
        if usable(document.result) is None and measured is not None and measured.stuntime_s is not None:
            values[scenario].append(measured.stuntime_s)
        elif document.result.valid and document.result.migration and measured and not measured.recovered:
            lost[scenario] += 1
        if (found := conditions_of(document.result)) is not None:
            conditions[msgspec.json.encode(found, order="deterministic")] = found
    left_out = [(file, why) for file, why in refused(loaded) if not why.startswith("not-recovered")]
    return Side(
        str(path),
        {s: Values(tuple(sorted(values[s])), lost[s]) for s in dict.fromkeys([*values, *lost])},
        tuple(conditions[key] for key in sorted(conditions)),
        tuple(left_out),
        len(loaded.unreadable),
        of_results([document.result for document in loaded.documents if usable(document.result) is None]),
    )


def _of_aggregate(file: Path) -> Side:
    try:
        found = msgspec.json.decode(file.read_bytes(), type=AggregateDocument)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            f"{file} is no aggregate of this version: {error}", "write it anew with `stuntime aggregate`"
        ) from error
    if found.schema_version != 1 or found.control:
        raise UsageError(
            f"{file} is {'an aggregate of a control run' if found.control else 'of another version'}",
            "name the results of migrations",
        )
    scenarios = {
        Scenario.parse(row.scenario): Values(row.stuntime.values_s if row.stuntime else (), row.not_recovered)
        for row in found.scenarios
        if row.stuntime or row.not_recovered
    }
    left_out = [(row.file, row.reason) for row in found.unreadable]
    left_out += [(row.scenario, why) for row in found.scenarios for why in row.invalid]
    known = of_conditions(found.conditions)
    return Side(str(file), scenarios, found.conditions, tuple(left_out), len(found.unreadable), known)


def _of_baseline(baseline: Baseline) -> dict[Scenario, Values]:
    return {Scenario.parse(scenario): Values(found.values_s) for scenario, found in baseline.scenarios.items()}


def compare(a: Side, b: Side, match: Sequence[str] = MATCH) -> Comparison:
    """Return the comparison of two sides, scenarios paired where all fields in `match` are equal.

    A published range on one side is compared with as a range; everything else by the rank test, corrected for the
    number of pairs. Raise UsageError when nothing pairs, or a scenario pairs with several.
    """
    keyed_a, keyed_b = _keyed(a, match), _keyed(b, match)
    common = [s for s in measuring_order(keyed_a.values()) if _key(s, match) in keyed_b]
    if not common:
        raise UsageError(
            f"{a.name} and {b.name} have no scenario in common",
            "pair networks of different names with --match path,initiator,ip_family",
        )
    pairs = [(s, keyed_b[_key(s, match)]) for s in common]
    tested = [(x, y) for x, y in pairs if a.scenarios[x].published_s is None and b.scenarios[y].published_s is None]
    around_a, around_b = _around(a, [x for x, _ in pairs]), _around(b, [y for _, y in pairs])
    raw = [mann_whitney(_ranked(a.scenarios[x]), _ranked(b.scenarios[y])) for x, y in tested]
    corrected = dict(zip(tested, holm(raw), strict=True))
    return Comparison(
        a=a.name,
        b=b.name,
        match=tuple(match),
        alpha=ALPHA,
        comparisons=len(tested),
        conditions_differ=tuple(_conditions_differ(a, b)),
        environment_a=around_a,
        environment_b=around_b,
        hard_to_compare=tuple(hard_to_compare(around_a, around_b)),
        pairs=tuple(_pair(x, y, a.scenarios[x], b.scenarios[y], corrected.get((x, y)), len(tested)) for x, y in pairs),
        only_a=tuple(s.id for s in measuring_order(keyed_a.values()) if _key(s, match) not in keyed_b),
        only_b=tuple(s.id for s in measuring_order(keyed_b.values()) if _key(s, match) not in keyed_a),
        left_out_a=tuple(f"{file}: {why}" for file, why in a.left_out),
        left_out_b=tuple(f"{file}: {why}" for file, why in b.left_out),
        unreadable=a.unreadable + b.unreadable,
    )


def _around(side: Side, paired: Iterable[Scenario]) -> dict[str, tuple[str, ...]]:
    """Return where and how a side was measured, of its networks only those that are compared."""
    names = {scenario.network for scenario in paired}
    networks = [network for found in side.conditions for name, network in found.networks.items() if name in names]
    return {**{name: tuple(values) for name, values in side.surroundings.items()}, **of_networks(networks)}


def _key(scenario: Scenario, match: Sequence[str]) -> tuple[str, ...]:
    return tuple(getattr(scenario, name) for name in match)


def _keyed(side: Side, match: Sequence[str]) -> dict[tuple[str, ...], Scenario]:
    keyed: dict[tuple[str, ...], Scenario] = {}
    for scenario in sorted(side.scenarios, key=lambda scenario: scenario.id):
        known = keyed.setdefault(_key(scenario, match), scenario)
        if known != scenario:
            raise UsageError(
                f"in {side.name} {known.id} and {scenario.id} are the same by {', '.join(match)}",
                "name the results of one network, or match by more",
            )
    return keyed


def _ranked(values: Values) -> list[float]:
    """Return the values to rank: one that never recovered is larger than all that did."""
    return [*values.values_s, *[inf] * values.not_recovered]


def _pair(x: Scenario, y: Scenario, a: Values, b: Values, p: float | None, comparisons: int) -> Pair:
    range_a, range_b = Range.of(a.values_s), Range.of(b.values_s)
    finding, sentence = _finding(a, b, p, comparisons)
    return Pair(
        a=x.id,
        b=y.id,
        stuntime_a=range_a,
        stuntime_b=range_b,
        published_s=a.published_s or b.published_s,
        not_recovered_a=a.not_recovered,
        not_recovered_b=b.not_recovered,
        change_s=range_b.median_s - range_a.median_s if range_a and range_b else None,
        p=p,
        finding=finding,
        sentence=sentence,
    )


def _finding(a: Values, b: Values, p: float | None, comparisons: int) -> tuple[Finding, str]:
    for one, other in ((b, a), (a, b)) if b.published_s is not None else ((b, a),):
        if one.not_recovered and not other.not_recovered:
            return Finding.NOT_RECOVERED, f"never recovered in {one.not_recovered} of {len(_ranked(one))}"
    if p is None:
        return _against_published(a.published_s or b.published_s, [*a.values_s, *b.values_s])
    n, m = len(_ranked(a)), len(_ranked(b))
    if p <= ALPHA:
        worse = _mean_rank(_ranked(b), _ranked(a)) > 0
        return (Finding.REGRESSION if worse else Finding.IMPROVEMENT), f"beyond chance (p = {p:.2g})"
    if smallest_p(n, m) * comparisons > ALPHA:
        return Finding.TOO_FEW, f"{n} and {m} values are too few to say anything in {comparisons} comparisons"
    return Finding.NO_DIFFERENCE, f"no difference beyond chance (p = {p:.2g})"


def _mean_rank(ones: Sequence[float], others: Sequence[float]) -> float:
    """Return by how many pairs `ones` is larger than `others`."""
    return sum((one > other) - (one < other) for one in ones for other in others)


def _against_published(published_s: tuple[float, float] | None, values_s: Sequence[float]) -> tuple[Finding, str]:
    if published_s is None or not values_s:
        return Finding.TOO_FEW, "there is no value to compare with the published range"
    span = f"{published_s[0]:g} to {published_s[1]:g} s"
    if max(values_s) > published_s[1]:
        return Finding.ABOVE, f"{max(values_s):.3f} s is above the published range of {span}"
    if min(values_s) < published_s[0]:
        return Finding.BELOW, f"{min(values_s):.3f} s is below {span}: pass, range no longer true: publish anew"
    return Finding.INSIDE, f"in the published range of {span}"


def _conditions_differ(a: Side, b: Side) -> Iterable[str]:
    told = [difference for one in a.conditions for other in b.conditions for difference in differences(one, other)]
    return dict.fromkeys(told)
