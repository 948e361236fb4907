"""The networks on a cluster: made on a spare NIC of every node by NMState, or found by the name of a NAD.

The objects are those that OpenShift Virtualization documents for a Linux bridge and an OVN localnet.
"""

import json
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from stuntime.errors import TestbedError, UnfitError, UsageError
from stuntime.kubevirt.api import Api, ApiError, ConflictError
from stuntime.kubevirt.kinds import CUDN, NAD, NNCE, NNCP, Object, condition
from stuntime.kubevirt.settings import NetworkSettings
from stuntime.scenario import NETWORKS

_log = structlog.get_logger()

_CONFIGURED_S = 480.0  # NMState gives a node four minutes, and nodes go one after the other
_NAD_S = 60.0
_POLICY_LABEL, _NODE_LABEL = "nmstate.io/policy", "nmstate.io/node"
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"
_LONGEST_NAME = 15
#: What a NAD's configuration says of itself and nothing of the network.
_OF_ITSELF = ("name", "netAttachDefName")


@dataclass(frozen=True)
class Attachment:
    """A network that VMs can be attached to: its NAD, and the configuration that goes into results."""

    nad: str
    configuration: Mapping[str, Any]
    nic: str | None


@dataclass(frozen=True)
class Plan:
    """How a network is made on a NIC: `policy` is of NMState, `bridge` its interface on the nodes."""

    network: str
    nic: str
    vlan: int | None
    mtu: int | None

    @property
    def name(self) -> str:
        """What its objects are called."""
        return f"stuntime-{self.network}"

    @property
    def bridge(self) -> str:
        """The interface on the nodes; the kernel takes 15 characters."""
        whole = f"st-{self.nic}"
        return whole if len(whole) <= _LONGEST_NAME else f"st-{zlib.crc32(self.nic.encode()):08x}"

    def policy(self, *, up: bool) -> Object:
        """Return the desired state of each node."""
        interface: Object = {"name": self.bridge, "type": self._type, "state": "up" if up else "absent"}
        desired: Object = {"interfaces": [interface]}
        if up:
            ports = {"port": [{"name": self.nic}]}
            interface["bridge"] = ports if self._ovs else {"options": {"stp": {"enabled": False}}, **ports}
            if self.mtu is not None:
                interface |= {} if self._ovs else {"mtu": self.mtu}
                desired["interfaces"].append({"name": self.nic, "type": "ethernet", "state": "up", "mtu": self.mtu})
        if self._ovs:
            mapping = {"localnet": self.name, "bridge": self.bridge, "state": "present" if up else "absent"}
            desired["ovn"] = {"bridge-mappings": [mapping]}
        return desired

    def nad_configuration(self, namespace: str) -> Object:
        """Return the configuration of the NAD."""
        tagged: Object = {} if self.vlan is None else {"vlanID" if self._ovs else "vlan": self.vlan}
        sized: Object = {} if self.mtu is None else {"mtu": self.mtu}
        if self._ovs:
            return {
                "cniVersion": "1.0.0",
                "type": "ovn-k8s-cni-overlay",
                "topology": "localnet",
                "name": self.name,
                "physicalNetworkName": self.name,
                "netAttachDefName": f"{namespace}/{self.name}",
                **tagged,
                **sized,
            }
        plugin = {"type": "bridge", "bridge": self.bridge, "disableContainerInterface": True, **tagged, **sized}
        return {"cniVersion": "0.3.1", "name": self.name, "plugins": [plugin]}

    def user_defined_network(self, namespace: str) -> Object:
        """Return the ClusterUserDefinedNetwork that makes the NAD of a localnet in one namespace."""
        localnet: Object = {"role": "Secondary", "physicalNetworkName": self.name, "ipam": {"mode": "Disabled"}}
        if self.vlan is not None:
            localnet["vlan"] = {"mode": "Access", "access": {"id": self.vlan}}
        if self.mtu is not None:
            localnet["mtu"] = self.mtu
        return {
            "namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: namespace}},
            "network": {"topology": "Localnet", "localnet": localnet},
        }

    @property
    def _ovs(self) -> bool:
        return self.network == "ovn-localnet"

    @property
    def _type(self) -> str:
        return "ovs-bridge" if self._ovs else "linux-bridge"


