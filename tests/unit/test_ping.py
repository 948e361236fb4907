"""The parser: every form of line that iputils writes, and everything else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stuntime.ping import parse_ping_log, unwrapped
from tests.unit.pinglog import PEER, START, log_lines, probes

HEADER = f"PING {PEER} ({PEER}) 56(84) bytes of data.\n"


def reply(seq: int, at: float = 0.0, rest: str = " time=0.5 ms", address: str = PEER) -> str:
    return f"[{START + at:.6f}] 64 bytes from {address}: icmp_seq={seq} ttl=64{rest}\n"


@pytest.mark.parametrize(
    ("header", "peer"),
    [
        ("PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.", "10.0.0.2"),
        ("PING host.example (10.0.0.2) from 10.0.0.1 eth0: 56(84) bytes of data.", "10.0.0.2"),
        ("PING fd00::2(fd00::2) 56 data bytes", "fd00::2"),
        ("PING fd00::2 (fd00::2) 56 data bytes", "fd00::2"),
        ("PING host.example(fd00::2 (fd00::2)) 1400 data bytes", "fd00::2"),
        ("PING vm(vm.example (fd00::2)) 56 data bytes", "fd00::2"),
        ("PING fe80::1%eth0(fe80::1%eth0) 56 data bytes", "fe80::1"),
    ],
)
def test_header_names_the_peer(header: str, peer: str) -> None:
    """Each known form of the first line says who is pinged."""
    log = parse_ping_log([header + "\n"])
    assert (log.peer, log.headers) == (peer, 1)


@pytest.mark.parametrize(
    ("line", "rtt_s"),
    [
        (reply(1, rest=" time=0.069 ms"), 0.000069),
        (reply(1, rest=" time=1022 ms"), 1.022),
        (reply(1, rest=""), None),
        (reply(1, address=f"host.example ({PEER})"), 0.0005),
        (reply(1, rest=" time=0.5 ms").replace("\n", "\r\n"), 0.0005),
    ],
)
def test_reply_forms(line: str, rtt_s: float | None) -> None:
    """A reply counts in each of its forms, with the round trip that it names."""
    log = parse_ping_log([HEADER, line])
    (found,) = log.replies
    assert (found.seq, found.rtt_s) == (1, pytest.approx(rtt_s))


@pytest.mark.parametrize(
    ("line", "counter"),
    [
        (reply(2, address="10.0.0.9"), "foreign"),
        (reply(1, rest=" time=0.5 ms (DUP!)"), "duplicates"),
        (reply(1), "duplicates"),
        (reply(2, rest=" time=0.5 ms (BAD CHECKSUM!)"), "unparsable"),
        (f"[{START:.6f}] From 10.0.0.1 icmp_seq=1 Destination Host Unreachable\n", "errors"),
        (f"[{START:.6f}] 64 Bytes von {PEER}: icmp_seq=2 ttl=64 Zeit=0.5 ms\n", "unparsable"),
        (f"[{START:.6f}] 64 bytes from {PEER}: icmp_seq=2 ttl=64 tim", "unparsable"),
        (f"[{START:.6f}] 64 bytes from {PEER}: icmp_seq=2 ttl=64 time=1", "unparsable"),
        (f"[{START:.6f}] no answer yet for icmp_seq=2", "unparsable"),
        (f"64 bytes from {PEER}: icmp_seq=2 ttl=64 time=0.5 ms\n", "untimed"),
        ("\x00\x01\xff\n", "unparsable"),
        (f"[{START:.6f}] no answer yet for icmp_seq={'9' * 5000}\n", "unparsable"),
        (f"[{'9' * 400}.0] 64 bytes from {PEER}: icmp_seq=2 ttl=64 time=0.5 ms\n", "unparsable"),
    ],
)
def test_other_lines_are_counted_and_never_answer(line: str, counter: str) -> None:
    """Foreign, duplicate, damaged, translated, cut and stampless lines are kept count of and answer no probe."""
    log = parse_ping_log([HEADER, reply(1), line])
    assert [r.seq for r in log.replies] == [1]
    assert getattr(log, counter) == 1


def test_lines_of_no_interest_are_not_unparsable() -> None:
    """Summaries, warnings and blank lines are known."""
    lines = ["\n", "^C\n", "--- 10.0.0.2 ping statistics ---\n", "rtt min/avg/max/mdev = 1/1/1/0 ms, pipe 2\n"]
    lines += [
        "ping: sendmsg: Network is unreachable\n",
        "Warning: time of day goes back (-123us), taking countermeasures\n",
    ]
    lines += ["1 packets transmitted, 1 received, +1 duplicates, 0% packet loss, time 0ms\n", "PATTERN: 0xabcd\n"]
    assert parse_ping_log([HEADER, *lines]).unparsable == 0


def test_a_late_reply_answers_its_probe_once() -> None:
    """A reply that comes after `no answer yet` is late, not lost, and a second one does not count again."""
    lines = [reply(1), f"[{START + 0.2:.6f}] no answer yet for icmp_seq=2\n", reply(2, 0.3), reply(2, 0.4)]
    log = parse_ping_log([HEADER, *lines])
    assert ([r.seq for r in log.replies], log.late, log.duplicates) == ([1, 2], 1, 1)


def test_summary_tells_of_probes_that_left_no_line() -> None:
    """Without `-O` only the summary knows how many probes were sent, and until when."""
    log = parse_ping_log(
        [HEADER, reply(1), "\n", "31 packets transmitted, 1 received, 96.7742% packet loss, time 3120ms\n"]
    )
    assert (log.sent, round(log.ended - START, 3)) == (31, 3.12)


def test_a_summary_of_millions_is_not_believed() -> None:
    """A damaged number claims no probes that nobody sent."""
    log = parse_ping_log(
        [HEADER, reply(1), "999999999 packets transmitted, 1 received, 99% packet loss, time 3120ms\n"]
    )
    assert log.sent == 1


def test_stamps_never_go_back() -> None:
    """A step back of the clock is told, and time goes on from where it was."""
    log = parse_ping_log([HEADER, reply(1, 5.0), reply(2, 5.1), reply(3, 2.2), reply(4, 2.3)])
    assert log.steps_back_s == (2.9,)
    assert [round(r.time - START, 6) for r in log.replies] == [5.0, 5.1, 5.1, 5.2]


def test_sequence_numbers_unwrap() -> None:
    """icmp_seq is printed modulo 65536 and goes on counting."""
    count = 65_600
    log = parse_ping_log(log_lines(probes(count, 0.01)))
    assert [r.seq for r in log.replies] == list(range(1, count + 1))


def test_a_log_whose_beginning_is_gone_starts_where_it_starts() -> None:
    """Without the first line nothing before the first known probe is said to be lost."""
    log = parse_ping_log(log_lines(probes(60), header=False)[40:])
    assert (log.first, log.sent, log.peer) == (41, 20, PEER)


@given(st.integers(0, 65535), st.integers(-(10**6), 10**6))
def test_unwrapped_is_the_nearest(seq: int, near: int) -> None:
    """The unwrapped number is congruent and never farther than half the range."""
    found = unwrapped(seq, near)
    assert found % 65536 == seq
    assert abs(found - near) <= 32768


lines_of_any_kind = st.one_of(
    st.builds(reply, st.integers(0, 65535), st.floats(-10, 10)),
    st.builds(
        reply, st.integers(0, 40), st.floats(-10, 10), st.sampled_from(["", " time=1 ms", " time=0.1 ms (DUP!)"])
    ),
    st.builds(reply, st.integers(0, 40), st.just(0.0), st.just(" time=1 ms"), st.just("10.0.0.9")),
    st.builds("[{:.6f}] no answer yet for icmp_seq={}\n".format, st.floats(0, 2e9), st.integers(0, 99_999)),
    st.builds(
        "[{:.6f}] From 10.0.0.1 icmp_seq={} Time to live exceeded\n".format, st.floats(0, 2e9), st.integers(0, 99)
    ),
    st.builds("{} packets transmitted, {} received, 0% packet loss, time {}ms\n".format, *[st.integers(0, 10**5)] * 3),
    st.sampled_from(
        [HEADER, HEADER.replace("2", "3"), "64 Bytes von 10.0.0.2: icmp_seq=3 ttl=64 Zeit=1 ms\n", "\r3/3\n"]
    ),
    st.text(max_size=60),
)


@settings(max_examples=300)
@given(st.lists(lines_of_any_kind, max_size=60), st.integers(0, 60))
def test_no_line_makes_the_parser_fail(lines: list[str], cut: int) -> None:
    """Any interleaving of lines, the last one cut anywhere, is read; no probe is answered twice."""
    if lines:
        lines[-1] = lines[-1][:cut]
    log = parse_ping_log(lines)
    seqs = [r.seq for r in log.replies]
    assert len(seqs) == len(set(seqs))
    assert all(log.first <= seq <= log.last for seq in seqs)
    assert [r.time for r in log.replies] == sorted(r.time for r in log.replies)
    assert log.ended is None or all(r.time <= log.ended for r in log.replies)
