"""From logs to a number: the measurement, its bounds, and whether it may be used. Pure functions, no I/O.

Times are epoch seconds in the reference clock (the static VM's); durations are seconds.
"""

from collections.abc import Sequence
from itertools import pairwise

from msgspec import Struct

from stuntime.arrivals import Arrivals
from stuntime.gaps import SILENT_SPACINGS, Bounds, Gap, Outage, Window, default_recovery_probes, read_timeline
from stuntime.ping import PingLog
from stuntime.timeline import timeline_of

WARM_UP_PROBES = 10
NOISE_SPACINGS = 1.5
#: Guests' clocks differ by less; the measurements of a suite lie farther apart.
APART_S = 3.0

#: Why a measurement must not be used.
INVALID = {
    "several-pings": "the log holds several runs of ping",
    "no-true-times": "the migrated VM's clock is not to be trusted: it needs an observer's log or a capture",
    "arrivals-foreign": "what arrived at the static VM is seconds away from ping's stamps: of another measurement?",
    "observer-incomplete": "replies that ping saw are missing in the observer's log or the capture",
    "clocks-disagree": "ping's own time stamps and the observer's differ by more than a spacing",
    "clock-stepped": "the clock of the log stepped, and there is no other one",
    "loss-before-first-reply": "probes were lost before the first good reply",
    "window-outside-log": "the migration was asked for before ping's first reply, or after the end of the log",
    "outage-undecided": "the static VM noted a reply so late that the outage may have gone on after it",
    "outage-before-migration": "there was an outage before the migration was asked for",
}
#: What to know about a measurement that may be used.
WARNINGS = {
    "noisy": "replies outside the outages came unevenly",
    "warm-up-short": "the log has fewer than ten good replies before its first gap",
    "recovery-unconfirmed": "the log ends before the recovery was lasting",
}