def plan(network: str, settings: NetworkSettings, nic: str) -> Plan:
    """Return how a network is made; raise UsageError when it is none of ours."""
    if network not in NETWORKS:
        raise UsageError(
            f"no network {network!r} can be made here", f"it makes {' and '.join(NETWORKS)}; name a NAD with --nad"
        )
    return Plan(network, nic, settings.vlan, settings.mtu)


def up(api: Api, made: Plan, nodes: Sequence[str], labels: Mapping[str, str]) -> Attachment:
    """Make a network and wait until every node has it; return how VMs are attached to it.

    Raise UnfitError, with the policy's own words, when a node cannot be configured.
    """
    _apply(api, NNCP, NNCP.object(made.name, labels=dict(labels), spec={"desiredState": made.policy(up=True)}))
    _wait_configured(api, made.name, nodes)
    if made.network == "ovn-localnet" and api.serves(CUDN.api_version):
        found = api.get(NAD, made.name)
        if found is not None and not found["metadata"].get("ownerReferences"):
            api.delete(NAD, made.name)
        spec = made.user_defined_network(api.namespace)
        _apply(api, CUDN, CUDN.object(made.name, labels=dict(labels), spec=spec))
        api.wait(
            CUDN,
            made.name,
            lambda found: condition(found, "NetworkCreated").get("status") == "True",
            timeout_s=_NAD_S,
            what=f"the network of {CUDN.name} {made.name}",
        )
        api.wait(NAD, made.name, lambda found: found is not None, timeout_s=_NAD_S, what=f"the NAD {made.name}")
    else:
        config = json.dumps(made.nad_configuration(api.namespace))
        _apply(api, NAD, NAD.object(made.name, labels=dict(labels), spec={"config": config}))
    return existing(api, made.name, made.nic)


def down(api: Api, made: Plan, *, timeout_s: float = _CONFIGURED_S) -> None:
    """Take a network away and give the nodes their NIC back; nothing is done where nothing is left."""
    if api.serves(CUDN.api_version) and api.delete(CUDN, made.name, grace_s=None):
        api.wait(CUDN, made.name, lambda found: found is None, timeout_s=_NAD_S, what=f"the end of {made.name}")
    api.delete(NAD, made.name, grace_s=None)
    found = api.get(NNCP, made.name)
    if found is None:
        return
    bridge = next((one["name"] for one in found["spec"]["desiredState"].get("interfaces", [])), made.bridge)
    gone = made.policy(up=False)
    gone["interfaces"][0]["name"] = bridge
    for mapping in gone.get("ovn", {}).get("bridge-mappings", ()):
        mapping["bridge"] = bridge
    _change(api, found, {"spec": {"desiredState": gone}})
    _wait_configured(api, made.name, _enacted(api, made.name), timeout_s=timeout_s)
    api.delete(NNCP, made.name, grace_s=None)


def nic_of(api: Api, made: Plan) -> str | None:
    """Return the NIC that a network which is up was made on; None when that is not known."""
    found = api.get(NNCP, made.name)
    for interface in (found or {}).get("spec", {}).get("desiredState", {}).get("interfaces") or ():
        for port in (interface.get("bridge") or {}).get("port") or ():
            return str(port["name"])
    return None


def nic_below(api: Api, network: str, nad: str) -> str | None:
    """Return the NIC of a network that another process of ours has made; None where it is not known."""
    made = Plan(network, "", None, None)
    try:
        return nic_of(api, made) if nad == made.name else None
    except ApiError:
        return None


def existing(api: Api, name: str, nic: str | None = None) -> Attachment:
    """Return how VMs are attached to the network of a NAD; raise UnfitError when it is not there or says nothing."""
    found = api.get(NAD, name)
    if found is None:
        raise UnfitError(
            f"there is no NAD {name} in namespace {api.namespace}",
            "make it, name another with --nad, or let `stuntime network up` make one",
            reason="nad-missing",
        )
    try:
        configuration = json.loads((found.get("spec") or {}).get("config") or "")
    except ValueError as error:
        raise UnfitError(f"the NAD {name} has no configuration: {error}", "mend it", reason="nad-broken") from error
    return Attachment(f"{api.namespace}/{name}", described(configuration), nic)


