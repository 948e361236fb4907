"""The arithmetic: gaps, outages, lasting recoveries, bounds and validity."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stuntime.arrivals import Arrival, Arrivals
from stuntime.errors import InvalidError
from stuntime.gaps import Window
from stuntime.outage import INVALID, WARNINGS, Measurement, analyze, packets_only_s
from stuntime.ping import parse_ping_log
from tests.unit.pinglog import START, Probe, log_lines, probes


def judged(sent: Sequence[Probe], **options) -> Measurement:
    return analyze(parse_ping_log(log_lines(list(sent))), **options)


def arrivals_of(sent: Sequence[Probe], kind: str, *, without: tuple[int, ...] = ()) -> Arrivals:
    """Return what a perfect observer notes: replies when they arrive, requests when they were sent."""
    packets = []
    for seq, probe in enumerate(sent, start=1):
        if seq in without or (kind == "reply" and probe.rtt_s is None):
            continue
        packets.append(Arrival(kind, START + probe.sent + (probe.rtt_s if kind == "reply" else 0.0), seq % 65536, 7))
    return Arrivals(tuple(sorted(packets, key=lambda packet: packet.time)))


def test_no_outage_is_zero_with_bounds() -> None:
    """Without an outage the stuntime is 0, and the bounds say what could hide between two probes."""
    measured = judged(probes(40))
    assert (measured.stuntime_s, measured.outages, measured.valid) == (0.0, (), True)
    assert (measured.bounds_s.lower, measured.bounds_s.upper) == (0.0, pytest.approx(0.1, abs=1e-4))


def test_an_outage_lasts_from_good_reply_to_good_reply() -> None:
    """Three lost probes at 0.1 s are 0.4 s, not 0.3 s: from the last good reply before to the first after."""
    measured = judged(probes(60, lost=(31, 32, 33)))
    assert measured.stuntime_s == pytest.approx(0.4)
    assert measured.bounds_s.lower == pytest.approx(0.2)
    assert (measured.probes_lost, measured.outages[0].probes_lost) == (3, 3)


def test_the_interval_is_what_was_measured() -> None:
    """The spacing is the median of the warm-up, whatever `-i` said."""
    assert judged(probes(60, 0.104), interval_s=0.1).spacing_s == pytest.approx(0.104)


def test_gaps_without_a_lasting_recovery_are_one_outage() -> None:
    """Nine good replies between two gaps do not part them, ten do."""
    near = judged(probes(80, lost=(31, 41)))
    far = judged(probes(80, lost=(31, 42)))
    assert [o.duration_s for o in near.outages] == [pytest.approx(1.2)]
    assert [o.duration_s for o in far.outages] == [pytest.approx(0.2)] * 2
    assert (far.stuntime_s, far.total_outage_s, far.envelope_s) == tuple(map(pytest.approx, (0.2, 0.4, 1.3)))


def test_recovery_probes_can_be_set() -> None:
    """`--recovery-probes` decides how many good replies in a row part two outages."""
    sent = probes(80, lost=(31, 35))
    assert len(judged(sent).outages) == 1
    assert len(judged(sent, recovery_probes=3).outages) == 2


def test_short_intervals_need_a_second_of_replies() -> None:
    """Below 0.1 s a lasting recovery has as many replies as one second holds."""
    assert len(judged(probes(400, 0.01, lost=(101, 140))).outages) == 1
    assert len(judged(probes(500, 0.01, lost=(101, 240))).outages) == 2


def test_queued_replies_are_one_instant() -> None:
    """Twelve replies that were queued and come in a burst do not make a recovery between two gaps."""
    held = [Probe(i * 0.1, 5.0 - i * 0.1 if 30 <= i < 42 else 0.001) for i in range(100)]
    held = [Probe(p.sent, None) if 42 <= i < 50 or 52 <= i < 54 else p for i, p in enumerate(held)]
    assert len(judged(held).outages) == 1


def test_a_static_sender_that_was_slow_is_noise() -> None:
    """Time without a probe is no outage with a static initiator whose next probe is answered at once."""
    late = [Probe(i * 0.1 + (0.5 if i >= 30 else 0.0)) for i in range(60)]
    measured = judged(late)
    assert (measured.stuntime_s, "noisy" in measured.reasons, measured.valid) == (0.0, True, True)
    assert measured.noise_s == pytest.approx(0.6)


def test_a_fresh_reply_does_not_hide_queued_ones() -> None:
    """Late replies lose nothing; that a later probe is answered first makes no slow sender of the static VM."""
    sent = [Probe(i * 0.1, 12.105 - i * 0.1 if 30 <= i < 121 else 0.001) for i in range(180)]
    measured = judged(sent, arrivals=arrivals_of(sent, "reply"))
    assert measured.stuntime_s == pytest.approx(9.2)


def test_a_silent_gap_counts_when_its_reply_was_on_its_way() -> None:
    """A reply that took a spacing or more ends a silent gap also with a static initiator."""
    held = [Probe(i * 0.1 + (0.5 if i > 30 else 0.0), 0.4 if i == 30 else 0.001) for i in range(60)]
    measured = judged(held)
    assert measured.gaps[0].silent
    assert measured.stuntime_s == pytest.approx(0.499)


def test_a_paused_sender_loses_nothing_and_is_cut_off() -> None:
    """A migrated initiator that was paused for 0.5 s lost no probe; the requests' arrivals tell the 0.5 s."""
    real = [Probe(i * 0.1 + (0.5 if i >= 30 else 0.0)) for i in range(60)]
    log = parse_ping_log(log_lines(probes(60)))  # its own clock stood still
    measured = analyze(log, initiator="migrated", arrivals=arrivals_of(real, "request"))
    assert (measured.probes_lost, measured.initiator_view_s) == (0, 0.0)
    assert measured.stuntime_s == pytest.approx(0.6)
    assert measured.bounds_s.lower == pytest.approx(0.4)
    assert measured.valid


