"""A packet capture at the static VM's port, reduced to the arrivals of a ping. Reads pcap and pcapng (dpkt)."""

import struct
from collections.abc import Iterator
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_ntop

from stuntime.arrivals import Arrival, Arrivals
from stuntime.errors import InvalidError

_ECHO = {("icmp", 8): "request", ("icmp", 0): "reply", ("icmp6", 128): "request", ("icmp6", 129): "reply"}
_ECHO_HEADER = struct.Struct("!BBHHH")


def read_capture(path: Path, *, initiator: str, peer: str | None) -> Arrivals:
    """Return the requests or replies in a capture that arrived at the static VM; raise InvalidError if it is none.

    `peer` is whom ping pings. With a static initiator what arrives are replies of the peer, with a migrated one
    requests to it.
    """
    import dpkt

    try:
        with path.open("rb") as file:
            packets = tuple(_arrivals(dpkt.pcap.UniversalReader(file), initiator, peer))
    except (ValueError, dpkt.dpkt.Error) as error:
        raise InvalidError(
            f"{path} is no capture: {error}",
            "record it with `tcpdump -w FILE 'icmp or icmp6'` at the static VM's port",
            reason="capture-unknown",
        ) from error
    return Arrivals(tuple(sorted(packets, key=lambda packet: packet.time)))


def _arrivals(reader: Iterator[tuple[float, bytes]], initiator: str, peer: str | None) -> Iterator[Arrival]:
    import dpkt

    for time, frame in reader:
        ip = dpkt.ethernet.Ethernet(frame).data
        if isinstance(ip, dpkt.ip.IP):
            protocol, family, payload = "icmp", AF_INET, bytes(ip.data)
        elif isinstance(ip, dpkt.ip6.IP6):
            protocol, family, payload = "icmp6", AF_INET6, bytes(ip.data)
        else:
            continue
        if len(payload) < _ECHO_HEADER.size:
            continue
        number, _, _, ident, seq = _ECHO_HEADER.unpack_from(payload)
        kind = _ECHO.get((protocol, number))
        address = inet_ntop(family, ip.src if initiator == "static" else ip.dst)
        if kind == ("reply" if initiator == "static" else "request") and peer in (None, address):
            yield Arrival(kind, float(time), seq, ident)
