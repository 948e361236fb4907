"""What a measurement brings home from its testbed, and what that says."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

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
        return _ahead_s(self, "static")


def read(
    raw: Raw, initiator: str, recovery_probes: int | None, evidence: Path
) -> tuple[Measurement | None, CaptureCheck | None]:
    """Return what the logs, and a capture among the evidence, say; logs that say nothing become the error of `raw`."""
    if raw.ping_log is None:
        return None, None
    log = parse_ping_log(io.StringIO(raw.ping_log.decode(errors="replace"), newline="\n"))
    before, after = raw.clocks_before.get("static"), raw.clocks_after.get("static")
    try:
        measurement = analyze(
            log,
            initiator=initiator,
            arrivals=_observed(raw),
            window=_window(raw, raw.ahead_s, before.error_s if before else 0.0),
            recovery_probes=recovery_probes,
            end_seen=None if raw.end_seen is None else raw.end_seen + raw.ahead_s,
            apart_s=raw.ahead_s - _ahead_s(raw, initiator),
            clock_drift_s=after.ahead_s - before.ahead_s if before and after else 0.0,
        )
    except InvalidError as error:
        raw.error = raw.error or error
        return None, None
    checked = _checked(raw, initiator, recovery_probes, log, measurement, evidence / CAPTURE)
    if measurement.stuntime_s == 0 and raw.migration is not None and not raw.migration.proven:
        raw.error = raw.error or InvalidError(
            "there was no outage, and nothing else shows that the VM was migrated: nobody confirmed it, no command"
            " verified it",
            "give a --verify-command that prints the VM's node, or confirm the end by hand",
            reason="migration-unproven",
        )
        measurement = msgspec.structs.replace(measurement, stuntime_s=None, bounds_s=None)
    return measurement, checked


def migration_record(raw: Raw) -> MigrationRecord | None:
    """Return the migration, its times in the reference clock; None when there was none."""
    moved = raw.migration
    if moved is None or raw.end_seen is None:
        return None
    window = _window(raw, raw.ahead_s, 0.0)
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
    window = _window(raw, 0.0, 0.0)
    try:
        captured = read_capture(file, initiator=initiator, peer=log.peer)
        judged = analyze(
            log,
            initiator=initiator,
            arrivals=captured,
            window=window,
            recovery_probes=recovery_probes,
            end_seen=raw.end_seen,
            interval_s=measurement.spacing_s,
            apart_s=-_ahead_s(raw, initiator),
            like=measurement,
        )
    except InvalidError as error:
        return CaptureCheck(stuntime_s=None, requests_only_s=None, valid=False, reasons=(error.reason,))
    only_s = packets_only_s(
        captured, initiator=initiator, near=log.first, spacing_s=measurement.spacing_s, window=window
    )
    return CaptureCheck(
        stuntime_s=judged.stuntime_s, requests_only_s=only_s, valid=judged.valid, reasons=judged.reasons
    )


def _ahead_s(raw: Raw, role: str) -> float:
    """Return by how much a guest's clock is ahead of the testbed's."""
    sample = raw.clocks_before.get(role)
    return sample.ahead_s if sample else 0.0


def _window(raw: Raw, ahead_s: float, error_s: float) -> Window:
    """Return the migration's window in a clock that is ahead of the testbed's."""
    moved = raw.migration
    if moved is None:
        return Window()
    return Window(
        requested=moved.requested + ahead_s,
        started=None if moved.started is None else moved.started + ahead_s,
        ended=None if moved.ended is None else moved.ended + ahead_s,
        error_s=error_s,
        resolution_s=moved.resolution_s,
    )
