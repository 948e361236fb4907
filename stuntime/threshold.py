"""Policy: from results to a verdict. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from stuntime.errors import ExitCode
from stuntime.outage import INVALID
from stuntime.result import DURATION_DIGITS, Result
from stuntime.scenario import Scenario

DEFAULT_FACTOR, DEFAULT_FLOOR_S, DEFAULT_CEILING_S = 4.0, 0.5, 5.0
DEFAULT_THRESHOLD_S = DEFAULT_CEILING_S


class Verdict(StrEnum):
    """What is said of a scenario; the later in `_WORSE`, the worse."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    ERROR = "error"
    SKIPPED = "skipped"


_WORSE = (Verdict.SKIPPED, Verdict.PASS, Verdict.ERROR, Verdict.FAIL)


@dataclass(frozen=True)
class Judgement:
    """A verdict and the sentence that defends it."""

    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class Entry:
    """What a thresholds file says at one level; None: nothing. `threshold`, `floor` and `ceiling` are seconds."""

    threshold: float | None = None
    factor: float | None = None
    floor: float | None = None
    ceiling: float | None = None

    @property
    def given(self) -> bool:
        """Whether it says anything."""
        return self != Entry()

    @property
    def shapes_baseline(self) -> bool:
        """Whether it says how a threshold is made of a baseline."""
        return (self.factor, self.floor, self.ceiling) != (None, None, None)


@dataclass(frozen=True)
class Thresholds:
    """What a thresholds file says: for all, by network, by scenario id."""

    everywhere: Entry = Entry()
    networks: Mapping[str, Entry] = field(default_factory=dict)
    scenarios: Mapping[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True)
class Threshold:
    """The largest stuntime that passes, and where that number comes from."""

    seconds: float
    origin: str

    def __str__(self) -> str:
        """Return it for a person."""
        return f"{self.seconds:.3f} s ({self.origin})"


def from_baseline(largest_s: float, factor: float, floor_s: float, ceiling_s: float) -> float:
    """Return max(floor, min(largest x factor, ceiling)) in seconds, to a millisecond."""
    return round(max(floor_s, min(largest_s * factor, ceiling_s)), DURATION_DIGITS)


def threshold_of(scenario: Scenario, thresholds: Thresholds, baseline_largest_s: float | None = None) -> Threshold:
    """Return the threshold of a scenario, from the first that says something.

    In this order: the scenario's entry, the network's entry, the baseline, the entry for all, 5 s. An entry either
    gives a `threshold`, or it shapes the one that comes from the baseline; what it leaves open is taken from the next
    wider level. Without a baseline an entry's ceiling is the threshold: it is what no baseline could exceed.
    """
    nothing = Entry()
    levels = [
        ("the scenario's entry", thresholds.scenarios.get(scenario.id, nothing)),
        ("the network's entry", thresholds.networks.get(scenario.network, nothing)),
        ("the entry for all", thresholds.everywhere),
    ]
    entries = [entry for _, entry in levels]
    factor = _nearest([entry.factor for entry in entries], DEFAULT_FACTOR)
    floor_s = _nearest([entry.floor for entry in entries], DEFAULT_FLOOR_S)
    ceiling_s = _nearest([entry.ceiling for entry in entries], DEFAULT_CEILING_S)
    made_s = None if baseline_largest_s is None else from_baseline(baseline_largest_s, factor, floor_s, ceiling_s)
    for origin, entry in levels[:2]:
        if entry.threshold is not None:
            return Threshold(entry.threshold, origin)
        if made_s is not None and entry.shapes_baseline:
            return Threshold(made_s, f"the baseline, by {origin}")
        if entry.ceiling is not None:
            return Threshold(max(floor_s, entry.ceiling), origin)
    if made_s is not None:
        return Threshold(made_s, "the baseline")
    origin, entry = levels[2]
    if entry.threshold is not None:
        return Threshold(entry.threshold, origin)
    return Threshold(max(floor_s, ceiling_s), origin if entry.shapes_baseline else "built in")


