"""When echo requests and replies arrived at the static VM: the observer's log, and what a capture is reduced to."""

import re
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

    def pings(self, kind: str, near: int) -> list[dict[int, float]]:
        """Return for each ping (ICMP identifier) when each probe's first packet of that kind arrived.

        The keys are unwrapped sequence numbers; `near` is one that a ping's first packet is near to.
        """
        found: dict[int, dict[int, float]] = {}
        highest: dict[int, int] = {}
        for packet in self.packets:
            if packet.kind == kind:
                times = found.setdefault(packet.ident, {})
                seq = unwrapped(packet.seq, highest.get(packet.ident, near))
                highest[packet.ident] = max(seq, highest.get(packet.ident, seq))
                times.setdefault(seq, packet.time)
        return list(found.values())


def parse_observer_log(lines: Iterable[str]) -> Arrivals:
    """Return what the observer noted; raise InvalidError when this is no observer's log.

    One that was cut, that lacks packets or in which the observer was started twice is not complete.
    """
    packets: list[Arrival] = []
    steps: list[tuple[float, float]] = []
    starts, complete = 0, False
    for line in lines:
        text = line.rstrip("\r\n") if line.endswith("\n") else ""
        complete = False
        if found := _EVENT.fullmatch(text):
            packets.append(Arrival(found[1], float(found[2]), int(found[3]), int(found[4])))
        elif found := _CLOCK.fullmatch(text):
            steps.append((float(found[1]), float(found[2])))
        elif found := _END.fullmatch(text):
            complete = found[2] == "0" and starts == 1
        elif _HEADER.fullmatch(text):
            starts += 1
    if not starts:
        raise InvalidError(
            "this is no log of the observer",
            "hand in the observer.log of a result's evidence",
            reason="observer-log-unknown",
        )
    packets.sort(key=lambda packet: packet.time)
    return Arrivals(tuple(packets), tuple(steps), complete)
