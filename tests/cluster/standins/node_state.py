"""The state of a node's network as NodeNetworkState has it, from what `ip` and `ovs-vsctl` say."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.cluster.standins.desired import HIDDEN

Run = Callable[[Sequence[str]], str]

_KINDS = {"bridge": "linux-bridge", "tun": "ovs-interface", "veth": "ethernet"}
"""What `ip` calls a link, and NMState. A NIC is one end of a veth pair here, and is reported as what it stands for."""


def current_state(run: Run) -> dict[str, Any]:
    """Ask, and return the state."""
    return state(json.loads(run(["ip", "-json", "-details", "address"])), _switches(run), bridge_mappings(run))


def bridge_mappings(run: Run) -> str:
    """Return the bridge mappings as OVN has them, `localnet:bridge,...`."""
    asked = ["ovs-vsctl", "--if-exists", "get", "Open_vSwitch", ".", "external-ids:ovn-bridge-mappings"]
    return run(asked).strip().strip('"')


def state(links: Sequence[Mapping[str, Any]], switches: Mapping[str, Any], mappings: str) -> dict[str, Any]:
    """Return the state from the links, the ports and STP of the switches, and the mappings."""
    interfaces = [_interface(link, links) for link in links if link and not link["ifname"].startswith(HIDDEN)]
    for name, (ports, stp) in switches.items():
        shown = [{"name": port} for port in ports if not port.startswith(HIDDEN)]
        bridge = {"options": {"stp": {"enabled": stp}}, "port": shown}
        interfaces.append({"name": name, "type": "ovs-bridge", "state": "up", "bridge": bridge})
    for each in interfaces:
        holder = next((name for name, (ports, _) in switches.items() if each["name"] in ports), None)
        if holder and each["type"] != "ovs-bridge":
            each["controller"] = holder
    pairs = [pair.rpartition(":") for pair in mappings.split(",") if pair]
    return {
        "interfaces": sorted(interfaces, key=lambda each: (each["name"], each["type"])),
        "ovn": {"bridge-mappings": [{"localnet": localnet, "bridge": bridge} for localnet, _, bridge in pairs]},
    }


def _interface(link: Mapping[str, Any], links: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    info = link.get("linkinfo", {})
    kind = "loopback" if link.get("link_type") == "loopback" else _KINDS.get(info.get("info_kind", ""), "ethernet")
    interface: dict[str, Any] = {
        "name": link["ifname"],
        "type": kind,
        "state": "up" if link["operstate"] in ("UP", "UNKNOWN") else "down",
        "mtu": link["mtu"],
        "ipv4": _addresses(link, "inet"),
        "ipv6": _addresses(link, "inet6"),
    }
    if "address" in link:
        interface["mac-address"] = link["address"].upper()
    if link.get("master") and link["master"] != "ovs-system":
        interface["controller"] = link["master"]
    if kind == "linux-bridge":
        ports = [each["ifname"] for each in links if each and each.get("master") == link["ifname"]]
        interface["bridge"] = {
            "options": {"stp": {"enabled": bool(info.get("info_data", {}).get("stp_state"))}},
            "port": [{"name": port} for port in ports if not port.startswith(HIDDEN)],
        }
    return interface


def _addresses(link: Mapping[str, Any], family: str) -> dict[str, Any]:
    found = [
        {"ip": each["local"], "prefix-length": each["prefixlen"]}
        for each in link.get("addr_info", [])
        if each["family"] == family
    ]
    return {"enabled": True, "address": found} if found else {"enabled": False}


def _switches(run: Run) -> dict[str, tuple[list[str], bool]]:
    return {
        name: (
            run(["ovs-vsctl", "list-ports", name]).split(),
            run(["ovs-vsctl", "get", "Bridge", name, "stp_enable"]).strip() == "true",
        )
        for name in run(["ovs-vsctl", "list-br"]).split()
    }
