"""A live migration from one QEMU process to another, by QMP."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stuntime.errors import MigrationError, TestbedError
from stuntime.sandbox.qemu import Instance

#: What libvirt sets where no bandwidth is asked for (QEMU_DOMAIN_MIG_BANDWIDTH_MAX, in bytes per second).
UNLIMITED = ((1 << 63) - 1) >> 20 << 20
_AFTERMATH_S = 10.0
_OVER = ("completed", "failed", "cancelled")
_WAY_OUT = "look at QEMU's logs in the evidence"


@dataclass(frozen=True)
class Settings:
    """How a migration runs. The defaults are KubeVirt's: bandwidth without a limit, QEMU's own downtime limit."""

    max_bandwidth: int = UNLIMITED
    downtime_limit_ms: int = 300

    def parameters(self) -> dict[str, int]:
        """Return them as QEMU's parameters."""
        return {"max-bandwidth": self.max_bandwidth, "downtime-limit": self.downtime_limit_ms}


@dataclass(frozen=True)
class Moved:
    """A migration that came through. `phases` are epoch seconds in the testbed's clock."""

    phases: Mapping[str, float]
    configuration: Mapping[str, Any]


def move(
    source: Instance, target: Instance, settings: Settings, clock: Callable[[float], float], timeout_s: float
) -> Moved:
    """Migrate; return when the target runs.

    `clock` turns epoch seconds of the machine into the testbed's. Raise MigrationError when it failed or did not end
    in time: it is cancelled then, and the guest runs at the source.
    """
    try:
        return _move(source, target, settings, clock, time.monotonic() + timeout_s)
    except TestbedError as error:
        _keep_at(source)
        if isinstance(error, MigrationError):
            raise
        raise MigrationError(str(error), error.way_out) from error


def _move(
    source: Instance, target: Instance, settings: Settings, clock: Callable[[float], float], deadline: float
) -> Moved:
    capabilities = [{"capability": name, "state": True} for name in ("events", "return-path")]
    for instance in (source, target):
        instance.command("migrate-set-capabilities", capabilities=capabilities)
    source.command("migrate-set-parameters", **settings.parameters())
    source.forget_events()  # what it told while it was a target itself
    source.command("migrate", uri=f"unix:{target.incoming}")
    phases: dict[str, float] = {}
    status = ""
    while status not in _OVER:
        event = source.event(("MIGRATION", "STOP"), deadline)
        if event is None:
            raise _did_not_end(source, target)
        status = event.get("data", {}).get("status", "paused")
        phases[status] = clock(_seconds(event))
    report = source.command("query-migrate")
    if status != "completed":
        reason = report.get("error-desc", "QEMU gives no reason")
        raise MigrationError(f"the migration of {source.machine.name} {status}: {reason}", _WAY_OUT)
    resumed = target.event(("RESUME",), deadline)
    if resumed is None:
        raise MigrationError(
            f"the target of {source.machine.name} has the guest and does not run it: {target.process.last_words()}",
            _WAY_OUT,
        )
    phases["running"] = clock(_seconds(resumed))
    return Moved(phases, {**settings.parameters(), **_statistics(report)})


def _did_not_end(source: Instance, target: Instance) -> MigrationError:
    for instance, role in ((source, "source"), (target, "target")):
        if not instance.process.running():
            return MigrationError(
                f"QEMU at the {role} of {instance.machine.name} ended during the migration: "
                f"{instance.process.last_words() or 'it says nothing'}",
                _WAY_OUT,
            )
    ram = source.command("query-migrate").get("ram", {})
    return MigrationError(
        f"the migration of {source.machine.name} did not end in time ({ram.get('remaining', 0) >> 20} of "
        f"{ram.get('total', 0) >> 20} MiB were still to go); it was cancelled",
        "allow it more time, or quiet the guest",
        reason="migration-timeout",
    )


def _keep_at(source: Instance) -> None:
    """See to it that the guest runs at the source, as far as there is one."""
    if not source.process.running():
        return
    status = source.command("query-migrate").get("status")
    if status not in (None, "none", *_OVER):
        source.command("migrate_cancel")
        deadline = time.monotonic() + _AFTERMATH_S
        while (event := source.event(("MIGRATION",), deadline)) and event["data"]["status"] not in _OVER:
            pass
    if not source.command("query-status")["running"]:
        source.command("cont")


def _statistics(report: Mapping[str, Any]) -> dict[str, Any]:
    ram = report.get("ram", {})
    return {
        **{key: report[key] for key in ("total-time", "downtime", "setup-time") if key in report},
        **{f"ram-{key}": ram[key] for key in ("total", "transferred", "dirty-sync-count") if key in ram},
    }


def _seconds(event: Mapping[str, Any]) -> float:
    stamp = event["timestamp"]
    return float(stamp["seconds"] + stamp["microseconds"] / 1e6)
