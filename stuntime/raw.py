"""What a measurement brings home from its testbed, and what that says."""

import io
from dataclasses import dataclass, field
from pathlib import Path

from stuntime.arrivals import Arrivals, parse_observer_log
from stuntime.capture import read_capture
from stuntime.errors import InvalidError, StuntimeError
from stuntime.gaps import Window
from stuntime.outage import Measurement, analyze, packets_only_s
from stuntime.ping import PingLog, parse_ping_log
from stuntime.result import CaptureCheck, ClockSample, Environment, MigrationRecord
from stuntime.testbed import Migration

PING_LOG, OBSERVER_LOG, CAPTURE = "ping.log", "observer.log", "capture.pcap"


@dataclass
class Raw:
    """What is known so far; filled on the way, so that nothing measured is lost when something later fails.

    Times are the testbed's. `clocks_before` and `clocks_after` hold samples by the role of the guest.
    """

    migration: Migration | None = None
    end_seen: float | None = None
    observed: bool = False
    ping_log: bytes | None = None
    observer_log: bytes | None = None
    clocks_before: dict[str, ClockSample] = field(default_factory=dict)
    clocks_after: dict[str, ClockSample] = field(default_factory=dict)
    environment: Environment | None = None
    error: StuntimeError | None = None

    @property
    def ahead_s(self) -> float:
        """By how much the reference clock is ahead of the testbed's."""
        sample = self.clocks_before.get("static")
        return sample.ahead_s if sample else 0.0


def read(
    raw: Raw, initiator: str, recovery_probes: int | None, evidence: Path
) -> tuple[Measurement | None, CaptureCheck | None]:
    """Return what the logs, and a capture among the evidence, say; logs that say nothing become the error of `raw`."""
    if raw.ping_log is None:
        return None, None
    log = parse_ping_log(io.StringIO(raw.ping_log.decode(errors="replace"), newline="\n"))
    before, after = raw.clocks_before.get("static"), raw.clocks_after.get("static")
    measurement = None
    try:
        measurement = analyze(
            log,
            initiator=initiator,
            arrivals=_observed(raw),
            window=_window(raw, raw.ahead_s),
            recovery_probes=recovery_probes,
            end_seen=None if raw.end_seen is None else raw.end_seen + raw.ahead_s,
            clock_error_s=before.error_s if before else 0.0,
            clock_drift_s=after.ahead_s - before.ahead_s if before and after else 0.0,
        )
        return measurement, _checked(raw, initiator, recovery_probes, log, measurement, evidence / CAPTURE)
    except InvalidError as error:
        raw.error = raw.error or error
        return measurement, None


def migration_record(raw: Raw) -> MigrationRecord | None:
    """Return the migration, its times in the reference clock; None when there was none."""
    moved = raw.migration
    if moved is None or raw.end_seen is None:
        return None
    window = _window(raw, raw.ahead_s)
    return MigrationRecord(
        requested=moved.requested + raw.ahead_s,
        started=window.started,
        ended=window.ended,
        end_seen=raw.end_seen + raw.ahead_s,
        source=moved.source,
        target=moved.target,
        uid=moved.uid,
        mode=moved.mode,
        ordinal=moved.ordinal,
        phases={name: time + raw.ahead_s for name, time in moved.phases.items()},
        configuration=dict(moved.configuration),
    )


def _observed(raw: Raw) -> Arrivals | None:
    if raw.observer_log is None:
        return None
    return parse_observer_log(io.StringIO(raw.observer_log.decode(errors="replace"), newline="\n"))


def _checked(
    raw: Raw,
    initiator: str,
    recovery_probes: int | None,
    log: PingLog,
    measurement: Measurement,
    file: Path,
) -> CaptureCheck | None:
    """Return what the capture says by the same rule; its times are the testbed's. None when there is none."""
    if not file.exists():
        return None
    captured = read_capture(file, initiator=initiator, peer=log.peer)
    window = _window(raw, 0.0)
    judged = analyze(
        log,
        initiator=initiator,
        arrivals=captured,
        window=window,
        recovery_probes=recovery_probes,
        end_seen=raw.end_seen,
        interval_s=measurement.spacing_s,
        like=measurement,
    )
    only_s = packets_only_s(
        captured, initiator=initiator, near=log.first, spacing_s=measurement.spacing_s, window=window
    )
    return CaptureCheck(judged.stuntime_s, only_s)


def _window(raw: Raw, ahead_s: float) -> Window:
    moved = raw.migration
    if moved is None:
        return Window()
    return Window(*(None if time is None else time + ahead_s for time in (moved.requested, moved.started, moved.ended)))
