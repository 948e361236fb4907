"""The rule of the measurement, written once, against the protocols of `testbed`.

The order is the rule: place, check, quiet window, observer and ping, warm-up, migration, lasting recovery, collect,
analyse. A result comes whatever happened, and what was put into the guests is taken away.
"""

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from uuid import uuid4

import msgspec
import structlog

from stuntime import __version__
from stuntime.arrivals import parse_observer_log
from stuntime.capture import read_capture
from stuntime.errors import InvalidError, MigrationError, StuntimeError, TestbedError, UnfitError
from stuntime.outage import Measurement, Window, analyze, default_recovery_probes, packets_only_s
from stuntime.ping import PingLog, parse_ping_log
from stuntime.prober import Prober, sample_clock
from stuntime.result import (
    CaptureCheck,
    ClockSample,
    ClockSamples,
    Environment,
    ErrorRecord,
    MigrationRecord,
    Result,
)
from stuntime.scenario import Scenario
from stuntime.store import write_evidence
from stuntime.testbed import Migration, Pair, Route, Testbed

log = structlog.get_logger()

WARM_UP_PROBES = 20
PING_LOG, OBSERVER_LOG, CAPTURE = "ping.log", "observer.log", "capture.pcap"
_ROLES = ("static", "migrated")
_WARM_UP_S = 30.0
_PLACING_S = 120.0
_CONTROL_S = 3.0


@dataclass(frozen=True)
class Options:
    """How to measure. `recovery_probes` None: by the spacing; `migrate` False: the control run, nothing moves."""

    interval_s: float = 0.1
    recovery_probes: int | None = None
    recovery_timeout_s: float = 60.0
    migration_timeout_s: float = 120.0
    migrate: bool = True
    capture: bool = False


@dataclass
class _Raw:
    """What is known so far; filled on the way, so that nothing measured is lost when something later fails."""

    migration: Migration | None = None
    end_seen: float | None = None
    observed: bool = False
    ping_log: bytes | None = None
    observer_log: bytes | None = None
    clocks_before: dict[str, ClockSample] = field(default_factory=dict)
    clocks_after: dict[str, ClockSample] = field(default_factory=dict)
    environment: Environment | None = None
    error: StuntimeError | None = None


class _NeverRecovered(StuntimeError):  # noqa: N818 - a verdict, not an error
    """Inside `measure` only: a verdict of its own, but VMs that nobody should use again."""


def measure(
    testbed: Testbed, scenario: Scenario, options: Options, *, run: str, repetition: int, evidence: Path
) -> Result:
    """Measure a scenario once and return the result, also when it failed; evidence is written into the folder.

    Only what is no StuntimeError (an interrupt, a defect) gets through.
    """
    started, begun = datetime.now(UTC), testbed.now()
    raw = _Raw()
    try:
        with testbed.pair(scenario) as pair, _diagnosed(testbed, pair, evidence):
            _take(testbed, scenario, pair, options, raw, evidence)
    except _NeverRecovered:
        pass
    except StuntimeError as error:
        raw.error = error
    measurement, capture = _read(scenario, options, raw, evidence)
    return msgspec.structs.replace(
        _blank(scenario, options, run, repetition),
        started=started.isoformat(timespec="seconds"),
        duration_s=testbed.now() - begun,
        measurement=measurement,
        migration=_migration_record(raw),
        capture=capture,
        clocks={role: ClockSamples(raw.clocks_before.get(role), raw.clocks_after.get(role)) for role in _ROLES},
        environment=raw.environment,
        error=ErrorRecord.of(raw.error) if raw.error else None,
    )


def failed(scenario: Scenario, options: Options, error: StuntimeError, *, run: str, repetition: int) -> Result:
    """Return the result of a measurement that an error did not let begin."""
    return msgspec.structs.replace(_blank(scenario, options, run, repetition), error=ErrorRecord.of(error))


def _blank(scenario: Scenario, options: Options, run: str, repetition: int) -> Result:
    return Result(
        tool_version=__version__,
        scenario=scenario.id,
        run=run,
        repetition=repetition,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=0.0,
        interval_s=options.interval_s,
        recovery_probes=options.recovery_probes,
        recovery_timeout_s=options.recovery_timeout_s,
    )


