"""Under which conditions a result was measured, and whether two may be pooled or compared. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from stuntime.errors import InvalidError
from stuntime.result import Result
from stuntime.scenario import Scenario


class NetworkConditions(Struct, frozen=True, forbid_unknown_fields=True):
    """What belongs to one network: its configuration and the NIC it runs over."""

    configuration: dict[str, Any]
    nic: str | None


class Conditions(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What has to be equal before two results go into one baseline; `networks` by name."""

    testbed: str
    cluster_id: str
    product_versions: dict[str, str]
    guest_image: str
    accelerator: str | None
    interval_s: float
    recovery_probes: int | None
    networks: dict[str, NetworkConditions]


def conditions_of(result: Result) -> Conditions | None:
    """Return the conditions of a result; None when it does not know its environment."""
    found = result.environment
    if found is None:
        return None
    return Conditions(
        testbed=found.testbed,
        cluster_id=found.cluster_id,
        product_versions=found.product_versions,
        guest_image=found.guest_image,
        accelerator=found.accelerator,
        interval_s=result.interval_s,
        recovery_probes=result.recovery_probes,
        networks={Scenario.parse(result.scenario).network: NetworkConditions(found.network, found.nic)},
    )


def differences(one: Conditions, other: Conditions) -> list[str]:
    """Return, for a person, each field in which two conditions differ; a network that only one has is no difference."""
    told = []
    ones, others = (dict(_flat(msgspec.to_builtins(conditions))) for conditions in (one, other))
    common = set(one.networks) & set(other.networks)
    for field in dict.fromkeys([*ones, *others]):
        parts = field.split(".")
        if parts[0] == "networks" and parts[1] not in common:
            continue
        if ones.get(field) != others.get(field):
            told.append(f"{field} is {_shown(ones.get(field))} and {_shown(others.get(field))}")
    return told


def pooled(results: Iterable[tuple[str, Result]]) -> Conditions:
    """Return the conditions that all results share, given with the names of their files.

    Raise InvalidError, naming the fields and two files, where they differ or where one does not know its environment.
    """
    seen: dict[bytes, tuple[str, Conditions]] = {}
    known: Conditions | None = None
    for name, result in results:
        conditions = conditions_of(result)
        if conditions is None:
            raise InvalidError(
                f"{name} does not say where it was measured",
                "leave it out: what is pooled must be known to be alike",
                reason="environment-unknown",
            )
        key = msgspec.json.encode(conditions, order="deterministic")
        if key in seen:
            continue
        for earlier, of_earlier in seen.values():
            if told := differences(of_earlier, conditions):
                raise InvalidError(
                    f"{earlier} and {name} were not measured under the same conditions: {'; '.join(told)}",
                    "pool only what is alike: name the results of one lab and one release",
                    reason="environment-differs",
                )
        seen[key] = (name, conditions)
        known = conditions if known is None else _joined(known, conditions)
    if known is None:
        raise InvalidError("there is no result to pool", "measure first", reason="nothing-to-pool")
    return known


def _joined(one: Conditions, other: Conditions) -> Conditions:
    networks = {**one.networks, **other.networks}
    return msgspec.structs.replace(one, networks=dict(sorted(networks.items())))


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return "unknown" if value is None else str(value)
