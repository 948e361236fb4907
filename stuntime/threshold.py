"""Policy: from results to a verdict. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from stuntime.errors import ExitCode
from stuntime.outage import INVALID
from stuntime.result import Result

DEFAULT_THRESHOLD_S = 5.0


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


def judge(result: Result, threshold_s: float = DEFAULT_THRESHOLD_S) -> Judgement:
    """Return the verdict of one measurement: `fail` over the threshold or not recovered, `error` when not valid."""
    measured = result.measurement
    if result.error is not None:
        return Judgement(Verdict.ERROR, f"{result.error.reason}: {result.error.message}")
    if measured is None:
        return Judgement(Verdict.ERROR, "missing: nothing was measured")
    if not measured.valid:
        why = "; ".join(f"{reason}: {INVALID[reason]}" for reason in measured.reasons if reason in INVALID)
        return Judgement(Verdict.ERROR, f"invalid: {why}")
    if measured.stuntime_s is None:
        lower_s = measured.bounds_s.lower if measured.bounds_s else 0.0
        return Judgement(Verdict.FAIL, f"not recovered, at least {lower_s:.3f} s")
    noisy = f" (noisy: {measured.noise_s:.3f} s between replies)" if "noisy" in measured.reasons else ""
    if measured.stuntime_s > threshold_s:
        return Judgement(
            Verdict.FAIL, f"{measured.stuntime_s:.3f} s is over the threshold of {threshold_s:.3f} s{noisy}"
        )
    return Judgement(Verdict.PASS, f"{measured.stuntime_s:.3f} s, threshold {threshold_s:.3f} s{noisy}")


def worst(judgements: Sequence[Judgement]) -> Judgement:
    """Return the worst one: fail, then error, then pass, then skipped; the first of equals."""
    return max(judgements, key=lambda judgement: _WORSE.index(judgement.verdict))


def exit_code(verdicts: Sequence[Verdict]) -> ExitCode:
    """Return 1 when any verdict is `fail`, else 4 when any is `error`, else 0."""
    if Verdict.FAIL in verdicts:
        return ExitCode.FAIL
    return ExitCode.INVALID if Verdict.ERROR in verdicts else ExitCode.OK
