"""What a ping log says: the parser of iputils' `ping -n -D -O`, which no line makes fail and no probe counts twice in.

The forms of the lines were read in the sources of iputils 20101006 to 20250605 and in the samples of tests/data/ping.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

# No number may be longer than it can be: a damaged one must neither overflow nor claim millions of probes.
_STAMP = r"(?:\[(\d{1,12}\.\d{1,9})\] )?"
_REPLY = re.compile(
    _STAMP + r"\d+ bytes from ([^ ]+)(?: \(([^)]+)\))?: icmp_seq=(\d{1,5}) \w+=\d+"
    r"(?: time=(\d{1,9}(?:\.\d{1,9})?) ms)?((?: [^\r\n]*)?)\n"
)
_NO_ANSWER = re.compile(_STAMP + r"no answer yet for icmp_seq=(\d{1,5})")
_ERROR = re.compile(_STAMP + r"From .+? icmp_seq=(\d{1,5}) \S.*")
_HEADER = re.compile(r"PING .*?\(([^()\s]+)\).* bytes.*")
_SUMMARY = re.compile(r"(\d{1,9}) packets transmitted, \d+ received,.*?(?: time (\d{1,12})\s*ms)?")
_OTHER_PING = re.compile(
    r"\d+ bytes from \S+: seq=\d+ ttl=|PING \S+ \(\S+\): \d+ data bytes|Request timeout for icmp_seq"
)
_OF_NO_INTEREST = re.compile(
    r"\s*|PATTERN: .*|--- .* ping statistics ---|rtt min/avg/.*|round-trip min/avg/.*|pipe \d+|ping: .*|\^C"
    r"|WARNING: .*|Warning: time of day goes back.*|\d+ packets transmitted, \d+ packets received.*"
)
_DUPLICATE = "(DUP!)"
_DAMAGED = ("(BAD CHECKSUM!)", "(truncated)", "(UNEXPECTED", "(different address")

SEQUENCE_NUMBERS = 1 << 16
#: Probes that only the summary knows of, without `-O`: four hours at 0.1 s. More is a damaged number.
UNSEEN_PROBES = 150_000
STEP_BACK_S = 0.001


class Reply(NamedTuple):
    """An answered probe (a tuple: an hour at 10 ms has 360,000 of them).

    `seq` is unwrapped; `time` is when its round trip was complete, in epoch seconds of a clock that depends on the
    source; `rtt_s` is how long that took (None where ping prints none).
    """

    seq: int
    time: float
    rtt_s: float | None

    @property
    def sent(self) -> float:
        """When the probe was sent."""
        return self.time - (self.rtt_s or 0.0)


@dataclass(frozen=True)
class PingLog:
    """One run of ping. Sequence numbers are unwrapped; stamps never go back (see `steps_back_s`).

    `replies` are the good ones, the first with that sequence number from the peer, in the log's order, with the `-D`
    stamps as times; `untimed` counts those without a stamp. `no_answer` holds the stamp of the first `no answer yet` of
    each probe that had one. `first` to `last` are the probes sent (none where `last < first`). `ended` is the last
    moment the log knows of. `steps_back_s` holds the size of each step back that the stamps show. `other_ping` counts
    lines of BusyBox' or BSD's ping, whose form says neither when nor which probes were lost.
    """

    peer: str | None
    replies: tuple[Reply, ...]
    no_answer: dict[int, float | None]
    first: int
    last: int
    ended: float | None
    headers: int
    steps_back_s: tuple[float, ...]
    untimed: int
    late: int
    duplicates: int
    foreign: int
    errors: int
    unparsable: int
    other_ping: int

    @property
    def sent(self) -> int:
        """How many probes were sent."""
        return self.last - self.first + 1


def unwrapped(seq: int, near: int) -> int:
    """Return the number congruent to `seq` modulo 65536 that is nearest to `near` (icmp_seq has 16 bits)."""
    half = SEQUENCE_NUMBERS // 2
    return near + (seq - near + half) % SEQUENCE_NUMBERS - half


def parse_ping_log(lines: Iterable[str]) -> PingLog:
    """Return what the lines of a ping log say. Never raises; lines of no known form are counted as `unparsable`."""
    reader = _Reader()
    for line in lines:
        if found := _REPLY.fullmatch(line):
            reader.reply(*found.groups())
        else:
            reader.other(line)
    return reader.finish()


class _Reader:
    def __init__(self) -> None:
        self.replies: defaultdict[str, dict[int, Reply]] = defaultdict(dict)
        self.no_answer: dict[int, float | None] = {}
        self.peer: str | None = None
        self.highest: int | None = None
        self.lowest: int | None = None
        self.first_stamp: float | None = None
        self.ended: float | None = None
        self.shift_s = 0.0
        self.steps_back_s: list[float] = []
        self.transmitted = 0
        self.took_s = 0.0
        self.headers = self.untimed = self.duplicates = self.foreign = self.errors = 0
        self.unparsable = self.other_ping = 0

    def other(self, line: str) -> None:
        text = line.rstrip("\r\n")
        if not line.endswith("\n") and "icmp_seq" in text and not text.endswith((" ms", ")")):
            self.unparsable += 1  # cut in the middle: its last value is not to be believed
        elif found := _REPLY.fullmatch(text + "\n"):
            self.reply(*found.groups())
        elif found := _NO_ANSWER.fullmatch(text):
            self.no_answer.setdefault(self._seen(int(found[2])), self._time(found[1]) if found[1] else None)
        elif found := _ERROR.fullmatch(text):
            self.errors += 1
            if found[1]:
                self._time(found[1])
            self._seen(int(found[2]))
        elif _OTHER_PING.match(text):
            self.other_ping += 1
        elif found := _HEADER.match(text):
            self._header(found[1].partition("%")[0])
        elif found := _SUMMARY.fullmatch(text):
            self.transmitted, self.took_s = int(found[1]), int(found[2] or 0) / 1000
        elif not _OF_NO_INTEREST.fullmatch(text):
            self.unparsable += 1

    def reply(self, stamp: str | None, name: str, number: str | None, seq: str, rtt_ms: str | None, rest: str) -> None:
        address = number or name
        if "%" in address:
            address = address.partition("%")[0]
        if rest and any(mark in rest for mark in _DAMAGED):
            self.unparsable += 1
        elif address != self.peer and self.peer is not None:
            self.foreign += 1
        elif stamp is None:
            self.untimed += 1
            self._seen(int(seq))
        else:
            time, full = self._time(stamp), self._seen(int(seq))
            replies = self.replies[address]
            if full in replies or _DUPLICATE in rest:
                self.duplicates += 1
            else:
                replies[full] = Reply(full, time, None if rtt_ms is None else float(rtt_ms) / 1000)

    def _header(self, peer: str) -> None:
        if self.peer in (None, peer):
            # One that comes after probes begins a second ping, also where the first one's is gone.
            self.headers += 1 if self.headers or self.highest is None else 2
            self.peer = peer

    def _seen(self, seq: int) -> int:
        """Return the unwrapped sequence number of a probe that was sent."""
        if self.highest is None or self.lowest is None:
            full = self.highest = self.lowest = seq or SEQUENCE_NUMBERS
            return full
        ahead = (seq - self.highest) % SEQUENCE_NUMBERS
        if 0 < ahead < SEQUENCE_NUMBERS // 2:
            self.highest += ahead
            return self.highest
        full = unwrapped(seq, self.highest)
        if full < 1 and self.headers:  # ping begins with 1
            full += SEQUENCE_NUMBERS
        self.highest, self.lowest = max(full, self.highest), min(full, self.lowest)
        return full

    def _time(self, stamp: str) -> float:
        """Return the time of a line, in a clock that does not step back."""
        time = float(stamp) + self.shift_s
        if self.ended is None:
            self.first_stamp = time
        elif time < self.ended:
            back_s, time = self.ended - time, self.ended
            self.shift_s += back_s
            if back_s > STEP_BACK_S:
                self.steps_back_s.append(round(back_s, 6))
        self.ended = time
        return time

    def finish(self) -> PingLog:
        peer = self.peer or max(self.replies, key=lambda address: len(self.replies[address]), default=None)
        replies = self.replies.pop(peer, {}) if peer else {}
        known = 1 if self.lowest is None else self.lowest
        first = min(1, known) if self.headers else known
        seen = first - 1 if self.highest is None else self.highest
        believed = self.headers and self.transmitted - seen <= UNSEEN_PROBES
        last = max(seen, self.transmitted) if believed else seen
        ended = self.ended
        if ended is not None and self.first_stamp is not None and last > seen:
            ended = max(ended, self.first_stamp + self.took_s)
        return PingLog(
            peer=peer,
            replies=tuple(replies.values()),
            no_answer=self.no_answer,
            first=first,
            last=last,
            ended=ended,
            headers=self.headers,
            steps_back_s=tuple(self.steps_back_s),
            untimed=self.untimed,
            late=sum(seq in replies for seq in self.no_answer),
            duplicates=self.duplicates,
            foreign=self.foreign + sum(len(others) for others in self.replies.values()),
            errors=self.errors,
            unparsable=self.unparsable,
            other_ping=self.other_ping,
        )