def test_a_migrated_initiator_without_arrivals_has_no_true_times() -> None:
    """The clock of the VM that was paused is trusted by nobody: only its view is told."""
    measured = judged(probes(60, lost=(31, 32)), initiator="migrated")
    assert (measured.stuntime_s, measured.bounds_s, measured.valid) == (None, None, False)
    assert measured.initiator_view_s == pytest.approx(0.3)
    assert measured.reasons == ("no-true-times",)


def test_round_trips_complete_a_request() -> None:
    """With a migrated initiator a probe counts at its request's arrival plus the round trip of the log."""
    sent = [Probe(i * 0.1, 0.3 if i == 30 else 0.001) for i in range(60)]
    sent[31:33] = [Probe(3.1, None), Probe(3.2, None)]
    measured = analyze(parse_ping_log(log_lines(sent)), initiator="migrated", arrivals=arrivals_of(sent, "request"))
    assert measured.gaps[0].end == pytest.approx(START + 3.3)


@pytest.mark.parametrize("step_s", [0.15, 3.0])
@pytest.mark.parametrize("jitter_s", [0.0, 0.003])
def test_an_impossible_round_trip_is_a_clock_step(step_s: float, jitter_s: float) -> None:
    """A probe whose clock stepped before its reply has the usual round trip and makes no outage."""
    sent = probes(60)
    lines = log_lines(sent, step=(3.0005, step_s))
    lines[31] = lines[31].replace("time=1.000 ms", f"time={1 + step_s * 1000:.0f} ms")
    shaken = [Probe(p.sent + (jitter_s if i >= 30 else 0.0), p.rtt_s) for i, p in enumerate(sent)]
    measured = analyze(parse_ping_log(lines), initiator="migrated", arrivals=arrivals_of(shaken, "request"))
    assert measured.stuntime_s == 0.0


@pytest.mark.parametrize("told", [True, False])
def test_a_long_round_trip_is_believed(told: bool) -> None:
    """Replies that were held are late with and without `-O`, and so is the recovery."""
    held = [Probe(i * 0.1, 8.105 - i * 0.1 if 30 <= i < 81 else 0.001) for i in range(120)]
    lines = [line for line in log_lines(held) if told or "no answer" not in line]
    measured = analyze(parse_ping_log(lines), initiator="migrated", arrivals=arrivals_of(held, "request"))
    assert measured.stuntime_s == pytest.approx(5.205, abs=0.1)


