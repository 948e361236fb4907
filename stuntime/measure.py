"""The rule of the measurement, written once, against the protocols of `testbed`.

The order is the rule: place, check, quiet window, observer and ping, warm-up, migration, lasting recovery, collect,
analyse. A result comes whatever happened, and what was put into the guests is taken away.
"""

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from uuid import uuid4

import msgspec
import structlog

from stuntime import __version__
from stuntime.errors import InvalidError, MigrationError, StuntimeError, TestbedError, UnfitError, UsageError
from stuntime.gaps import default_recovery_probes
from stuntime.prober import Prober, sample_clock
from stuntime.raw import CAPTURE, OBSERVER_LOG, PING_LOG, Raw, migration_record, read
from stuntime.result import ClockSample, ClockSamples, Environment, ErrorRecord, Result
from stuntime.scenario import Scenario
from stuntime.store import write_evidence
from stuntime.testbed import Pair, Route, Testbed

log = structlog.get_logger()

WARM_UP_PROBES = 20
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

    def __post_init__(self) -> None:
        """Raise UsageError when no recovery could ever be seen in time."""
        least_s = self.awaited_probes * self.interval_s
        if least_s >= self.recovery_timeout_s:
            raise UsageError(
                f"a recovery takes {least_s:g} s ({self.awaited_probes} probes), longer than it is waited for"
                f" ({self.recovery_timeout_s:g} s)",
                "give a longer --recovery-timeout, fewer --recovery-probes or a shorter --interval",
            )

    @property
    def awaited_probes(self) -> int:
        """How many probes a lasting recovery is waited for; one more allows for the error of the clocks."""
        return (self.recovery_probes or default_recovery_probes(self.interval_s)) + 1


class _NeverRecovered(StuntimeError):  # noqa: N818 - a verdict, not an error
    """Inside `measure` only: a verdict of its own, but VMs that nobody should use again."""


def measure(
    testbed: Testbed, scenario: Scenario, options: Options, *, run: str, repetition: int, evidence: Path
) -> Result:
    """Measure a scenario once and return the result, also when it failed; evidence is written into the folder.

    Only what is no StuntimeError (an interrupt, a defect) gets through.
    """
    started, begun = datetime.now(UTC), testbed.now()
    raw = Raw()
    try:
        with testbed.pair(scenario, evidence) as pair:
            _take(testbed, scenario, pair, options, raw, evidence)
    except _NeverRecovered:
        pass
    except StuntimeError as error:
        raw.error = error
    measurement, capture = read(raw, scenario.initiator, options.recovery_probes, evidence)
    return msgspec.structs.replace(
        _blank(scenario, options, run, repetition),
        started=started.isoformat(timespec="seconds"),
        duration_s=testbed.now() - begun,
        measurement=measurement,
        migration=migration_record(raw),
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


def _take(testbed: Testbed, scenario: Scenario, pair: Pair, options: Options, raw: Raw, evidence: Path) -> None:
    """Go through the measurement, and keep in `raw` and in the evidence what it yields."""
    route = testbed.route(scenario)
    _place(testbed, pair, route)
    prober = _prober(testbed, scenario, pair, options)
    try:
        prober.start_observer()
        raw.environment = _environment(testbed, scenario, pair, prober.check())
        raw.observed = prober.observes()
        if scenario.initiator == "migrated" and not raw.observed:
            raise UnfitError(
                "the observer does not run in the static VM, and only it can time a migrated initiator",
                "install python3 in the static VM, and come there as a user who may open a raw socket",
                reason="observer-missing",
            )
        with testbed.quiet_window(scenario.id), _captured(testbed, pair, options, evidence):
            raw.clocks_before = _clocks(testbed, pair)
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
        raw.clocks_after = _clocks_after(testbed, pair, recovered=recovered)
    except StuntimeError as error:
        with suppress(StuntimeError):  # the first failure is the one to tell
            _collect(prober, raw, evidence)
        raise raw.error or error from None
    _collect(prober, raw, evidence)
    if raw.error is not None:
        raise raw.error
    if not recovered:
        raise _NeverRecovered("the VMs cannot talk any more", "")


def _place(testbed: Testbed, pair: Pair, route: Route) -> None:
    """Bring the migrated VM to its start, by an unmeasured migration if need be; verify both places by name."""
    if testbed.node_of(pair.migrated) != route.source:
        log.info("vm.placing", vm=pair.migrated.name, node=route.source)
        with testbed.provisioning(pair.migrated.name):
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
        peer_mac=peer.mac,
        observed=pair.migrated.addresses[scenario.ip_family],
        interval_s=options.interval_s,
        folder=f"/tmp/stuntime-{uuid4().hex[:8]}",  # noqa: S108 - in a guest of ours
    )


