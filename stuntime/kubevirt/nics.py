"""The NICs of nodes, as NodeNetworkStates tell of them: which one is spare, and what one is used for."""

from collections.abc import Mapping, Sequence
from typing import Any

from stuntime.kubevirt.kinds import Object


def spare(states: Sequence[Object]) -> str | None:
    """Return the NIC to use: the last by name that is up, unused and named alike in all NodeNetworkStates."""
    common = set.intersection(*map(_spare, states)) if states else set()
    return max(common, default=None)


def interfaces(state: Object) -> dict[str, Object]:
    """Return a node's interfaces by their names."""
    return {one["name"]: one for one in state["status"]["currentState"].get("interfaces") or []}


def use_of(nic: str, state: Object, but: str | None = None) -> str:
    """Return what a node uses a NIC for, which must not be taken from it; empty where it is for nothing.

    Being a port of `but` is nothing.
    """
    found = interfaces(state)
    if address := _address(found.get(nic, {})):
        return f"has the address {address}"
    holder = found.get(nic, {}).get("controller") or _bridges(found).get(nic)
    return f"is a port of {holder}" if holder and holder != but else ""


def _spare(state: Object) -> set[str]:
    found = interfaces(state)
    bases = {(one.get("vlan") or {}).get("base-iface") for one in found.values()}
    return {
        name
        for name, one in found.items()
        if one.get("type") == "ethernet" and one.get("state") == "up" and name not in bases and not use_of(name, state)
    }


def _bridges(found: Mapping[str, Object]) -> dict[str, str]:
    """Return the bridge of each port."""
    return {
        port["name"]: bridge for bridge, one in found.items() for port in (one.get("bridge") or {}).get("port") or ()
    }


def _address(interface: Mapping[str, Any]) -> str:
    """Return an address of an interface's own; a link-local one comes by itself."""
    found = (
        address["ip"]
        for family in ("ipv4", "ipv6")
        for address in (interface.get(family) or {}).get("address") or ()
        if not address["ip"].lower().startswith("fe80:")
    )
    return next(found, "")