@pytest.mark.parametrize("by", [3.0, -3.0])
@pytest.mark.parametrize("initiator", ["static", "migrated"])
def test_a_clock_step_is_never_an_outage(by: float, initiator: str) -> None:
    """The number hangs on the monotonic clock: a step of the initiator's wall clock changes nothing."""
    sent = probes(80, lost=(41, 42))
    log = parse_ping_log(log_lines(sent, step=(4.05, by)))
    arrivals = arrivals_of(sent, "reply" if initiator == "static" else "request")
    arrivals = Arrivals(arrivals.packets, ((START + 4.05, by),) if initiator == "static" else ())
    measured = analyze(log, initiator=initiator, arrivals=arrivals)
    assert measured.stuntime_s == pytest.approx(0.3, abs=0.002)
    assert measured.bounds_s.lower <= 0.1 + 1e-6
    assert measured.valid


def test_a_step_back_without_an_observer_is_invalid() -> None:
    """Where only `-D` stamps exist, a clock that stepped makes the measurement invalid."""
    measured = analyze(parse_ping_log(log_lines(probes(60), step=(3.0, -2.0))))
    assert (measured.valid, measured.reasons) == (False, ("clock-stepped",))


def test_clock_samples_that_disagree_are_invalid() -> None:
    """Samples before and after that disagree by more than half a spacing tell of a step that the stamps may hide."""
    assert "clock-stepped" in judged(probes(60), clock_drift_s=0.06).reasons
    assert "clock-stepped" not in judged(probes(60), clock_drift_s=-0.04).reasons


def test_never_recovered_has_no_number_but_a_lower_bound() -> None:
    """Without a recovery: null, and at least from the last good reply to the last probe's sending less a spacing."""
    measured = judged(probes(80, lost=tuple(range(31, 81))))
    assert (measured.stuntime_s, measured.recovered, measured.valid) == (None, False, True)
    assert measured.bounds_s.upper is None
    assert measured.bounds_s.lower == pytest.approx(7.9 - 2.901 - 0.1, abs=0.11)
    assert (measured.outages[0].end, measured.total_outage_s, measured.envelope_s) == (None, None, None)


def test_probes_shortly_before_the_end_are_in_flight() -> None:
    """An unanswered probe sent less than 1 s before the log ends is in flight, not lost, and no outage."""
    measured = judged(probes(60, lost=(56, 57, 58, 59, 60)))  # the last one leaves no line
    assert (measured.probes_sent, measured.probes_in_flight, measured.probes_lost) == (59, 4, 0)
    assert measured.stuntime_s == 0.0


def test_an_overtaken_probe_is_not_in_flight() -> None:
    """A gap shortly before the end of the log does not pass as being in flight."""
    measured = judged(probes(60, lost=(53, 54)))
    assert (measured.probes_in_flight, measured.probes_lost) == (0, 2)
    assert measured.stuntime_s == pytest.approx(0.3)
    assert "recovery-unconfirmed" in measured.reasons


def test_in_a_run_an_unconfirmed_recovery_is_none() -> None:
    """After the migration's end ten good replies have to be sent; otherwise it has not recovered."""
    sent = probes(60, lost=(41, 42))
    assert judged(sent, end_seen=START + 4.3).recovered
    late = judged(sent, end_seen=START + 5.2)
    assert (late.recovered, late.stuntime_s) == (False, None)


def test_an_outage_while_ping_is_being_ended_undoes_no_recovery() -> None:
    """Once a recovery was lasting the measurement is over: a short outage after it is told, and has ended."""
    measured = judged(probes(80, lost=(41, 42, 76)), end_seen=START + 4.3)
    assert (measured.recovered, measured.valid) == (True, True)
    assert [outage.probes_lost for outage in measured.outages] == [2, 1]
    assert measured.stuntime_s == pytest.approx(0.3)
    assert "recovery-unconfirmed" in measured.reasons
    worse = judged(probes(80, lost=(41, *range(60, 77))), end_seen=START + 4.3)
    assert worse.stuntime_s == pytest.approx(1.8)


def test_only_the_window_counts() -> None:
    """The stuntime is the longest outage that overlaps the window; an earlier one makes the measurement invalid."""
    sent = probes(120, lost=(31, 32, 33, 81))
    measured = judged(sent, window=Window(requested=START + 6.0))
    assert measured.stuntime_s == pytest.approx(0.2)
    assert (measured.valid, measured.reasons) == (False, ("outage-before-migration",))


