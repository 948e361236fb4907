"""A packet capture at the static VM's port, reduced to the arrivals of a ping. Reads pcap and pcapng (dpkt)."""

import struct
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any, NamedTuple

from stuntime.arrivals import Arrival, Arrivals
from stuntime.errors import InvalidError

_KINDS = {("icmp", 8): "request", ("icmp", 0): "reply", ("icmp6", 128): "request", ("icmp6", 129): "reply"}
_ECHO_HEADER = struct.Struct("!BBHHH")


def read_capture(path: Path, *, initiator: str, peer: str | None) -> Arrivals:
    """Return the requests or replies in a capture that arrived at the static VM; raise InvalidError if it is none.

    `peer` is whom ping pings. With a static initiator what arrives are replies of the peer, with a migrated one
    requests to it. A capture that was cut gives what is whole in it: what it lacks the analysis misses.
    """
    import dpkt

    try:
        with path.open("rb") as file:
            reader = dpkt.pcap.UniversalReader(file)
            frame = _frame(reader.datalink())
            echoes = (_echo(float(time), frame, data) for time, data in reader)
            packets = [echo for echo in echoes if echo is not None]
    except (ValueError, dpkt.dpkt.Error) as error:
        raise InvalidError(
            f"{path} is no capture: {error}",
            "record it with `tcpdump -w FILE 'icmp or icmp6'` at the static VM's port",
            reason="capture-unknown",
        ) from error
    kind = "reply" if initiator == "static" else "request"
    arrived = [
        echo.arrival
        for echo in packets
        if echo.arrival.kind == kind and peer in (None, echo.source if kind == "reply" else echo.destination)
    ]
    return Arrivals(tuple(sorted(arrived, key=lambda packet: packet.time)))


class _Echo(NamedTuple):
    source: str
    destination: str
    arrival: Arrival


def _frame(link_type: int) -> Any:
    """Return what parses frames of a link type; raise ValueError when it is not known."""
    import dpkt

    frames = {dpkt.pcap.DLT_EN10MB: dpkt.ethernet.Ethernet, dpkt.pcap.DLT_LINUX_SLL: dpkt.sll.SLL}
    if link_type not in frames:
        raise ValueError(f"its link type {link_type} is neither Ethernet nor Linux cooked")
    return frames[link_type]


def _echo(time: float, frame: Any, data: bytes) -> _Echo | None:
    """Return the echo request or reply in a frame; None when it holds none, or no whole one."""
    import dpkt

    try:
        ip = frame(data).data
    except dpkt.dpkt.Error:
        return None
    if not isinstance(ip, dpkt.ip.IP | dpkt.ip6.IP6):
        return None
    family, protocol = (AF_INET, "icmp") if isinstance(ip, dpkt.ip.IP) else (AF_INET6, "icmp6")
    payload = bytes(ip.data)
    if len(payload) < _ECHO_HEADER.size:
        return None
    number, _, _, ident, seq = _ECHO_HEADER.unpack_from(payload)
    kind = _KINDS.get((protocol, number))
    if kind is None:
        return None
    return _Echo(inet_ntop(family, ip.src), inet_ntop(family, ip.dst), Arrival(kind, time, seq, ident))