def _environment(testbed: Testbed, scenario: Scenario, pair: Pair, initiator: dict[str, str]) -> Environment:
    facts = dict(testbed.environment(pair))
    return msgspec.convert({**facts, "guests": {scenario.initiator: initiator}}, Environment)


def _migrate(testbed: Testbed, pair: Pair, route: Route, options: Options, raw: Raw) -> None:
    """Migrate; a migration that fails is kept as the measurement's error: the logs still tell what it did."""
    if not options.migrate:
        sleep(_CONTROL_S)
        return
    try:
        moved = testbed.migrate(pair.migrated, route.target, timeout_s=options.migration_timeout_s)
    except MigrationError as error:
        raw.error = error
        return
    raw.migration = moved
    found = testbed.node_of(pair.migrated)
    if (moved.source, moved.target, found) != (route.source, route.target, route.target):
        raw.error = MigrationError(
            f"{pair.migrated.name} went from {moved.source} to {moved.target} and is on {found},"
            f" not from {route.source} to {route.target}",
            "see who else migrates VMs here, and measure again",
            reason="migration-elsewhere",
        )


def _warm_up(prober: Prober) -> None:
    timeout_s = _WARM_UP_S + 2 * WARM_UP_PROBES * prober.interval_s
    if not prober.wait_for_answers(WARM_UP_PROBES, after=None, timeout_s=timeout_s):
        raise InvalidError(
            f"ping had no {WARM_UP_PROBES} good replies in a row in {timeout_s:g} s of warm-up",
            "mend the network: no migration has been asked for yet",
            reason="warm-up-failed",
        )


def _recovered(prober: Prober, options: Options) -> bool:
    """Wait for the lasting recovery after the migration's end was seen."""
    return prober.wait_for_answers(
        options.awaited_probes, after=prober.last_seq(), timeout_s=options.recovery_timeout_s
    )


def _collect(prober: Prober, raw: Raw, evidence: Path) -> None:
    """Bring the logs out of the guests and into the evidence."""
    prober.stop()
    raw.ping_log = prober.ping_log()
    write_evidence(evidence / PING_LOG, raw.ping_log)
    if raw.observed:
        raw.observer_log = prober.observer_log()
        write_evidence(evidence / OBSERVER_LOG, raw.observer_log)
    prober.clear()


def _clocks(testbed: Testbed, pair: Pair) -> dict[str, ClockSample]:
    vms = {"static": pair.static, "migrated": pair.migrated}
    return {role: sample_clock(testbed, testbed.shell(vm)) for role, vm in vms.items()}


def _clocks_after(testbed: Testbed, pair: Pair, *, recovered: bool) -> dict[str, ClockSample]:
    """Sample both clocks; a VM that was lost, which is the verdict, may be out of reach."""
    if recovered:
        return _clocks(testbed, pair)
    with suppress(StuntimeError):
        return _clocks(testbed, pair)
    return {"static": sample_clock(testbed, testbed.shell(pair.static))}


def _captured(testbed: Testbed, pair: Pair, options: Options, evidence: Path) -> AbstractContextManager[None]:
    return testbed.capture(pair.static, evidence / CAPTURE) if options.capture else nullcontext()