def _nearest(values: Sequence[float | None], default: float) -> float:
    return next((value for value in values if value is not None), default)


def judge(
    result: Result,
    threshold_s: float = DEFAULT_THRESHOLD_S,
    *,
    published_s: tuple[float, float] | None = None,
    control: bool = False,
) -> Judgement:
    """Return the verdict of one measurement.

    `fail`: not recovered, over the threshold, or above the published range; `error`: not valid. `published_s` is that
    range; below it is `pass`, and said. `control` says that the run was asked to migrate nothing; otherwise a
    measurement without a migration is an `error`.
    """
    if (wrong := _why_not(result, control=control)) is not None:
        return Judgement(Verdict.ERROR, wrong)
    measured = result.measurement
    if measured is None or not measured.recovered:
        lower_s = measured.bounds_s.lower if measured and measured.bounds_s else 0.0
        return Judgement(Verdict.FAIL, f"not recovered, at least {lower_s:.3f} s")
    if measured.stuntime_s is None:
        return Judgement(Verdict.ERROR, "missing: the measurement has no number")
    return _judge_number(measured.stuntime_s, threshold_s, published_s, _remarks(result, control=control))


def _why_not(result: Result, *, control: bool) -> str | None:
    """Return why a result says nothing of its scenario; None when it does."""
    measured = result.measurement
    if result.error is not None:
        return f"{result.error.reason}: {result.error.message}"
    if measured is None:
        return "missing: nothing was measured"
    wrong = [f"{reason}: {INVALID[reason]}" for reason in measured.reasons if reason in INVALID]
    if wrong or not measured.valid:
        return f"invalid: {'; '.join(wrong) or 'the document does not say why'}"
    if result.migration is None and not control:
        return "not-migrated: nothing was migrated, and the run was no control run"
    return None


def _judge_number(
    stuntime_s: float, threshold_s: float, published_s: tuple[float, float] | None, remarks: str
) -> Judgement:
    smallest_s, largest_s = published_s or (-inf, inf)
    published = f"the published range of {smallest_s:.3f} to {largest_s:.3f} s"
    if stuntime_s > threshold_s:
        return Judgement(
            Verdict.FAIL, f"over-threshold: {stuntime_s:.3f} s is over the threshold of {threshold_s:.3f} s{remarks}"
        )
    if stuntime_s > largest_s:
        return Judgement(Verdict.FAIL, f"above-published-range: {stuntime_s:.3f} s is above {published}{remarks}")
    sentence = f"{stuntime_s:.3f} s, threshold {threshold_s:.3f} s{remarks}"
    if stuntime_s < smallest_s:
        sentence += f"; below-published-range: below {published}: range no longer true: publish anew"
    return Judgement(Verdict.PASS, sentence)


def _remarks(result: Result, *, control: bool) -> str:
    measured = result.measurement
    remarks = []
    if measured is not None and measured.stuntime_s == 0 and measured.bounds_s and measured.bounds_s.upper:
        remarks.append(f"up to {measured.bounds_s.upper:.3f} s could hide between two probes")
    if measured is not None and "noisy" in measured.reasons:
        remarks.append(f"noisy: {measured.noise_s:.3f} s between replies")
    remarks += ["control run: nothing was migrated"] if control else []
    return f" ({'; '.join(remarks)})" if remarks else ""


def worst(judgements: Sequence[Judgement]) -> Judgement:
    """Return the worst one: fail, then error, then pass, then skipped; the first of equals."""
    return max(judgements, key=lambda judgement: _WORSE.index(judgement.verdict))


def exit_code(verdicts: Sequence[Verdict]) -> ExitCode:
    """Return 1 when any verdict is `fail`, else 4 when any is `error`, else 0."""
    if Verdict.FAIL in verdicts:
        return ExitCode.FAIL
    return ExitCode.INVALID if Verdict.ERROR in verdicts else ExitCode.OK