@pytest.mark.parametrize("error_s", [0.0, 0.3, 1.1])
def test_no_outage_falls_between_before_and_within(error_s: float) -> None:
    """However coarse the clock samples were: an outage around the request is invalid or counts."""
    sent = probes(120, lost=(61, 62))
    for moment in (5.8, 6.0, 6.1, 6.201, 6.3, 6.5, 7.0):
        measured = judged(sent, window=Window(requested=START + moment, error_s=error_s))
        assert measured.stuntime_s == pytest.approx(0.3) or "outage-before-migration" in measured.reasons


@pytest.mark.parametrize("requested", [-5.0, 13.0, 3600.0])
def test_a_window_outside_the_log_is_invalid(requested: float) -> None:
    """A log that had not begun when the migration was asked for, or had ended, says nothing of it."""
    measured = judged(probes(120), window=Window(requested=START + requested))
    assert (measured.valid, measured.reasons) == (False, ("window-outside-log",))


def test_an_outage_that_begins_with_the_request_belongs_to_it() -> None:
    """The last good reply lies up to a spacing before the moment that cuts the VM off."""
    measured = judged(probes(120, lost=(61, 62)), window=Window(requested=START + 5.95))
    assert (measured.valid, measured.stuntime_s) == (True, pytest.approx(0.3))


@pytest.mark.parametrize(
    ("window", "phase"),
    [
        (Window(), None),
        (Window(START + 1, START + 7.0, START + 9.0), "preparation"),
        (Window(START + 1, START + 6.05, START + 9.0), "preparation"),
        (Window(START + 1, START + 5.95, START + 9.0), "switch-over"),
        (Window(START + 1, START + 5.0, START + 9.0), "switch-over"),
        (Window(START + 1, START + 3.0, START + 5.0), "after"),
        (Window(START + 1, START + 3.0, START + 5.0, resolution_s=1.0), "switch-over"),
    ],
)
def test_each_outage_says_its_phase(window: Window, phase: str | None) -> None:
    """The phase is that in which the outage's largest gap begins, up to a spacing after its last good reply."""
    assert judged(probes(120, lost=(61, 62)), window=window).outages[0].phase == phase


def test_loss_before_the_first_reply_is_invalid() -> None:
    """A log that begins cut off is no measurement."""
    measured = judged(probes(60, lost=(1, 2, 3)))
    assert (measured.valid, measured.reasons) == (False, ("loss-before-first-reply",))


def test_a_reply_that_the_observer_missed_is_told() -> None:
    """An observer's log that lacks what ping saw is not to be trusted, nor is one that was cut."""
    sent = probes(60)
    log = parse_ping_log(log_lines(sent))
    assert "observer-incomplete" in analyze(log, arrivals=arrivals_of(sent, "reply", without=(20,))).reasons
    cut = Arrivals(arrivals_of(sent, "reply").packets, complete=False)
    assert "observer-incomplete" in analyze(log, arrivals=cut).reasons


def test_stamps_and_observer_that_disagree_are_told() -> None:
    """More than a spacing between ping's own number and the observer's is a reason to distrust."""
    sent = probes(60, lost=(31, 32))
    shifted = [Probe(p.sent + (0.2 if i > 31 else 0.0), p.rtt_s) for i, p in enumerate(sent)]
    measured = analyze(parse_ping_log(log_lines(sent)), arrivals=arrivals_of(shifted, "reply"))
    assert measured.reasons == ("clocks-disagree",)
    assert not measured.valid


def test_a_reply_noted_late_hides_no_silence_after_it() -> None:
    """Where the static VM got no processor as an outage seemed to end, the number may be too small: not to be used."""
    sent = [Probe(i * 0.1) for i in range(30)] + [Probe(3.33, 0.101)] + [Probe(3.719 + i * 0.1) for i in range(29)]
    noted = [Probe(p.sent + (0.1 if i == 30 else 0.0), p.rtt_s) for i, p in enumerate(sent)]
    log = parse_ping_log(log_lines(sent))
    measured = analyze(log, initiator="migrated", arrivals=arrivals_of(noted, "request"))
    checked = analyze(log, initiator="migrated", arrivals=arrivals_of(sent, "request"), like=measured)
    assert measured.stuntime_s == pytest.approx(0.63)
    assert checked.stuntime_s == pytest.approx(0.819)
    assert measured.reasons == ("outage-undecided", "noisy")
    assert (measured.valid, checked.valid) == (False, True)


