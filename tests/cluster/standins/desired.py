"""What a policy of NMState asks for, as commands with their undoing. Pure: it gets the node's state and does nothing.

What it does not know it refuses, with the field's path: a stand-in that ignored a field would pretend.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HIDDEN = ("veth", "patch-", "tap", "ovs-netdev")
"""Interfaces of these names are pods' and OVN's: not reported (kubernetes-nmstate filters veth*), and left in place."""

_BRIDGES = ("linux-bridge", "ovs-bridge")
_TYPES = ("ethernet", *_BRIDGES)
_MAPPINGS = "external-ids:ovn-bridge-mappings"


class RefusedError(Exception):
    """The policy cannot be done, and nothing of it was."""


@dataclass(frozen=True)
class Step:
    """A command, and the one that undoes it."""

    do: Sequence[str]
    undo: Sequence[str] = ()


@dataclass
class _Bridge:
    kind: str
    stp: bool
    ports: list[str] = field(default_factory=list)


def plan(spec: Mapping[str, Any], current: Mapping[str, Any], datapath: str) -> list[Step]:
    """Return the steps from a node's state (as NodeNetworkState has it) to what a policy's spec asks for, or refuse."""
    _only(spec, {"desiredState", "nodeSelector", "maxUnavailable"}, "spec")
    desired = spec.get("desiredState", {})
    _only(desired, {"interfaces", "ovn"}, "desiredState")
    planner = _Planner(current, datapath)
    numbered = list(enumerate(desired.get("interfaces", [])))
    # What goes makes room for what comes, in the same policy too.
    for number, wanted in sorted(numbered, key=lambda each: each[1].get("state") != "absent"):
        planner.interface(wanted, f"interfaces[{number}]")
    planner.ovn(desired.get("ovn", {}))
    return planner.steps


class _Planner:
    def __init__(self, current: Mapping[str, Any], datapath: str) -> None:
        self.steps: list[Step] = []
        self._datapath = datapath
        interfaces = current.get("interfaces", [])
        self._bridges = {
            each["name"]: _Bridge(each["type"], _stp(each["bridge"]), _port_names(each["bridge"]))
            for each in interfaces
            if each["type"] in _BRIDGES
        }
        self._links = {each["name"]: each for each in interfaces if each["type"] != "ovs-bridge"}
        self._mappings = {each["localnet"]: each["bridge"] for each in _mappings(current.get("ovn", {}))}

    def interface(self, wanted: Mapping[str, Any], where: str) -> None:
        _only(wanted, {"name", "description", "type", "state", "mtu", "ipv4", "ipv6", "bridge"}, where)
        name, kind, state = wanted.get("name", ""), wanted.get("type", ""), wanted.get("state", "up")
        if not name:
            raise RefusedError(f"{where}.name: missing")
        if state not in ("up", "absent"):
            raise RefusedError(f"{where}.state: {state} is not among what this stand-in can do (up, absent)")
        if state == "absent":
            self._absent(name, kind, where)
            return
        for family in ("ipv4", "ipv6"):
            _only(wanted.get(family, {}), {"enabled", "dhcp", "autoconf"}, f"{where}.{family}")
            if any(wanted.get(family, {}).values()):
                raise RefusedError(f"{where}.{family}: this stand-in gives no addresses")
        if kind in _BRIDGES:
            self._bridge(name, kind, wanted, where)
        elif kind == "ethernet":
            _only(wanted, {"name", "description", "type", "state", "mtu", "ipv4", "ipv6"}, where)
            self._up(self._link(name, where))
        else:
            raise RefusedError(f"{where}.type: {kind} is not among what this stand-in can do ({', '.join(_TYPES)})")
        self._mtu(name, wanted.get("mtu"))

    def ovn(self, wanted: Mapping[str, Any]) -> None:
        _only(wanted, {"bridge-mappings"}, "ovn")
        mappings = dict(self._mappings)
        for number, each in enumerate(_mappings(wanted)):
            where = f"ovn.bridge-mappings[{number}]"
            _only(each, {"localnet", "bridge", "state"}, where)
            if each.get("state", "present") == "absent":
                mappings.pop(each["localnet"], None)
            elif "bridge" in each:
                mappings[each["localnet"]] = each["bridge"]
            else:
                raise RefusedError(f"{where}.bridge: missing")
        if mappings != self._mappings:
            self._do(_set_mappings(mappings), _set_mappings(self._mappings))

    def _absent(self, name: str, kind: str, where: str) -> None:
        bridge = self._bridges.get(name)
        if bridge is None:
            if name in self._links:
                raise RefusedError(f"{where}: {name} is no bridge, and this stand-in removes only bridges")
            return
        if kind not in ("", bridge.kind):
            raise RefusedError(f"{where}.type: {name} is of type {bridge.kind}")
        for port in bridge.ports:
            self._detach(name, bridge, port)
        if bridge.kind == "linux-bridge":
            self._do(["ip", "link", "del", name], _new_linux_bridge(name, stp=bridge.stp))
        else:
            self._do(["ovs-vsctl", "del-br", name], self._new_ovs_bridge(name, stp=bridge.stp))
        del self._bridges[name]
        self._links.pop(name, None)

    def _bridge(self, name: str, kind: str, wanted: Mapping[str, Any], where: str) -> None:
        asked = wanted.get("bridge", {})
        _only(asked, {"options", "port", "allow-extra-patch-ports"}, f"{where}.bridge")
        _only(asked.get("options", {}), {"stp"}, f"{where}.bridge.options")
        if isinstance(asked.get("options", {}).get("stp"), Mapping):
            _only(asked["options"]["stp"], {"enabled"}, f"{where}.bridge.options.stp")
        bridge = self._bridges.get(name)
        if bridge is None and name in self._links:
            raise RefusedError(f"{where}: there is an interface {name} of another type")
        if bridge is not None and bridge.kind != kind:
            raise RefusedError(f"{where}.type: {name} is of type {bridge.kind}")
        if bridge is None:
            # A Linux bridge speaks STP unless told otherwise, as NetworkManager makes it.
            bridge = _Bridge(kind, _stp(asked, default=kind == "linux-bridge"))
            if kind == "linux-bridge":
                self._do(_new_linux_bridge(name, stp=bridge.stp), ["ip", "link", "del", name])
            else:
                self._do(self._new_ovs_bridge(name, stp=bridge.stp), ["ovs-vsctl", "del-br", name])
            self._bridges[name] = bridge
        elif bridge.stp != _stp(asked, default=bridge.stp):
            self._do(_set_stp(name, bridge.kind, stp=not bridge.stp), _set_stp(name, bridge.kind, stp=bridge.stp))
        if "port" in asked:
            self._ports(name, bridge, asked["port"], f"{where}.bridge.port")

    def _ports(self, name: str, bridge: _Bridge, wanted: Sequence[Mapping[str, Any]], where: str) -> None:
        for number, port in enumerate(wanted):
            _only(port, {"name"}, f"{where}[{number}]")
        names = [port["name"] for port in wanted]
        for port in [port for port in bridge.ports if port not in names]:
            self._detach(name, bridge, port)
        for number, port in enumerate(names):
            if port in bridge.ports:
                continue
            link = self._link(port, f"{where}[{number}].name")
            holder = next((other for other, each in self._bridges.items() if port in each.ports), None)
            if holder:
                raise RefusedError(f"{where}[{number}].name: {port} is a port of {holder}")
            if link.get("ipv4", {}).get("enabled"):
                raise RefusedError(f"{where}[{number}].name: {port} has the node's own address")
            self._up(link)
            self._do(_attach(name, bridge.kind, port), _detach(name, bridge.kind, port))
            bridge.ports.append(port)

    def _detach(self, name: str, bridge: _Bridge, port: str) -> None:
        self._do(_detach(name, bridge.kind, port), _attach(name, bridge.kind, port))
        bridge.ports = [each for each in bridge.ports if each != port]

    def _link(self, name: str, where: str) -> Mapping[str, Any]:
        if name not in self._links:
            raise RefusedError(f"{where}: there is no interface {name} on this node")
        return self._links[name]

    def _up(self, link: Mapping[str, Any]) -> None:
        undo = ["ip", "link", "set", link["name"], "down"]
        self._do(["ip", "link", "set", link["name"], "up"], undo if link["state"] == "down" else ())

    def _mtu(self, name: str, mtu: int | None) -> None:
        before = self._links.get(name, {}).get("mtu")
        if mtu is not None and mtu != before:
            undo = ["ip", "link", "set", name, "mtu", str(before)] if before else []
            self._do(["ip", "link", "set", name, "mtu", str(mtu)], undo)

    def _new_ovs_bridge(self, name: str, *, stp: bool) -> list[str]:
        create = ["ovs-vsctl", "add-br", name, "--", "set", "Bridge", name, f"datapath_type={self._datapath}"]
        return [*create, f"stp_enable={str(stp).lower()}"]

    def _do(self, do: Sequence[str], undo: Sequence[str] = ()) -> None:
        self.steps.append(Step(do, undo))


def _new_linux_bridge(name: str, *, stp: bool) -> list[str]:
    return ["ip", "link", "add", "name", name, "up", "type", "bridge", "stp_state", str(int(stp))]


def _set_stp(name: str, kind: str, *, stp: bool) -> list[str]:
    if kind == "linux-bridge":
        return ["ip", "link", "set", name, "type", "bridge", "stp_state", str(int(stp))]
    return ["ovs-vsctl", "set", "Bridge", name, f"stp_enable={str(stp).lower()}"]


def _attach(bridge: str, kind: str, port: str) -> list[str]:
    if kind == "linux-bridge":
        return ["ip", "link", "set", port, "master", bridge]
    return ["ovs-vsctl", "add-port", bridge, port]


def _detach(bridge: str, kind: str, port: str) -> list[str]:
    if kind == "linux-bridge":
        return ["ip", "link", "set", port, "nomaster"]
    return ["ovs-vsctl", "del-port", bridge, port]


def _set_mappings(mappings: Mapping[str, str]) -> list[str]:
    if not mappings:
        return ["ovs-vsctl", "remove", "Open_vSwitch", ".", "external-ids", "ovn-bridge-mappings"]
    text = ",".join(f"{localnet}:{bridge}" for localnet, bridge in sorted(mappings.items()))
    return ["ovs-vsctl", "set", "Open_vSwitch", ".", f"{_MAPPINGS}={text}"]


def _mappings(ovn: Mapping[str, Any]) -> list[Mapping[str, str]]:
    return ovn.get("bridge-mappings", [])


def _port_names(bridge: Mapping[str, Any]) -> list[str]:
    return [port["name"] for port in bridge.get("port", [])]


def _stp(bridge: Mapping[str, Any], *, default: bool = False) -> bool:
    """Return it from `stp: {enabled: BOOL}` (Linux, and new OVS syntax) or `stp: BOOL` (OVS)."""
    stp = bridge.get("options", {}).get("stp", default)
    return bool(stp.get("enabled", default) if isinstance(stp, Mapping) else stp)


def _only(given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise RefusedError(f"{where}.{unknown[0]}: this stand-in does not know it")
