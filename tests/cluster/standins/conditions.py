"""Conditions of NMState's kinds, as kubernetes-nmstate sets them. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

Condition = Mapping[str, Any]

_SUCCESS, _FAILED, _PROGRESSING = "SuccessfullyConfigured", "FailedToConfigure", "ConfigurationProgressing"
_ENACTMENT = ("Available", "Failing", "Progressing", "Pending", "Aborted")
_POLICY = ("Available", "Degraded", "Progressing", "Ignored")


def enactment(phase: str, message: str, time: str, before: Sequence[Condition] = ()) -> list[Condition]:
    """Return an enactment's conditions in a phase: Available, Failing or Progressing."""
    reason = {"Available": _SUCCESS, "Failing": _FAILED, "Progressing": _PROGRESSING}[phase]
    unknown = ("Available", "Failing") if phase == "Progressing" else ()
    return _conditions(_ENACTMENT, phase, unknown, reason, message, time, before)


def policy(
    generation: int, nodes: int, enactments: Sequence[Mapping[str, Any]], time: str, before: Sequence[Condition] = ()
) -> list[Condition]:
    """Return a policy's conditions: what its enactments of this generation come to on the nodes it selects."""
    states = [holding(each.get("status", {}), generation) for each in enactments]
    available, failing = states.count("Available"), states.count("Failing")
    if nodes == 0:
        told = ("Ignored", (), "NoMatchingNode", "Policy does not match any node")
    elif failing:
        told = ("Degraded", (), _FAILED, f"{failing}/{nodes} nodes failed to configure")
    elif available < nodes:
        message = f"Policy is progressing {available}/{nodes} nodes finished"
        told = ("Progressing", ("Available", "Degraded"), _PROGRESSING, message)
    else:
        told = ("Available", (), _SUCCESS, f"{available}/{nodes} nodes successfully configured")
    return _conditions(_POLICY, *told, time, before)


def holding(status: Mapping[str, Any], generation: int) -> str | None:
    """Return the condition that holds for a generation of the policy, if the enactment is about that one."""
    if status.get("policyGeneration") != generation:
        return None
    return next((each["type"] for each in status.get("conditions", []) if each["status"] == "True"), None)


def _conditions(
    types: Sequence[str],
    holds: str,
    unknown: Sequence[str],
    reason: str,
    message: str,
    time: str,
    before: Sequence[Condition],
) -> list[Condition]:
    old = {each["type"]: each for each in before}
    made = []
    for kind in types:
        status = "True" if kind == holds else "Unknown" if kind in unknown else "False"
        same = old.get(kind, {}).get("status") == status
        condition = {
            "type": kind,
            "status": status,
            "reason": reason,
            "lastHeartbeatTime": time,
            "lastTransitionTime": old[kind]["lastTransitionTime"] if same else time,
        }
        made.append({**condition, "message": message} if kind == holds else condition)
    return made
