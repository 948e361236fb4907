"""From a ping log, and what arrived at the static VM, to one line of answered and lost probes. Pure, no I/O.

Times are epoch seconds in the reference clock (the static VM's) unless they are called stamps: those are the `-D`
stamps of the initiator's clock.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import inf
from operator import attrgetter
from statistics import median

from stuntime.arrivals import Arrivals
from stuntime.errors import InvalidError
from stuntime.ping import PingLog, Reply

IN_FLIGHT_S = 1.0
APART_PROBES = 20
ROUND_TRIP_SPACINGS = 1.5


@dataclass(frozen=True)
class Timeline:
    """The probes of one ping.

    `answers` are ordered by time, `lost` holds the sequence numbers that were never answered, in order; `missing`
    counts answers that the log has and the observer or the capture has not, `apart_s` is by how much more than known
    their clock is ahead of the log's in the warm-up.
    """

    log: PingLog
    initiator: str
    answers: tuple[Reply, ...]
    lost: tuple[int, ...]
    in_flight: int
    missing: int
    apart_s: float
    spacing_s: float

    @property
    def lost_before(self) -> int:
        """How many probes were lost before the first good reply."""
        return bisect_left(self.lost, self.answers[0].seq)

    @cached_property
    def last_answered(self) -> int:
        """The highest sequence number that was answered."""
        return max(answer.seq for answer in self.answers)

    def covers(self, time: float) -> bool:
        """Tell whether ping had its first answer by then, and had not ended."""
        last = self.answers[-1]
        ended = last.time if self.log.ended is None else max(last.time, self.log.ended - self._ahead(last))
        return self.answers[0].time <= time <= ended

    def lost_span_s(self, first: int, last: int, before: Reply, after: Reply) -> float:
        """Return the time from the sending of one lost probe to that of a later one; both lie between two answers.

        The log's stamps say it. Where its clock moved against the reference in between, or stood still with a paused
        VM, they may say too much: then not more than the sequence numbers allow.
        """
        span = self.sent_stamp(last) - self.sent_stamp(first)
        if self.initiator == "migrated" or abs(self._ahead(after) - self._ahead(before)) > self.spacing_s / 2:
            span = min(span, (last - first) * self.spacing_s)
        return max(0.0, span)

    def unanswered_span_s(self, since: Reply, clock_steps: Sequence[tuple[float, float]]) -> float:
        """Return the time from the last answer of all to the sending of the last probe, 0 if that was answered."""
        last = self.log.last
        if last == self.last_answered:
            return 0.0
        stepped = sum(step for time, step in clock_steps if time > since.time)
        span = self.sent_stamp(last) - self._ahead(since) - since.time - max(0.0, stepped)
        if self.initiator == "migrated":
            span = min(span, (last - since.seq) * self.spacing_s)
        return max(0.0, span)

    def sent_stamp(self, seq: int) -> float:
        """Return when an unanswered probe was sent: `no answer yet` is stamped when the next one is due."""
        stamp = self.log.no_answer.get(seq)
        return _sent_stamp(seq, stamp, self._own, self.spacing_s)

    def _ahead(self, answer: Reply) -> float:
        own = self._own[bisect_left(self._own, (answer.seq,))]
        return own.time - answer.time

    @cached_property
    def _own(self) -> list[Reply]:
        return sorted(self.log.replies)


def timeline_of(
    log: PingLog,
    *,
    initiator: str,
    arrivals: Arrivals | None = None,
    warm_up_until: float | None = None,
    interval_s: float | None = None,
    apart_s: float = 0.0,
) -> Timeline:
    """Return the timeline; raise InvalidError when the log answers nothing.

    Without `arrivals` the times are the log's own stamps. With them a static initiator's probe counts at the arrival of
    its reply, a migrated one's at the arrival of its request plus the round trip that the log gives for it; `apart_s`
    is by how much their clock is known to be ahead of the log's. `interval_s` stands in for a spacing that cannot be
    measured.
    """
    _require_answers(log)
    own = log.replies
    answers: Sequence[Reply] = own
    found_apart_s = 0.0
    if arrivals is not None:
        kind = "reply" if initiator == "static" else "request"
        times, found_apart_s = _matched(log, arrivals.pings(kind, log.first), kind, apart_s)
        answers = [Reply(a.seq, times[a.seq], a.rtt_s) for a in own if a.seq in times]
    if not answers:
        raise InvalidError(
            "the observer's log or the capture holds none of the replies that ping saw",
            "check that it belongs to this ping log, and that the initiator is the right one",
            reason="observer-incomplete",
        )
    spacing_s = _spacing(answers, warm_up_until) or _spacing(own, None) or interval_s
    if spacing_s is None:
        raise InvalidError(
            "the log holds too few replies to tell the spacing of its probes",
            "hand in a longer log, or give --interval",
            reason="too-few-replies",
        )
    if arrivals is not None and initiator == "migrated":
        answers = _completed(answers, log, spacing_s)
    lost, in_flight = _unanswered(log, own, spacing_s)
    return Timeline(
        log=log,
        initiator=initiator,
        answers=tuple(sorted(answers, key=attrgetter("time"))),
        lost=lost,
        in_flight=in_flight,
        missing=len(own) - len(answers),
        apart_s=found_apart_s - apart_s,
        spacing_s=spacing_s,
    )


def _require_answers(log: PingLog) -> None:
    way_out = "record it with `LC_ALL=C ping -n -D -O -i 0.1 PEER` (iputils)"
    if not log.sent:
        if log.other_ping:
            raise InvalidError(
                "this is the log of another ping (BusyBox, BSD), without times", way_out, reason="log-not-iputils"
            )
        if log.foreign:
            raise InvalidError(f"no reply in the log is from {log.peer}, which it pings", way_out, reason="log-foreign")
        if log.unparsable:
            raise InvalidError("no line of the log tells of a probe", way_out, reason="log-not-ping")
        raise InvalidError("the log is empty", way_out, reason="log-empty")
    if log.untimed and not log.replies:
        raise InvalidError("the log has no time stamps", way_out, reason="log-without-times")
    if not log.replies:
        raise InvalidError(
            f"none of {log.sent} probes was answered",
            "the two VMs could not talk at all: no stuntime can be told; check the network first",
            reason="never-answered",
        )


def _matched(
    log: PingLog, pings: Sequence[dict[int, float]], kind: str, apart_s: float
) -> tuple[dict[int, float], float]:
    """Return the arrivals that are this log's ping, and by how much their clock is ahead of the log's.

    Of those that have most of its replies it is the one whose times are nearest to the log's.
    """
    found: list[tuple[bool, float, float, dict[int, float]]] = []
    for times in pings:
        both = [reply for reply in log.replies if reply.seq in times]
        if both:
            first = both[:APART_PROBES]
            ahead_s = median(times[r.seq] - (r.time if kind == "reply" else r.sent) for r in first)
            found.append((2 * len(both) < len(log.replies), abs(ahead_s - apart_s), ahead_s, times))
    if not found:
        return {}, apart_s
    _, _, ahead_s, times = min(found, key=lambda ping: ping[:2])
    return times, ahead_s


def _completed(requests: Sequence[Reply], log: PingLog, spacing_s: float) -> list[Reply]:
    """Complete the arrivals of requests by their round trips, which the log tells.

    A step of the initiator's clock between a probe and its reply falsifies the round trip. It is known by what cannot
    be: the reply was there before the next probe was sent, or none was missed when that was due (`no answer yet`), and
    yet it took longer than that. Then the usual round trip stands in for it.
    """
    usual_s = median(reply.rtt_s or 0.0 for reply in log.replies)
    stamped = {reply.seq: reply for reply in log.replies}
    arrived = {request.seq: request.time for request in requests}

    def round_trip_s(request: Reply) -> float:
        rtt_s, following = request.rtt_s or 0.0, request.seq + 1
        if following in arrived and stamped[following].sent >= stamped[request.seq].time:
            possible_s = arrived[following] - request.time
        elif log.no_answer and request.seq not in log.no_answer:
            possible_s = ROUND_TRIP_SPACINGS * spacing_s
        else:
            return rtt_s
        return rtt_s if rtt_s <= possible_s else usual_s

    return [
        Reply(request.seq, request.time + rtt_s, rtt_s)
        for request, rtt_s in ((request, round_trip_s(request)) for request in requests)
    ]


def _spacing(answers: Sequence[Reply], until: float | None) -> float | None:
    """Return the median time between the sending of consecutive probes answered before `until`, else of all."""
    sent = [(seq, time - (rtt_s or 0.0), time) for seq, time, rtt_s in sorted(answers)]
    for last in (inf if until is None else until, inf):
        distances = [b[1] - a[1] for a, b in pairwise(sent) if b[0] == a[0] + 1 and b[2] < last]
        if distances and (spacing := median(distances)) > 0:
            return spacing
    if len(sent) > 1 and (span := sent[-1][1] - sent[0][1]) > 0:
        return span / (sent[-1][0] - sent[0][0])
    return None


def _unanswered(log: PingLog, own: Sequence[Reply], spacing_s: float) -> tuple[tuple[int, ...], int]:
    """Return the lost probes, and how many are in flight: sent less than a second before the log ends.

    One that was overtaken by a later, answered one is lost also then: else a gap shortly before the end would pass.
    """
    answered = {reply.seq for reply in log.replies}
    unanswered = [seq for seq in range(log.first, log.last + 1) if seq not in answered]
    last_answered, ordered = max(answered), sorted(own)
    in_flight = 0
    for seq in reversed(unanswered):
        sent = _sent_stamp(seq, log.no_answer.get(seq), ordered, spacing_s)
        if seq < last_answered or log.ended is None or log.ended - sent >= IN_FLIGHT_S:
            break
        in_flight += 1
    return tuple(unanswered[: len(unanswered) - in_flight]), in_flight


def _sent_stamp(seq: int, no_answer: float | None, ordered: Sequence[Reply], spacing_s: float) -> float:
    if no_answer is not None:
        return no_answer - spacing_s
    below = ordered[max(0, bisect_left(ordered, (seq,)) - 1)]
    return below.sent + (seq - below.seq) * spacing_s
