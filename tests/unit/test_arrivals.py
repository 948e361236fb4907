"""The observer's log and captures, reduced to arrivals."""

import struct
from pathlib import Path

import pytest

from stuntime.arrivals import parse_observer_log
from stuntime.capture import read_capture
from stuntime.errors import InvalidError

LOG = [
    "stuntime-observer 1 10.0.0.2\n",
    "request 1700000000.000100 65535 7\n",
    "request 1700000000.100100 0 7\n",
    "request 1700000000.100200 0 7\n",
    "reply 1700000000.200000 3 7\n",
    "request 1700000000.300000 900 8\n",
    "clock 1700000000.350000 -3.000000\n",
    "end 1700000001.000000 0\n",
]


def test_each_ping_has_its_own_first_times() -> None:
    """The first packet of a kind tells a probe's time; sequence numbers are unwrapped, pings are kept apart."""
    arrivals = parse_observer_log(LOG)
    ours, other = arrivals.pings("request", 65530)
    assert ours == {65535: 1700000000.0001, 65536: 1700000000.1001}
    assert other == {65536 + 900: 1700000000.3}
    assert arrivals.clock_steps == ((1700000000.35, -3.0),)
    assert arrivals.complete


@pytest.mark.parametrize(
    "lines",
    [LOG[:-1], [*LOG[:-1], "end 1700000001.000000 2\n"], [*LOG[:-1], "end 17000"], [*LOG, *LOG], [*LOG, LOG[1]]],
)
def test_a_cut_or_lossy_record_is_not_complete(lines: list[str]) -> None:
    """A record without its end, with packets dropped, of two starts, or that goes on after its end is not complete."""
    assert not parse_observer_log(lines).complete


@pytest.mark.parametrize("lines", [[], ["PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n"], ["\x00\n"]])
def test_another_log_is_refused(lines: list[str]) -> None:
    """What is no observer's log is refused."""
    with pytest.raises(InvalidError):
        parse_observer_log(lines)


def pcap(*packets: tuple[float, bytes]) -> bytes:
    records = [
        struct.pack("<IIII", int(at), round(at % 1 * 1e6), len(frame), len(frame)) + frame for at, frame in packets
    ]
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + b"".join(records)


def echo(kind: int, seq: int, source: str, destination: str, *, vlan: bool = False) -> bytes:
    icmp = struct.pack("!BBHHH", kind, 0, 0, 7, seq) + bytes(16)
    addresses = bytes(map(int, f"{source}.{destination}".split(".")))
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(icmp), 0, 0, 64, 1, 0) + addresses + icmp
    return bytes(12) + (b"\x81\x00\x00\x05" if vlan else b"") + b"\x08\x00" + ip


def test_a_capture_gives_what_arrives_at_the_static_vm(tmp_path: Path) -> None:
    """Replies of the peer with a static initiator, requests to the static VM with a migrated one, also in a VLAN."""
    file = tmp_path / "c.pcap"
    file.write_bytes(
        pcap(
            (1.0, echo(8, 1, "10.0.0.1", "10.0.0.2")),
            (1.001, echo(0, 1, "10.0.0.2", "10.0.0.1", vlan=True)),
            (1.1, echo(0, 2, "10.0.0.9", "10.0.0.1")),
            (1.2, echo(8, 1, "10.0.0.2", "10.0.0.1")),
        )
    )
    replies = read_capture(file, initiator="static", peer="10.0.0.2")
    assert [(p.kind, p.seq, round(p.time, 6)) for p in replies.packets] == [("reply", 1, 1.001)]
    requests = read_capture(file, initiator="migrated", peer="10.0.0.1")
    assert [(p.kind, round(p.time, 6)) for p in requests.packets] == [("request", 1.2)]


@pytest.mark.parametrize(
    "content", [b"", b"no capture at all, but long enough to be one", pcap()[:-4] + bytes([9] * 4)]
)
def test_a_file_that_is_no_capture_is_refused(tmp_path: Path, content: bytes) -> None:
    """A foreign file, or a link type that is not known, is refused with a way out."""
    file = tmp_path / "c.pcap"
    file.write_bytes(content)
    with pytest.raises(InvalidError) as refused:
        read_capture(file, initiator="static", peer=None)
    assert refused.value.reason == "capture-unknown"


def test_a_capture_that_was_cut_gives_what_is_whole_in_it(tmp_path: Path) -> None:
    """A last packet that was cut is not there, those before it are."""
    file = tmp_path / "c.pcap"
    packet = echo(0, 1, "10.0.0.2", "10.0.0.1")
    file.write_bytes(pcap((1.0, packet), (2.0, packet))[:-30])
    assert [p.time for p in read_capture(file, initiator="static", peer="10.0.0.2").packets] == [1.0]


@pytest.mark.parametrize("frame", [b"", b"short", bytes(40), echo(0, 1, "10.0.0.2", "10.0.0.1")[:38]])
def test_other_packets_are_passed_over(tmp_path: Path, frame: bytes) -> None:
    """What is no whole echo packet does not count, and stops nothing."""
    file = tmp_path / "c.pcap"
    file.write_bytes(pcap((1.0, frame), (1.5, echo(0, 2, "10.0.0.2", "10.0.0.1"))))
    assert [p.seq for p in read_capture(file, initiator="static", peer="10.0.0.2").packets] == [2]