def described(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a NAD's configuration says of the network, with the first plugin's settings beside the others.

    `disableContainerInterface` is there for every Linux bridge: it decides the value.
    """
    plugins = configuration.get("plugins") or [configuration]
    told = {**{key: value for key, value in configuration.items() if key != "plugins"}, **plugins[0]}
    if told.get("type") == "bridge":
        told["disableContainerInterface"] = bool(told.get("disableContainerInterface", False))
    return {key: value for key, value in sorted(told.items()) if key not in _OF_ITSELF}


def spare_nic(states: Sequence[Object]) -> str | None:
    """Return the NIC to use: the last by name that is up, unused and named alike in all NodeNetworkStates."""
    spare = [_spare(state["status"]["currentState"]) for state in states]
    common = set.intersection(*spare) if spare else set()
    return max(common, default=None)


def _spare(state: Object) -> set[str]:
    interfaces = state.get("interfaces") or []
    ports = {port["name"] for interface in interfaces for port in (interface.get("bridge") or {}).get("port") or ()}
    bases = {(one.get("vlan") or {}).get("base-iface") for one in interfaces}
    return {
        one["name"]
        for one in interfaces
        if one.get("type") == "ethernet"
        and one.get("state") == "up"
        and one["name"] not in ports | bases
        and not one.get("controller")
        and not _addressed(one)
    }


def _addressed(interface: Object) -> bool:
    """Tell whether an interface has an address of its own; a link-local one comes by itself."""
    return any(
        not address["ip"].lower().startswith("fe80:")
        for family in ("ipv4", "ipv6")
        for address in (interface.get(family) or {}).get("address") or ()
    )


def _apply(api: Api, kind: Any, wanted: Object) -> None:
    """Create an object, or make the one of an earlier run what is wanted now."""
    try:
        api.create(kind, wanted)
    except ConflictError:
        name = wanted["metadata"]["name"]
        patch = {"metadata": {"labels": wanted["metadata"]["labels"]}, "spec": wanted["spec"]}
        found = api.get(NNCP, name) if kind is NNCP else None
        if found is None:
            api.merge(kind, name, patch)
        else:
            _change(api, found, patch)


def _change(api: Api, found: Object, patch: Object) -> None:
    """Change a policy, so that nodes try again also what they could not do before.

    They try what is new. Where nothing is, the policy gets another limit of how many may try at once.
    """
    name = found["metadata"]["name"]
    changed = api.merge(NNCP, name, patch)
    same = changed["metadata"]["generation"] == found["metadata"]["generation"]
    if same and condition(found, "Degraded").get("status") == "True":
        api.merge(NNCP, name, {"spec": {"maxUnavailable": 2 if found["spec"].get("maxUnavailable") == 1 else 1}})


def _wait_configured(api: Api, policy: str, nodes: Sequence[str], *, timeout_s: float = _CONFIGURED_S) -> None:
    """Wait until each node has enacted the policy as it is now; raise UnfitError when one cannot."""
    found = api.get(NNCP, policy)
    generation = found["metadata"]["generation"] if found else 0
    deadline = time.monotonic() + timeout_s
    waiting = set(nodes)
    for state in api.states(NNCE, deadline, labels=f"{_POLICY_LABEL}={policy}"):
        current = (one for one in state.values() if (one.get("status") or {}).get("policyGeneration") == generation)
        enacted = {one["metadata"]["name"].removesuffix(f".{policy}"): one for one in current}
        for node, one in enacted.items():
            failing = condition(one, "Failing")
            if failing.get("status") == "True":
                raise _degraded(api, policy, node, str(failing.get("message") or failing.get("reason")))
        waiting = {n for n in nodes if condition(enacted.get(n), "Available").get("status") != "True"}
        if not waiting:
            return
    raise TestbedError(
        f"the policy {policy} was not configured on {', '.join(sorted(waiting))} within {timeout_s:g} s",
        "look at the NodeNetworkConfigurationEnactments of these nodes",
        reason="network-not-configured",
    )


def _degraded(api: Api, policy: str, node: str, message: str) -> UnfitError:
    told = condition(api.get(NNCP, policy), "Degraded").get("message") or ""
    return UnfitError(
        f"{node} could not be configured by the policy {policy}: {' '.join(message.split())[:600]}"
        + (f" ({told})" if told else ""),
        "name a NIC that every node has to spare with --nic; the nodes keep what they had",
        reason="network-degraded",
    )


def _enacted(api: Api, policy: str) -> list[str]:
    return [
        one["metadata"]["name"].removesuffix(f".{policy}") for one in api.find(NNCE, labels=f"{_POLICY_LABEL}={policy}")
    ]
