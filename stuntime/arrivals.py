"""When echo requests and replies arrived at the static VM: the observer's log, and what a capture is reduced to."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from stuntime.errors import InvalidError
from stuntime.ping import unwrapped

_EVENT = re.compile(r"(request|reply) (\d+\.\d+) (\d+) (\d+)")
_CLOCK = re.compile(r"clock (\d+\.\d+) (-?\d+\.\d+)")
_END = re.compile(r"end (\d+\.\d+) (\d+)")
_HEADER = re.compile(r"stuntime-observer 1 (\S+)")


class Arrival(NamedTuple):
    """A packet of a ping arrived at the static VM: `kind` is `request` or `reply`, `seq` as on the wire (16 bits)."""

    kind: str
    time: float
    seq: int
    ident: int


@dataclass(frozen=True)
class Arrivals:
    """All packets that arrived, in the order of their times (epoch seconds).

    `clock_steps`: (time, size in seconds) of each step of the static VM's wall clock. `complete` says that the record
    was ended properly and nothing was dropped from it.
    """

    packets: tuple[Arrival, ...]
    clock_steps: tuple[tuple[float, float], ...] = ()
    complete: bool = True

    def first_times(self, kind: str, near: int) -> dict[int, float]:
        """Return when each probe's first packet of that kind arrived, by unwrapped sequence number.

        `near` is a sequence number that the first packet is near to. Of several pings (ICMP identifiers) the one with
        the most packets counts.
        """
        idents = Counter(packet.ident for packet in self.packets if packet.kind == kind)
        ours = idents.most_common(1)[0][0] if idents else None
        times: dict[int, float] = {}
        for packet in self.packets:
            if packet.kind == kind and packet.ident == ours:
                seq = unwrapped(packet.seq, near)
                near = max(near, seq)
                times.setdefault(seq, packet.time)
        return times


def parse_observer_log(lines: Iterable[str]) -> Arrivals:
    """Return what the observer noted; raise InvalidError when this is no observer's log."""
    packets: list[Arrival] = []
    steps: list[tuple[float, float]] = []
    known = complete = False
    for line in lines:
        text = line.rstrip("\r\n") if line.endswith("\n") else ""
        if found := _EVENT.fullmatch(text):
            packets.append(Arrival(found[1], float(found[2]), int(found[3]), int(found[4])))
        elif found := _CLOCK.fullmatch(text):
            steps.append((float(found[1]), float(found[2])))
        elif found := _END.fullmatch(text):
            complete = found[2] == "0"
        elif _HEADER.fullmatch(text):
            known = True
    if not known:
        raise InvalidError(
            "this is no log of the observer",
            "hand in the observer.log of a result's evidence",
            reason="observer-log-unknown",
        )
    packets.sort(key=lambda packet: packet.time)
    return Arrivals(tuple(packets), tuple(steps), complete)