def _take(testbed: Testbed, scenario: Scenario, pair: Pair, options: Options, raw: _Raw, evidence: Path) -> None:
    """Go through the measurement, and keep in `raw` and in the evidence what it yields."""
    route = testbed.route(scenario)
    _place(testbed, pair, route)
    prober = _prober(testbed, scenario, pair, options)
    try:
        prober.start_observer()
        raw.environment = _environment(testbed, scenario, pair, prober.check())
        raw.clocks_before = _clocks(testbed, pair)
        raw.observed = prober.observes()
        if scenario.initiator == "migrated" and not raw.observed:
            raise UnfitError(
                "the observer does not run in the static VM, and only it can time a migrated initiator",
                "use a guest image with python3, and a user there who may open a raw socket",
                reason="observer-missing",
            )
        with testbed.quiet_window(scenario.id), _captured(testbed, pair, options, evidence):
            log.debug("measure.warming-up", scenario=scenario.id)
            prober.start_ping()
            _warm_up(prober)
            log.debug("measure.migrating", scenario=scenario.id, source=route.source, target=route.target)
            _migrate(testbed, pair, route, options, raw)
            raw.end_seen = testbed.now()
            log.debug("measure.recovering", scenario=scenario.id)
            recovered = _recovered(prober, options)
            prober.stop()
            log.debug("measure.collecting", scenario=scenario.id, recovered=recovered)
        raw.clocks_after = _clocks(testbed, pair)
    except StuntimeError:
        with suppress(StuntimeError):  # the first failure is the one to tell
            _collect(prober, raw, evidence)
        raise
    _collect(prober, raw, evidence)
    if raw.error is not None:
        raise raw.error
    if not recovered:
        raise _NeverRecovered("the VMs cannot talk any more", "")


def _place(testbed: Testbed, pair: Pair, route: Route) -> None:
    """Bring the migrated VM to its start, by an unmeasured migration if need be; verify both places by name."""
    if testbed.node_of(pair.migrated) != route.source:
        log.info("vm.placing", vm=pair.migrated.name, node=route.source)
        testbed.migrate(pair.migrated, route.source, timeout_s=_PLACING_S)
    for vm, node in ((pair.static, route.static_node), (pair.migrated, route.source)):
        found = testbed.node_of(vm)
        if found != node:
            raise TestbedError(f"{vm.name} is on {found}, not on {node}", "measure again", reason="vm-misplaced")


def _prober(testbed: Testbed, scenario: Scenario, pair: Pair, options: Options) -> Prober:
    static_pings = scenario.initiator == "static"
    initiator, peer = (pair.static, pair.migrated) if static_pings else (pair.migrated, pair.static)
    return Prober(
        testbed=testbed,
        initiator=testbed.shell(initiator),
        static=testbed.shell(pair.static),
        peer=peer.addresses[scenario.ip_family],
        observed=pair.migrated.addresses[scenario.ip_family],
        interval_s=options.interval_s,
        folder=f"/tmp/stuntime-{uuid4().hex[:8]}",  # noqa: S108 - in a guest of ours
    )


def _environment(testbed: Testbed, scenario: Scenario, pair: Pair, initiator: dict[str, str]) -> Environment:
    facts = dict(testbed.environment(pair))
    return msgspec.convert({**facts, "guests": {scenario.initiator: initiator}}, Environment)


def _migrate(testbed: Testbed, pair: Pair, route: Route, options: Options, raw: _Raw) -> None:
    """Migrate; a migration that fails is kept as the measurement's error: the logs still tell what it did."""
    if not options.migrate:
        sleep(_CONTROL_S)
        return
    try:
        raw.migration = testbed.migrate(pair.migrated, route.target, timeout_s=options.migration_timeout_s)
    except MigrationError as error:
        raw.error = error


def _warm_up(prober: Prober) -> None:
    if not prober.wait_for_answers(WARM_UP_PROBES, after=None, timeout_s=_WARM_UP_S):
        raise InvalidError(
            f"ping had no {WARM_UP_PROBES} good replies in a row in {_WARM_UP_S:g} s of warm-up",
            "mend the network: no migration has been asked for yet",
            reason="warm-up-failed",
        )


def _recovered(prober: Prober, options: Options) -> bool:
    """Wait for the lasting recovery after the migration's end was seen; one probe more allows for the clocks' error."""
    probes = (options.recovery_probes or default_recovery_probes(options.interval_s)) + 1
    return prober.wait_for_answers(probes, after=prober.last_seq(), timeout_s=options.recovery_timeout_s)


