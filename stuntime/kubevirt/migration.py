"""A live migration by a VirtualMachineInstanceMigration, watched to its end and believed by nobody's word alone.

The VMIM and the VMI may contradict each other: what counts is the VMI's migrationState with this migration's uid, and
the node it runs on (KubeVirt 1.7: the target pod deleted by force gives a VMIM that Failed and a VM that moved).
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from stuntime.errors import MigrationError, StuntimeError, TestbedError
from stuntime.kubevirt.api import Api, ApiError
from stuntime.kubevirt.kinds import POD, VMI, VMIM, Object, condition

_log = structlog.get_logger()

_SETTLING_S = 30.0
_BELATED_S = 8.0
_ABORTING_S = 15.0
_PENDING = ("", "Pending", "Scheduling")
_OVER = ("Succeeded", "Failed")
_MODES = {"PreCopy": "pre-copy", "PostCopy": "post-copy", "Paused": "paused"}
_INVALID, _CONFLICT = 422, 409
_JOB_LABEL = "kubevirt.io/migrationJobUID"


@dataclass(frozen=True)
class Moved:
    """A migration that came through. Times are epoch seconds in our clock; `started` and `ended` are cut to 1 s."""

    uid: str
    source: str
    target: str
    mode: str
    started: float | None
    ended: float | None
    phases: Mapping[str, float]
    configuration: Mapping[str, Any] = field(default_factory=dict)


def migrate(api: Api, manifest: Object, target: str, now: Callable[[], float], timeout_s: float) -> Moved:
    """Migrate as the manifest says; return when the VM runs on the target, node by name.

    Raise MigrationError when it failed, was aborted, took too long (it is aborted then) or went elsewhere.
    """
    vm, name = manifest["spec"]["vmiName"], manifest["metadata"]["name"]
    deadline = time.monotonic() + timeout_s
    requested = now()
    made = _asked_for(api, manifest, vm)
    uid = made["metadata"]["uid"]
    ahead_s = clock_ahead_s(seconds(made["metadata"].get("creationTimestamp")), requested, now())
    phases: dict[str, float] = {}
    try:
        phase = _followed(api, vm, name, uid, phases, now, deadline)
    except BaseException:
        _abort(api, name, uid, wait=False)
        raise
    if phase not in _OVER:
        slow = _too_slow(api, vm, uid, phase, timeout_s)
        _abort(api, name, uid, wait=True)
        raise slow
    if phase == "Failed":
        raise _failed(api, vm, uid, target)
    settled = _settled(api, vm, uid)
    state = settled["status"]["migrationState"]
    return Moved(
        uid=uid,
        source=state.get("sourceNode", ""),
        target=settled["status"].get("nodeName", ""),
        mode=_MODES.get(state.get("mode", ""), "pre-copy"),
        started=_in_ours(state.get("startTimestamp"), ahead_s),
        ended=_in_ours(state.get("endTimestamp"), ahead_s),
        phases=phases,
        configuration=state.get("migrationConfiguration") or {},
    )


def _asked_for(api: Api, manifest: Object, vm: str) -> Object:
    """Create the migration and return it; raise MigrationError when it is refused."""
    try:
        return api.create(VMIM, manifest)
    except ApiError as error:
        if error.status not in (_INVALID, _CONFLICT) and "denied the request" not in str(error):
            raise
        # Where only the answer was lost, what is in flight is ours: its name was never used before.
        for ours in api.find(VMIM, fields=f"metadata.name={manifest['metadata']['name']}"):
            return ours
        if _is_over(api.get(VMI, vm)):
            raise _crashed(vm, "before its migration") from error
        raise MigrationError(
            f"{vm} cannot be migrated: {error}", "see who else migrates it", reason="migration-refused"
        ) from error


def _followed(
    api: Api, vm: str, name: str, uid: str, phases: dict[str, float], now: Callable[[], float], deadline: float
) -> str:
    """Watch a migration to its end or the deadline, and note when each phase was first seen; return the last one."""
    phase = ""
    for state in api.states(VMIM, deadline, name=name):
        found = state.get(name)
        if found is None or found["metadata"]["uid"] != uid:
            raise MigrationError(
                f"the migration of {vm} was aborted by somebody else: its {VMIM.name} is gone",
                "see who deletes migrations here, and measure again",
                reason="migration-aborted",
            )
        phase = (found.get("status") or {}).get("phase") or ""
        if phase and phase not in phases:
            phases[phase] = now()
            _log.debug("migration.phase", vm=vm, phase=phase)
        if phase in _OVER:
            break
    return phase


def seconds(stamp: str | None) -> float | None:
    """Return the epoch seconds of a time stamp as the API has it (RFC 3339); None for none."""
    return None if not stamp else datetime.fromisoformat(stamp).timestamp()


def clock_ahead_s(created: float | None, before: float, after: float) -> float:
    """Return by how much the cluster's clock is ahead of ours.

    `created` is the cluster's stamp of what we asked for between `before` and `after`, cut to a second. 0 where it
    agrees with ours within that.
    """
    if created is None or before - 1.0 <= created <= after:
        return 0.0
    return created + 0.5 - (before + after) / 2


def _in_ours(stamp: str | None, ahead_s: float) -> float | None:
    found = seconds(stamp)
    return None if found is None else found - ahead_s


def _settled(api: Api, vm: str, uid: str) -> Object:
    """Return the VMI when it says, too, that this migration has ended and where the VM runs now."""

    def ended(found: Object | None) -> bool:
        if found is None:
            return True
        state = _state(found)
        over = state.get("migrationUid") == uid and bool(state.get("endTimestamp"))
        return over and (bool(state.get("failed")) or found["status"].get("nodeName") == state.get("targetNode"))

    found = api.wait(VMI, vm, ended, timeout_s=_SETTLING_S, what=f"the word of {vm} that its migration has ended")
    if found is None:
        raise TestbedError(f"{vm} is gone after its migration", "look at its events", reason="vm-crashed")
    return found


def _failed(api: Api, vm: str, uid: str, target: str) -> MigrationError:
    """Return what has become of a migration whose VMIM says that it failed."""
    with suppress(TestbedError):  # it stays where it was, as it should
        moved = api.wait(
            VMI,
            vm,
            lambda found: _is_over(found) or _runs_on(found, target),
            timeout_s=_BELATED_S,
            what=f"{vm} on {target} after all",
        )
        if _is_over(moved):
            return _crashed(vm, "while it was migrated")
        return MigrationError(
            f"the migration of {vm} is said to have failed, and yet the VM moved to {target}",
            "see who deleted pods here; the number is kept as evidence",
            reason="migration-contradictory",
        )
    state = _state(api.get(VMI, vm))
    state = state if state.get("migrationUid") == uid else {}
    why = state.get("failureReason") or "it gives no reason"
    if state.get("abortRequested") or state.get("abortStatus"):
        return MigrationError(
            f"the migration of {vm} was aborted: {why}", "see who aborts migrations here", reason="migration-aborted"
        )
    return MigrationError(f"the migration of {vm} failed: {why}", "look at the events and pods in the evidence")


def _too_slow(api: Api, vm: str, uid: str, phase: str, timeout_s: float) -> MigrationError:
    if phase in _PENDING and (why := _unschedulable(api, uid)):
        return MigrationError(
            f"the target of {vm} cannot be scheduled: {why}",
            "see what the target node lacks, and whether it is ready",
            reason="migration-unschedulable",
        )
    return MigrationError(
        f"the migration of {vm} did not end within {timeout_s:g} s (it was {phase or 'not begun'}); it was aborted",
        "allow it more time, or quiet the guest",
        reason="migration-timeout",
    )


def _unschedulable(api: Api, uid: str) -> str:
    for pod in api.find(POD, labels=f"{_JOB_LABEL}={uid}"):
        scheduled = condition(pod, "PodScheduled")
        if scheduled.get("status") == "False":
            return str(scheduled.get("message") or scheduled.get("reason"))
    return ""


def _abort(api: Api, name: str, uid: str, *, wait: bool) -> None:
    """Abort a migration that did not end; best effort, since there is something else to tell."""
    client = api.lasting(patience_s=2.0)
    try:
        client.delete(VMIM, name, uid=uid, grace_s=None)
        if wait:
            client.wait(VMIM, name, lambda found: found is None, timeout_s=_ABORTING_S, what="the abort")
    except StuntimeError as error:
        _log.warning("migration.not-aborted", migration=name, why=str(error))


def _crashed(vm: str, when: str) -> MigrationError:
    return MigrationError(f"{vm} ended {when}", "look at its events and console", reason="vm-crashed")


def _is_over(found: Object | None) -> bool:
    """Tell whether a VM does not run any more."""
    return found is None or (found.get("status") or {}).get("phase") in _OVER


def _runs_on(found: Object | None, node: str) -> bool:
    return found is not None and found["status"].get("nodeName") == node and bool(_state(found).get("completed"))


def _state(found: Object | None) -> Object:
    return ((found or {}).get("status") or {}).get("migrationState") or {}