@pytest.mark.parametrize("initiator", ["static", "migrated"])
def test_queued_replies_leave_no_outage_undecided(initiator: str) -> None:
    """Replies that were queued and come in a burst have long round trips, and hide nothing."""
    sent = [Probe(i * 0.1, 3.502 - i * 0.1 if 30 <= i < 36 else 0.001) for i in range(70)]
    kind = "reply" if initiator == "static" else "request"
    measured = judged(sent, initiator=initiator, arrivals=arrivals_of(sent, kind))
    assert (measured.valid, measured.reasons) == (True, ())


@pytest.mark.parametrize("shift_s", [-0.004, 0.004])
def test_milliseconds_between_two_clocks_do_not_flip_a_silent_gap(shift_s: float) -> None:
    """A gap at the limit of two spacings is judged alike by the observer, by ping's stamps and by a capture."""
    held = [Probe(i * 0.1 + (0.1 if i > 30 else 0.0), 0.101 if i == 30 else 0.001) for i in range(60)]
    shifted = [Probe(p.sent + (shift_s if i >= 30 else 0.0), p.rtt_s) for i, p in enumerate(held)]
    log = parse_ping_log(log_lines(held))
    measured = analyze(log, arrivals=arrivals_of(shifted, "reply"))
    checked = analyze(log, arrivals=arrivals_of(held, "reply"), like=measured)
    assert "clocks-disagree" not in measured.reasons
    assert checked.stuntime_s == pytest.approx(measured.stuntime_s, abs=0.01)
    assert checked.initiator_view_s == pytest.approx(measured.stuntime_s, abs=0.01)


def test_several_pings_in_one_log_are_told() -> None:
    """The outages of a second ping in the same file would hide behind the first one's numbers."""
    lines = log_lines(probes(30))
    assert "several-pings" in analyze(parse_ping_log([*lines, *lines])).reasons


def test_arrivals_of_another_ping_do_not_count() -> None:
    """Of several pings with enough packets the one whose times are the log's is ours, not the one with the most."""
    real = [Probe(i * 0.1 + (4.0 if i >= 30 else 0.0)) for i in range(60)]
    ours = arrivals_of(real, "request").packets
    earlier = tuple(Arrival("request", START - 20 + i / 10, i + 1, 9) for i in range(150))
    log = parse_ping_log(log_lines(probes(60)))
    measured = analyze(log, initiator="migrated", arrivals=Arrivals(earlier + ours))
    assert (measured.stuntime_s, measured.valid) == (pytest.approx(4.1), True)


@pytest.mark.parametrize("initiator", ["static", "migrated"])
def test_arrivals_of_another_measurement_are_told(initiator: str) -> None:
    """What arrived in another measurement lies seconds away from ping's stamps, and is not believed."""
    sent = probes(60, lost=(31, 32, 33))
    other = arrivals_of(probes(60), "reply" if initiator == "static" else "request")
    later = Arrivals(tuple(packet._replace(time=packet.time + 8.0) for packet in other.packets))
    log = parse_ping_log(log_lines(sent))
    measured = analyze(log, initiator=initiator, arrivals=later)
    assert "arrivals-foreign" in measured.reasons
    assert not measured.valid
    # Where both clocks were sampled, the distance is known.
    known = Arrivals(
        tuple(packet._replace(time=packet.time + 8.0) for packet in arrivals_of(sent, other.packets[0].kind).packets)
    )
    assert analyze(log, initiator=initiator, arrivals=known, apart_s=8.0).valid


def test_arrivals_of_a_foreign_log_are_refused() -> None:
    """An observer's log without any of the replies is not this measurement's."""
    with pytest.raises(InvalidError) as refused:
        judged(probes(60), arrivals=Arrivals(()))
    assert refused.value.reason == "observer-incomplete"