class Measurement(Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured.

    `stuntime_s` is None when there was no recovery (`recovered`) or no true times. `noise_s` is the largest distance of
    good replies outside the outages. `clock_steps`: (time, size) of the known steps of the static VM's wall clock.
    `reasons` are keys of INVALID and WARNINGS; `valid` says that none of INVALID is among them.
    """

    stuntime_s: float | None
    bounds_s: Bounds | None
    recovered: bool
    valid: bool
    reasons: tuple[str, ...]
    outages: tuple[Outage, ...]
    gaps: tuple[Gap, ...]
    total_outage_s: float | None
    envelope_s: float | None
    initiator_view_s: float | None
    spacing_s: float
    noise_s: float
    probes_sent: int
    probes_answered: int
    probes_lost: int
    probes_in_flight: int
    clock_steps: tuple[tuple[float, float], ...]


def analyze(
    log: PingLog,
    *,
    initiator: str = "static",
    arrivals: Arrivals | None = None,
    window: Window | None = None,
    interval_s: float | None = None,
    recovery_probes: int | None = None,
    end_seen: float | None = None,
    apart_s: float = 0.0,
    clock_drift_s: float = 0.0,
    like: Measurement | None = None,
) -> Measurement:
    """Return what a ping log, and what arrived at the static VM, say of the stuntime.

    Raise InvalidError when they say nothing. `arrivals` and `window` are in the reference clock. `recovery_probes` good
    replies in a row are a lasting recovery (default: ten, or as many as one second holds). `end_seen` is given in a
    run: when the migration's end was seen; the lasting recovery has to be sent after it. Without it, as for an old log,
    a recovery that is not confirmed is a warning. `apart_s` is by how much the arrivals' clock is known to be ahead of
    the initiator's, `clock_drift_s` by how much samples of the static VM's clock before and after disagree. `like` is
    given for a check: the measurement of the same probes by another clock, whose milliseconds must not flip what is
    silent.
    """
    window = window or Window()
    timeline = timeline_of(
        log,
        initiator=initiator,
        arrivals=arrivals,
        warm_up_until=window.requested,
        interval_s=interval_s,
        apart_s=apart_s,
    )
    needed = recovery_probes or default_recovery_probes(timeline.spacing_s)
    clock_steps = arrivals.clock_steps if arrivals else ()
    reading = read_timeline(timeline, needed, window, end_seen, clock_steps, like.gaps if like else None)
    view_s = reading.stuntime_s
    if arrivals is not None:
        own = timeline_of(log, initiator=initiator, interval_s=timeline.spacing_s)
        same_clock = initiator == "static"
        view_s = read_timeline(
            own, needed, window if same_clock else Window(), None, (), reading.gaps if same_clock else None
        ).stuntime_s

    spacing_s, stuntime_s = timeline.spacing_s, reading.stuntime_s
    opens = window.opens(spacing_s)
    true_times = arrivals is not None or initiator == "static"
    stepped = bool(clock_steps or log.steps_back_s)
    told = {
        "several-pings": log.headers > 1,
        "no-true-times": not true_times,
        "arrivals-foreign": abs(timeline.apart_s) > APART_S,
        "observer-incomplete": arrivals is not None and bool(timeline.missing or not arrivals.complete),
        "clocks-disagree": arrivals is not None
        and initiator == "static"
        and not stepped
        and stuntime_s is not None
        and view_s is not None
        and abs(stuntime_s - view_s) > spacing_s,
        "clock-stepped": arrivals is None and (bool(log.steps_back_s) or abs(clock_drift_s) > spacing_s / 2),
        "loss-before-first-reply": timeline.lost_before > 0,
        "window-outside-log": window.requested is not None and not timeline.covers(window.requested),
        "outage-undecided": like is None and stuntime_s is not None and reading.late_s > stuntime_s + spacing_s,
        "outage-before-migration": opens is not None and any(outage.start < opens for outage in reading.outages),
        "noisy": reading.noise_s > NOISE_SPACINGS * spacing_s,
        "warm-up-short": bool(reading.gaps) and reading.answers_before < WARM_UP_PROBES,
        "recovery-unconfirmed": reading.unconfirmed,
    }
    reasons = tuple(reason for reason, holds in told.items() if holds)
    return Measurement(
        stuntime_s=stuntime_s if true_times else None,
        bounds_s=reading.bounds_s if true_times else None,
        recovered=reading.recovered,
        valid=not any(reason in INVALID for reason in reasons),
        reasons=reasons,
        outages=reading.outages if true_times else (),
        gaps=reading.gaps if true_times else (),
        total_outage_s=_total(reading.outages) if true_times else None,
        envelope_s=_envelope(reading.outages) if true_times else None,
        initiator_view_s=view_s,
        spacing_s=spacing_s,
        noise_s=reading.noise_s,
        probes_sent=log.sent,
        probes_answered=len(log.replies),
        probes_lost=len(timeline.lost),
        probes_in_flight=timeline.in_flight,
        clock_steps=clock_steps,
    )


def packets_only_s(
    arrivals: Arrivals, *, initiator: str, near: int, spacing_s: float, window: Window | None = None
) -> float | None:
    """Return the longest gap of the packets alone, without the initiator's log; None when there is no packet.

    For the record: requests that arrive say nothing of whether they were answered.
    """
    pings = arrivals.pings("reply" if initiator == "static" else "request", near)
    if not pings:
        return None
    times = max(pings, key=len)
    requested = window.requested if window and window.requested is not None else 0.0
    ordered = sorted((time, seq) for seq, time in times.items())
    return max(
        (
            end - start
            for (start, seq), (end, following) in pairwise(ordered)
            if end > requested and (following > seq + 1 or end - start >= SILENT_SPACINGS * spacing_s)
        ),
        default=0.0,
    )


def _total(outages: Sequence[Outage]) -> float | None:
    durations = [outage.duration_s for outage in outages]
    return None if None in durations else sum(duration for duration in durations if duration is not None)


def _envelope(outages: Sequence[Outage]) -> float | None:
    if not outages:
        return 0.0
    end = outages[-1].end
    return None if end is None else end - outages[0].start