def _collect(prober: Prober, raw: _Raw, evidence: Path) -> None:
    """Bring the logs out of the guests and into the evidence."""
    prober.stop()
    raw.ping_log = prober.ping_log()
    write_evidence(evidence / PING_LOG, raw.ping_log)
    if raw.observed:
        raw.observer_log = prober.observer_log()
        write_evidence(evidence / OBSERVER_LOG, raw.observer_log)
    prober.clear()


def _read(
    scenario: Scenario, options: Options, raw: _Raw, evidence: Path
) -> tuple[Measurement | None, CaptureCheck | None]:
    """Return what the logs, and the capture beside them, say; a log that says nothing becomes the error."""
    if raw.ping_log is None:
        return None, None
    log_ = parse_ping_log(io.StringIO(raw.ping_log.decode(errors="replace"), newline="\n"))
    before, after = raw.clocks_before.get("static"), raw.clocks_after.get("static")
    ahead_s = before.ahead_s if before else 0.0
    try:
        arrivals = None
        if raw.observer_log is not None:
            arrivals = parse_observer_log(raw.observer_log.decode(errors="replace").splitlines(keepends=True))
        measurement = analyze(
            log_,
            initiator=scenario.initiator,
            arrivals=arrivals,
            window=_window(raw, ahead_s),
            recovery_probes=options.recovery_probes,
            end_seen=None if raw.end_seen is None else raw.end_seen + ahead_s,
            clock_error_s=before.error_s if before else 0.0,
            clock_drift_s=after.ahead_s - before.ahead_s if before and after else 0.0,
        )
        return measurement, _checked(scenario, raw, log_, measurement, evidence / CAPTURE)
    except InvalidError as error:
        raw.error = raw.error or error
        return None, None


def _checked(scenario: Scenario, raw: _Raw, log_: PingLog, measurement: Measurement, file: Path) -> CaptureCheck | None:
    """Return what the capture says by the same rule; its times are the testbed's."""
    if not file.exists():
        return None
    packets = read_capture(file, initiator=scenario.initiator, peer=log_.peer)
    window = _window(raw, 0.0)
    judged = analyze(
        log_,
        initiator=scenario.initiator,
        arrivals=packets,
        window=window,
        end_seen=raw.end_seen,
        interval_s=measurement.spacing_s,
    )
    only_s = packets_only_s(
        packets, initiator=scenario.initiator, near=log_.first, spacing_s=measurement.spacing_s, window=window
    )
    return CaptureCheck(judged.stuntime_s, only_s)


def _window(raw: _Raw, ahead_s: float) -> Window:
    moved = raw.migration
    if moved is None:
        return Window()
    return Window(*(None if t is None else t + ahead_s for t in (moved.requested, moved.started, moved.ended)))


def _migration_record(raw: _Raw) -> MigrationRecord | None:
    moved, before = raw.migration, raw.clocks_before.get("static")
    if moved is None or before is None or raw.end_seen is None:
        return None
    window = _window(raw, before.ahead_s)
    return MigrationRecord(
        requested=moved.requested + before.ahead_s,
        started=window.started,
        ended=window.ended,
        end_seen=raw.end_seen + before.ahead_s,
        source=moved.source,
        target=moved.target,
        uid=moved.uid,
        mode=moved.mode,
        ordinal=moved.ordinal,
        phases={name: time + before.ahead_s for name, time in moved.phases.items()},
        configuration=dict(moved.configuration),
    )


def _clocks(testbed: Testbed, pair: Pair) -> dict[str, ClockSample]:
    vms = {"static": pair.static, "migrated": pair.migrated}
    return {role: sample_clock(testbed, testbed.shell(vm)) for role, vm in vms.items()}


def _captured(testbed: Testbed, pair: Pair, options: Options, evidence: Path) -> AbstractContextManager[None]:
    return testbed.capture(pair.static, evidence / CAPTURE) if options.capture else nullcontext()


@contextmanager
def _diagnosed(testbed: Testbed, pair: Pair, evidence: Path) -> Iterator[None]:
    """Keep what helps to understand a failure, while its VMs are still there."""
    try:
        yield
    except StuntimeError:
        with suppress(StuntimeError):
            testbed.diagnose(pair, evidence)
        raise