def test_one_reply_tells_no_spacing() -> None:
    """A log with a single reply gives no number, unless the interval is told."""
    with pytest.raises(InvalidError) as refused:
        judged(probes(1))
    assert refused.value.reason == "too-few-replies"
    assert judged(probes(1), interval_s=0.1).spacing_s == 0.1


def test_packets_alone_are_for_the_record() -> None:
    """Requests alone know of silence, not of answers."""
    sent = probes(60, lost=(31, 32, 33))
    assert packets_only_s(arrivals_of(sent, "request"), initiator="migrated", near=1, spacing_s=0.1) == 0.0
    assert packets_only_s(arrivals_of(sent, "reply"), initiator="static", near=1, spacing_s=0.1) == pytest.approx(0.4)
    assert packets_only_s(Arrivals(()), initiator="static", near=1, spacing_s=0.1) is None


fates = st.one_of(st.just(0.001), st.just(0.001), st.just(None), st.floats(0.0005, 2.5))
pings = st.lists(st.tuples(st.sampled_from([0.1, 0.1, 0.1, 0.1, 0.7]), fates), min_size=2, max_size=90)


def sent_of(draw: list[tuple[float, float | None]]) -> list[Probe]:
    sent, at = [], 0.0
    for pause, rtt_s in draw:
        sent.append(Probe(at, rtt_s))
        at += pause
    return sent


@settings(max_examples=300)
@given(
    pings,
    st.sampled_from(["static", "migrated"]),
    st.booleans(),
    st.one_of(st.none(), st.floats(0, 9)),
    st.tuples(st.floats(0, 9), st.sampled_from([0.0, 3.0, -3.0])),
)
def test_whatever_happens_the_sums_are_right(
    draw: list[tuple[float, float | None]],
    initiator: str,
    observed: bool,
    requested: float | None,
    step: tuple[float, float],
) -> None:
    """Late, lost, stalled, clock stepped: outages are disjoint and ordered, and no probe is lost twice or forgotten."""
    sent = sent_of(draw)
    log = parse_ping_log(log_lines(sent, step=step))
    arrivals = arrivals_of(sent, "reply" if initiator == "static" else "request") if observed else None
    window = Window(None if requested is None else START + requested)
    try:
        measured = analyze(log, initiator=initiator, arrivals=arrivals, window=window, interval_s=0.1)
    except InvalidError:
        assert all(rtt_s is None for _, rtt_s in draw)
        return
    assert measured.probes_answered + measured.probes_lost + measured.probes_in_flight == measured.probes_sent
    assert set(measured.reasons) <= set(INVALID) | set(WARNINGS)
    assert measured.valid == (not set(measured.reasons) & set(INVALID))
    ended = [o for o in measured.outages if o.end is not None]
    assert all(a.end <= b.start for a, b in zip(measured.outages, measured.outages[1:], strict=False))
    assert all(o.start <= o.end for o in ended)
    assert all(gap.start <= gap.end for gap in measured.gaps)
    if measured.envelope_s is not None:
        assert measured.total_outage_s <= measured.envelope_s + 1e-6
        assert max((o.duration_s for o in ended), default=0.0) <= measured.envelope_s + 1e-6
    if measured.stuntime_s is not None:
        assert 0.0 <= measured.bounds_s.lower <= measured.bounds_s.upper + 1e-9
        assert measured.stuntime_s <= measured.bounds_s.upper + 1e-9
    if measured.stuntime_s is not None and measured.stuntime_s > 0:
        assert measured.stuntime_s in [o.duration_s for o in ended]


@settings(max_examples=200)
@given(st.integers(20, 60), st.integers(1, 40), st.integers(20, 60), st.sampled_from([0.016, 0.1, 0.104]))
def test_one_blackhole_is_measured_to_one_probe(before: int, lost: int, after: int, spacing_s: float) -> None:
    """A blackhole of any length reads its true length to within a spacing, from whatever side it is bounded."""
    gone = tuple(range(before + 1, before + lost + 1))
    measured = judged(probes(before + lost + after, spacing_s, lost=gone))
    true_s = lost * spacing_s
    assert measured.stuntime_s == pytest.approx(true_s + spacing_s, abs=1e-4)
    assert measured.bounds_s.lower <= true_s <= measured.bounds_s.upper + 1e-4
    assert measured.bounds_s.upper - measured.bounds_s.lower <= 2 * spacing_s + 1e-4
