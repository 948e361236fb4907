"""From a timeline to a number: gaps, outages and the stuntime. Pure functions, no I/O.

Times are epoch seconds in the reference clock (the static VM's); durations are seconds.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from msgspec import Struct

from stuntime.arrivals import Arrivals
from stuntime.ping import PingLog, Reply
from stuntime.timeline import Timeline, timeline_of

RECOVERY_PROBES = 10
WARM_UP_PROBES = 10
NOISE_SPACINGS = 1.5
SILENT_SPACINGS = 2.0

#: Why a measurement must not be used.
INVALID = {
    "several-pings": "the log holds several runs of ping",
    "no-true-times": "the migrated VM's clock is not to be trusted: it needs an observer's log or a capture",
    "observer-incomplete": "replies that ping saw are missing in the observer's log or the capture",
    "clocks-disagree": "ping's own time stamps and the observer's differ by more than a spacing",
    "clock-stepped": "the clock of the log stepped, and there is no other one",
    "loss-before-first-reply": "probes were lost before the first good reply",
    "outage-before-migration": "there was an outage before the migration was asked for",
}
#: What to know about a measurement that may be used.
WARNINGS = {
    "noisy": "replies outside the outages came unevenly",
    "warm-up-short": "the log has fewer than ten good replies before its first gap",
    "recovery-unconfirmed": "the log ends before the recovery was lasting",
}


class Window(Struct, frozen=True, forbid_unknown_fields=True):
    """When the migration was asked for, and its reported start and end; None: not known."""

    requested: float | None = None
    started: float | None = None
    ended: float | None = None


class Gap(Struct, frozen=True, forbid_unknown_fields=True):
    """The distance of two consecutive good replies with a lost probe in it, or (`silent`) of two spacings or more."""

    start: float
    end: float
    duration_s: float
    probes_lost: int
    silent: bool


class Outage(Struct, frozen=True, forbid_unknown_fields=True):
    """One gap, or several without a lasting recovery between them; `end`, `duration_s` are None if it never ended."""

    start: float
    end: float | None
    duration_s: float | None
    probes_lost: int
    phase: str | None


class Bounds(Struct, frozen=True, forbid_unknown_fields=True):
    """What the stuntime lies between; `upper` is None when there was no recovery."""

    lower: float
    upper: float | None


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
    clock_error_s: float = 0.0,
    clock_drift_s: float = 0.0,
) -> Measurement:
    """Return what a ping log, and what arrived at the static VM, say of the stuntime.

    Raise InvalidError when they say nothing. `arrivals` and `window` are in the reference clock. `recovery_probes` good
    replies in a row are a lasting recovery (default: ten, or as many as one second holds). `end_seen` is given in a
    run: when the migration's end was seen; the lasting recovery has to be sent after it. Without it, as for an old log,
    a recovery that is not confirmed is a warning. `clock_error_s` is the error of the clock samples that the window was
    converted with, `clock_drift_s` by how much samples of the static VM's clock before and after disagree.
    """
    window = window or Window()
    timeline = timeline_of(
        log, initiator=initiator, arrivals=arrivals, warm_up_until=window.requested, interval_s=interval_s
    )
    needed = recovery_probes or default_recovery_probes(timeline.spacing_s)
    clock_steps = arrivals.clock_steps if arrivals else ()
    reading = _read(timeline, needed, window, end_seen, clock_steps)
    view_s = reading.stuntime_s
    if arrivals is not None:
        own = timeline_of(log, initiator=initiator, interval_s=timeline.spacing_s)
        own_window = window if initiator == "static" else Window()
        view_s = _read(own, needed, own_window, None, ()).stuntime_s

    spacing_s, stuntime_s = timeline.spacing_s, reading.stuntime_s
    true_times = arrivals is not None or initiator == "static"
    stepped = bool(clock_steps or log.steps_back_s)
    told = {
        "several-pings": log.headers > 1,
        "no-true-times": not true_times,
        "observer-incomplete": arrivals is not None and bool(timeline.missing or not arrivals.complete),
        "clocks-disagree": arrivals is not None
        and initiator == "static"
        and not stepped
        and stuntime_s is not None
        and view_s is not None
        and abs(stuntime_s - view_s) > spacing_s,
        "clock-stepped": arrivals is None and (bool(log.steps_back_s) or abs(clock_drift_s) > spacing_s / 2),
        "loss-before-first-reply": timeline.lost_before > 0,
        "outage-before-migration": window.requested is not None
        and any(o.start < window.requested - spacing_s - clock_error_s for o in reading.outages),
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


def default_recovery_probes(spacing_s: float) -> int:
    """Return how many good replies in a row are a lasting recovery: ten, or as many as one second holds."""
    return max(RECOVERY_PROBES, int(1 / spacing_s))


def packets_only_s(
    arrivals: Arrivals, *, initiator: str, near: int, spacing_s: float, window: Window | None = None
) -> float | None:
    """Return the longest gap of the packets alone, without the initiator's log; None when there is no packet.

    For the record: requests that arrive say nothing of whether they were answered.
    """
    times = arrivals.first_times("reply" if initiator == "static" else "request", near)
    if not times:
        return None
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


@dataclass(frozen=True)
class _Reading:
    outages: tuple[Outage, ...]
    gaps: tuple[Gap, ...]
    stuntime_s: float | None
    bounds_s: Bounds
    recovered: bool
    unconfirmed: bool
    noise_s: float
    answers_before: int


@dataclass(frozen=True)
class _Place:
    """Where a gap is: between answers[index] and the next; its lost probes are lost[lost_from:lost_to]."""

    index: int
    lost_from: int
    lost_to: int


def _read(
    timeline: Timeline,
    needed: int,
    window: Window,
    end_seen: float | None,
    clock_steps: Sequence[tuple[float, float]],
) -> _Reading:
    """Apply the rule to one timeline."""
    places = _places(timeline)
    groups = _grouped(places, timeline.answers, needed)
    last_end = groups[-1][-1].index + 1 if groups else 0
    cut_off = bool(timeline.lost) and timeline.lost[-1] > timeline.last_answered
    confirmed = _is_lasting(timeline.answers, last_end, len(timeline.answers) - 1, needed, end_seen)
    if cut_off:
        # The trouble at the end belongs to the outage before it when nothing lasted between them.
        if not groups or _is_lasting(timeline.answers, last_end, len(timeline.answers) - 1, needed):
            groups.append([])
        ended = groups[:-1]
    else:
        ended = groups if confirmed or end_seen is None else groups[:-1]
    recovered = not cut_off and (confirmed or end_seen is None)

    outages = [_ended_outage(group, timeline, window) for group in ended]
    lower_of = [_lower_s(group, timeline) for group in ended]
    if len(ended) < len(groups):
        outage, lower_s = _endless_outage(groups[-1], timeline, window, clock_steps)
        outages.append(outage)
        lower_of.append(lower_s)

    inside = {index for group in groups if group for index in range(group[0].index, group[-1].index + 1)}
    distances = [b.time - a.time for a, b in pairwise(timeline.answers)]
    noise_s = max((d for index, d in enumerate(distances) if index not in inside), default=0.0)

    inside_window = [
        (outage, lower_s)
        for outage, lower_s in zip(outages, lower_of, strict=True)
        if window.requested is None or outage.end is None or outage.end > window.requested
    ]
    stuntime_s, bounds = _longest(inside_window, recovered, max(distances, default=timeline.spacing_s))
    return _Reading(
        outages=tuple(outages),
        gaps=tuple(_gap(place, timeline) for place in places),
        stuntime_s=stuntime_s,
        bounds_s=bounds,
        recovered=recovered,
        unconfirmed=end_seen is None and bool(groups) and not cut_off and not confirmed,
        noise_s=noise_s,
        answers_before=places[0].index + 1 if places else len(timeline.answers),
    )


def _places(timeline: Timeline) -> list[_Place]:
    """Return the gaps in the order of time; each lost probe between the first and the last answer is in one of them."""
    lost, spacing_s = timeline.lost, timeline.spacing_s
    places = []
    highest = timeline.answers[0].seq
    lost_to = bisect_right(lost, highest)
    for index, ((_, start, _), (seq, end, rtt_s)) in enumerate(pairwise(timeline.answers)):
        lost_from = lost_to
        if seq > highest:
            if seq > highest + 1:
                lost_to = bisect_right(lost, seq, lo=lost_from)
            highest = seq
        silent = end - start >= SILENT_SPACINGS * spacing_s
        slow_sender = timeline.initiator == "static" and rtt_s is not None and rtt_s < spacing_s
        if lost_to > lost_from or (silent and not slow_sender):
            places.append(_Place(index, lost_from, lost_to))
    return places


def _grouped(places: Sequence[_Place], answers: Sequence[Reply], needed: int) -> list[list[_Place]]:
    """Return the gaps of each outage: a new one begins where a lasting recovery lies between two gaps."""
    groups: list[list[_Place]] = []
    for place in places:
        if groups and not _is_lasting(answers, groups[-1][-1].index + 1, place.index, needed):
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _is_lasting(answers: Sequence[Reply], first: int, last: int, needed: int, end_seen: float | None = None) -> bool:
    """Tell whether answers[first..last], in which there is no gap, are a lasting recovery.

    The first one counts, and then only such whose probe was sent after it arrived: replies that were queued and come in
    a burst are one instant. With `end_seen` all have to be sent after that.
    """
    start = answers[first]
    count = int(end_seen is None or start.sent >= end_seen)
    since = start.time if end_seen is None else max(start.time, end_seen)
    for index in range(first + 1, last + 1):
        if count >= needed:
            break
        count += answers[index].sent >= since
    return count >= needed


def _gap(place: _Place, timeline: Timeline) -> Gap:
    start, end = timeline.answers[place.index].time, timeline.answers[place.index + 1].time
    lost = place.lost_to - place.lost_from
    return Gap(start=start, end=end, duration_s=end - start, probes_lost=lost, silent=not lost)


def _ended_outage(group: Sequence[_Place], timeline: Timeline, window: Window) -> Outage:
    gaps = [_gap(place, timeline) for place in group]
    largest = max(gaps, key=lambda gap: gap.duration_s)
    start, end = gaps[0].start, gaps[-1].end
    return Outage(
        start=start,
        end=end,
        duration_s=end - start,
        probes_lost=sum(gap.probes_lost for gap in gaps),
        phase=_phase(largest.start, window),
    )


def _lower_s(group: Sequence[_Place], timeline: Timeline) -> float:
    """Return the least that an outage can have lasted.

    From the first unanswered probe's sending to the last one's; for a silent gap its duration less two spacings.
    """
    silent = [
        gap.duration_s - SILENT_SPACINGS * timeline.spacing_s
        for gap in (_gap(place, timeline) for place in group)
        if gap.silent
    ]
    with_loss = [place for place in group if place.lost_to > place.lost_from]
    spans = []
    if with_loss:
        before, after = timeline.answers[with_loss[0].index], timeline.answers[with_loss[-1].index + 1]
        first, last = timeline.lost[with_loss[0].lost_from], timeline.lost[with_loss[-1].lost_to - 1]
        spans = [min(timeline.lost_span_s(first, last, before, after), after.time - before.time)]
    return max([0.0, *silent, *spans])


def _endless_outage(
    group: Sequence[_Place], timeline: Timeline, window: Window, clock_steps: Sequence[tuple[float, float]]
) -> tuple[Outage, float]:
    """Return an outage that never ended, and its lower bound: to the last unanswered probe, less a spacing."""
    last = timeline.answers[-1]
    first = timeline.answers[group[0].index] if group else last
    gaps = [_gap(place, timeline) for place in group]
    tail_s = timeline.unanswered_span_s(last, clock_steps)
    known_end = last.time + tail_s if tail_s or not gaps else gaps[-1].end
    largest = max([*((gap.duration_s, gap.start) for gap in gaps), (tail_s, last.time)])
    unanswered = bisect_right(timeline.lost, timeline.last_answered)
    outage = Outage(
        start=first.time,
        end=None,
        duration_s=None,
        probes_lost=sum(gap.probes_lost for gap in gaps) + len(timeline.lost) - unanswered,
        phase=_phase(largest[1], window),
    )
    return outage, max(0.0, known_end - first.time - timeline.spacing_s)


def _longest(
    outages: Sequence[tuple[Outage, float]], recovered: bool, largest_distance_s: float
) -> tuple[float | None, Bounds]:
    if not recovered:
        return None, Bounds(max((lower_s for _, lower_s in outages), default=0.0), None)
    if not outages:
        return 0.0, Bounds(0.0, largest_distance_s)
    duration_s, lower_s = max((outage.duration_s or 0.0, lower_s) for outage, lower_s in outages)
    return duration_s, Bounds(lower_s, duration_s)


def _phase(begin: float, window: Window) -> str | None:
    """Return the phase of the migration in which something began; None when its reported times are not known."""
    if window.started is not None and begin < window.started:
        return "preparation"
    if window.ended is not None and begin > window.ended:
        return "after"
    return None if window.started is None and window.ended is None else "switch-over"


def _total(outages: Sequence[Outage]) -> float | None:
    durations = [outage.duration_s for outage in outages]
    return None if None in durations else sum(duration for duration in durations if duration is not None)


def _envelope(outages: Sequence[Outage]) -> float | None:
    if not outages:
        return 0.0
    end = outages[-1].end
    return None if end is None else end - outages[0].start
