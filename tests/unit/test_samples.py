"""Real ping logs and what they are known to say (their origins lie beside them)."""

from pathlib import Path

import pytest

from stuntime.errors import InvalidError
from stuntime.outage import analyze
from stuntime.ping import parse_ping_log

SAMPLES = Path(__file__).parent.parent / "data" / "ping"

#: sample: stuntime, recovered, valid, reasons, sent, answered, lost, in flight
READINGS = {
    "cakeautorate24_interleaved_two_pings_D": (0.0, True, True, [], 6, 6, 0, 0),
    "iputils522_OD_interval_drift": (0.0, True, True, [], 8, 8, 0, 0),
    "jc_centos-7.7_ping-hostname-O-D-p-s": (0.0, True, True, [], 20, 20, 0, 0),
    "jc_centos-7.7_ping6-ip-O-D-p": (2.009, True, True, ["recovery-unconfirmed"], 20, 19, 1, 0),
    "jc_fedora32_ping-ip-O-D": (0.0, True, True, [], 20, 20, 0, 0),
    "jc_fedora32_ping6-hostname-O-D-p-s": (0.0, True, True, [], 20, 20, 0, 0),
    "jc_ubuntu-18.04_ping6-ip-O-D-p": (15.173, True, True, ["warm-up-short", "recovery-unconfirmed"], 20, 15, 5, 0),
    "local_a_v4_gap_10ms": (1.036, True, True, [], 190, 127, 63, 0),
    "local_b_v4_two_gaps_killed": (2.158, True, True, [], 51, 51, 0, 0),
    "local_c_v4_host_unreachable": (0.0, True, False, ["loss-before-first-reply"], 37, 13, 24, 0),
    "local_d_v4_route_removed_silent_loss": (1.152, True, True, ["recovery-unconfirmed"], 29, 19, 10, 0),
    "local_wrap_seq_65535_to_0": (
        0.887,
        True,
        True,
        ["noisy", "warm-up-short", "recovery-unconfirmed"],
        65560,
        18,
        65526,
        16,
    ),
    "pr4238_linux_bridge_migration_D": (11.131, True, True, ["warm-up-short", "recovery-unconfirmed"], 115, 10, 105, 0),
}
REFUSED = {
    "iputils483_nOD_ttl_exceeded": "never-answered",
    "iputils484_i0002_short": "log-without-times",
    "iputils583_flood_lost_wording": "never-answered",
    "jc_alpine-linux-3.13_ping-ip": "log-not-iputils",
    "jc_centos-7.7_ping-ip-dup": "never-answered",
    "jc_centos-7.7_ping-missing-hostname": "log-without-times",
    "jc_centos-7.7_ping6-ip-dup": "never-answered",
    "jc_osx-10.14.6_ping-ip-unreachable": "log-not-iputils",
    "jc_pi_ping-ip-O-D": "never-answered",
    "jc_ubuntu-22.04_ping-dest-unreachable": "never-answered",
    "kubevirt11069_summaries_100ms": "log-not-ping",
    "local_g_v4_never": "never-answered",
    "local_h_busybox_v4": "log-not-iputils",
    "local_h_busybox_v6": "log-not-iputils",
    "wifish5_sendmsg_and_unreachable": "never-answered",
}


def _read(name: str):
    with (SAMPLES / f"{name}.txt").open(errors="replace", newline="\n") as lines:
        return parse_ping_log(lines)


def test_every_sample_has_an_expected_reading() -> None:
    """No sample lies there unread."""
    assert {path.stem for path in SAMPLES.glob("*.txt")} == set(READINGS) | set(REFUSED)


@pytest.mark.parametrize("name", READINGS)
def test_sample_reads_as_known(name: str) -> None:
    """A real log gives the number, the counts and the reasons that a person finds in it."""
    measured = analyze(_read(name))
    assert (
        round(measured.stuntime_s, 3),
        measured.recovered,
        measured.valid,
        list(measured.reasons),
        measured.probes_sent,
        measured.probes_answered,
        measured.probes_lost,
        measured.probes_in_flight,
    ) == READINGS[name]


@pytest.mark.parametrize("name", REFUSED)
def test_sample_without_a_number_is_refused(name: str) -> None:
    """A log that can tell no stuntime gets a reason and a way out, and no number."""
    with pytest.raises(InvalidError) as refused:
        analyze(_read(name))
    assert refused.value.reason == REFUSED[name]
    assert refused.value.way_out


def test_a_stray_reply_is_no_recovery() -> None:
    """The public migration log is one outage of 11.131 s, although one reply came through in its middle."""
    measured = analyze(_read("pr4238_linux_bridge_migration_D"))
    assert [round(gap.duration_s, 3) for gap in measured.gaps] == [0.936, 10.194]
    assert [round(outage.duration_s, 3) for outage in measured.outages] == [11.131]


def test_replies_that_come_in_a_burst_are_one_instant() -> None:
    """Queued replies lose no probe; the outages are as long as nothing came."""
    measured = analyze(_read("local_b_v4_two_gaps_killed"))
    assert [round(outage.duration_s, 3) for outage in measured.outages] == [1.12, 2.158]
    assert all(gap.silent for gap in measured.gaps)
