"""Gaps and outages on a timeline: the arithmetic of the rule. Pure functions, no I/O.

Times are epoch seconds in the reference clock (the static VM's); durations are seconds.
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from msgspec import Struct

from stuntime.ping import Reply
from stuntime.timeline import Timeline

RECOVERY_PROBES = 10
SILENT_SPACINGS = 2.0
#: How near to the limit the milliseconds between two clocks can decide what is silent.
CLOCK_SPACINGS = 0.2


class Window(Struct, frozen=True, forbid_unknown_fields=True):
    """When the migration was asked for, and its reported start and end; None: not known.

    `error_s` is how far off `requested` can be, `resolution_s` that of the reported times, which are cut, not rounded.
    """

    requested: float | None = None
    started: float | None = None
    ended: float | None = None
    error_s: float = 0.0
    resolution_s: float = 0.0

    def opens(self, spacing_s: float) -> float | None:
        """Return the moment from which on an outage belongs to the migration; None when that is not known."""
        return None if self.requested is None else self.requested - spacing_s - self.error_s


class Gap(Struct, frozen=True, forbid_unknown_fields=True):
    """The distance of two consecutive good replies with a lost probe in it, or (`silent`) of two spacings or more.

    `ended_by` is the unwrapped sequence number of the reply that ends it.
    """

    start: float
    end: float
    duration_s: float
    probes_lost: int
    silent: bool
    ended_by: int


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


def default_recovery_probes(spacing_s: float) -> int:
    """Return how many good replies in a row are a lasting recovery: ten, or as many as one second holds."""
    return max(RECOVERY_PROBES, int(1 / spacing_s))


@dataclass(frozen=True)
class Reading:
    """What the rule says of one timeline.

    `stuntime_s` is None without a recovery. `noise_s` is the largest distance of good replies outside the outages,
    `answers_before` counts the good replies before the first gap, `unconfirmed` says that they ended too early to call
    the recovery lasting. `late_s` is what the longest outage lasted if replies after a gap were noted as late as their
    round trips allow.
    """

    outages: tuple[Outage, ...]
    gaps: tuple[Gap, ...]
    stuntime_s: float | None
    late_s: float
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


def read_timeline(
    timeline: Timeline,
    needed: int,
    window: Window,
    end_seen: float | None,
    clock_steps: Sequence[tuple[float, float]],
    like: Collection[Gap] | None = None,
) -> Reading:
    """Apply the rule to one timeline.

    `needed` good replies in a row are a lasting recovery; with `end_seen` such a one has to be sent after it.
    `clock_steps` are the known steps of the clock that stamped the log. `like` are the gaps of the same probes by
    another clock: where a distance is so near to the limit that milliseconds decide, it is a gap if it is one there.
    """
    places = _places(timeline, None if like is None else {gap.ended_by for gap in like})
    groups = _grouped(places, timeline.answers, needed)
    late = _grouped(_with_hidden(places, timeline, needed), timeline.answers, needed)
    last_end = groups[-1][-1].index + 1 if groups else 0
    cut_off = bool(timeline.lost) and timeline.lost[-1] > timeline.last_answered
    confirmed = _is_lasting(timeline.answers, last_end, len(timeline.answers) - 1, needed, end_seen)
    if cut_off:
        # The trouble at the end belongs to the outage before it when nothing lasted between them.
        if not groups or _is_lasting(timeline.answers, last_end, len(timeline.answers) - 1, needed):
            groups.append([])
        ended = groups[:-1]
        recovered = False
    else:
        recovered = confirmed or end_seen is None or _recovered_before_last(groups, timeline.answers, needed, end_seen)
        ended = groups if recovered else groups[:-1]

    outages = [_ended_outage(group, timeline, window) for group in ended]
    lower_of = [_lower_s(group, timeline) for group in ended]
    if len(ended) < len(groups):
        outage, lower_s = _endless_outage(groups[-1], timeline, window, clock_steps)
        outages.append(outage)
        lower_of.append(lower_s)

    inside = {index for group in groups if group for index in range(group[0].index, group[-1].index + 1)}
    distances = [b.time - a.time for a, b in pairwise(timeline.answers)]
    noise_s = max((d for index, d in enumerate(distances) if index not in inside), default=0.0)

    opens = window.opens(timeline.spacing_s)
    inside_window = [
        (outage, lower_s)
        for outage, lower_s in zip(outages, lower_of, strict=True)
        if opens is None or outage.end is None or outage.end > opens
    ]
    stuntime_s, bounds = _longest(inside_window, recovered, max(distances, default=timeline.spacing_s))
    late_spans = [(timeline.answers[group[0].index].time, timeline.answers[group[-1].index + 1].time) for group in late]
    return Reading(
        outages=tuple(outages),
        gaps=tuple(_gap(place, timeline) for place in places),
        stuntime_s=stuntime_s,
        late_s=max((end - start for start, end in late_spans if opens is None or end > opens), default=0.0),
        bounds_s=bounds,
        recovered=recovered,
        unconfirmed=recovered and not confirmed and bool(groups),
        noise_s=noise_s,
        answers_before=places[0].index + 1 if places else len(timeline.answers),
    )


def _places(timeline: Timeline, like: Collection[int | None] | None) -> list[_Place]:
    """Return the gaps in the order of time; each lost probe between the first and the last answer is in one of them."""
    lost, spacing_s = timeline.lost, timeline.spacing_s
    places = []
    highest = timeline.answers[0].seq
    lost_to = bisect_right(lost, highest)
    for index, (before, after) in enumerate(pairwise(timeline.answers)):
        seq = after.seq
        lost_from, following = lost_to, highest + 1
        if seq > highest:
            if seq > following:
                lost_to = bisect_right(lost, seq, lo=lost_from)
            highest = seq
        spacings = (after.time - before.time) / spacing_s
        silent = spacings >= SILENT_SPACINGS
        if like is not None and abs(spacings - SILENT_SPACINGS) < CLOCK_SPACINGS:
            silent = seq in like
        # Whoever sent probes meanwhile, of which a later one is answered first, was not slow to send.
        slow_sender = seq == following and _is_slow_sender(timeline, after)
        if lost_to > lost_from or (silent and not slow_sender):
            places.append(_Place(index, lost_from, lost_to))
    return places


def _with_hidden(places: Sequence[_Place], timeline: Timeline, needed: int) -> list[_Place]:
    """Return the gaps and what may be such between a gap and the lasting recovery after it.

    A reply is noted late by a VM that got no processor, at most by what its round trip is longer than the shortest; the
    distance after it is then too short, and silence hides there.
    """
    if not places:
        return []
    answers, spacing_s = timeline.answers, timeline.spacing_s
    shortest_s = min(answer.rtt_s or 0.0 for answer in answers)
    gaps = {place.index: place for place in places}
    found: list[_Place] = []
    for index in range(places[0].index, len(answers) - 1):
        before, after = answers[index], answers[index + 1]
        late_s = (before.rtt_s or 0.0) - shortest_s
        if index in gaps:
            found.append(gaps[index])
        elif (
            after.time - before.time + late_s >= SILENT_SPACINGS * spacing_s
            and not _is_slow_sender(timeline, after)
            and not _is_lasting(answers, found[-1].index + 1, index, needed)
        ):
            found.append(_Place(index, 0, 0))
    return found


def _is_slow_sender(timeline: Timeline, after: Reply) -> bool:
    """Tell whether a probe after a silence was answered at once: then the static VM has only sent it late."""
    return timeline.initiator == "static" and after.rtt_s is not None and after.rtt_s < timeline.spacing_s


def _grouped(places: Sequence[_Place], answers: Sequence[Reply], needed: int) -> list[list[_Place]]:
    """Return the gaps of each outage: a new one begins where a lasting recovery lies between two gaps."""
    groups: list[list[_Place]] = []
    for place in places:
        if groups and not _is_lasting(answers, groups[-1][-1].index + 1, place.index, needed):
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _recovered_before_last(
    groups: Sequence[Sequence[_Place]], answers: Sequence[Reply], needed: int, end_seen: float
) -> bool:
    """Tell whether a lasting recovery after the migration's end came before the last outage.

    Then the measurement was over: that outage fell into the moment between the decision and ping's end, and has ended.
    """
    if not groups:
        return False
    first = groups[-2][-1].index + 1 if len(groups) > 1 else 0
    return _is_lasting(answers, first, groups[-1][0].index, needed, end_seen)


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
    before, after = timeline.answers[place.index : place.index + 2]
    lost = place.lost_to - place.lost_from
    return Gap(
        start=before.time,
        end=after.time,
        duration_s=after.time - before.time,
        probes_lost=lost,
        silent=not lost,
        ended_by=after.seq,
    )


def _ended_outage(group: Sequence[_Place], timeline: Timeline, window: Window) -> Outage:
    gaps = [_gap(place, timeline) for place in group]
    largest = max(gaps, key=lambda gap: gap.duration_s)
    start, end = gaps[0].start, gaps[-1].end
    return Outage(
        start=start,
        end=end,
        duration_s=end - start,
        probes_lost=sum(gap.probes_lost for gap in gaps),
        phase=_phase(largest.start, window, timeline.spacing_s),
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
        phase=_phase(largest[1], window, timeline.spacing_s),
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


def _phase(begin: float, window: Window, spacing_s: float) -> str | None:
    """Return the phase of the migration in which something began; None when its reported times are not known.

    `begin` is the last good reply before it: what cut the VM off came up to a spacing later, so that in the spacing
    before the reported start nothing can be said to be preparation.
    """
    if window.started is not None and begin + spacing_s <= window.started:
        return "preparation"
    if window.ended is not None and begin > window.ended + window.resolution_s:
        return "after"
    return None if window.started is None and window.ended is None else "switch-over"
