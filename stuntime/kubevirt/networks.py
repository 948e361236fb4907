"""The networks on a cluster: made on a spare NIC of the nodes by NMState, or found by the name of a NAD.

The objects are those that OpenShift Virtualization documents for a Linux bridge and an OVN localnet.
"""

import json
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from stuntime.errors import TestbedError, UnfitError, UsageError
from stuntime.kubevirt.api import Api, ApiError, ConflictError
from stuntime.kubevirt.cluster import Node
from stuntime.kubevirt.kinds import CUDN, NAD, NNCE, NNCP, OURS, Object, condition, selector
from stuntime.kubevirt.manifests import HOSTNAME
from stuntime.kubevirt.settings import NetworkSettings
from stuntime.scenario import NETWORKS

_log = structlog.get_logger()

_CONFIGURED_S = 480.0  # NMState gives a node four minutes, and nodes go one after the other
_NAD_S = 60.0
_POLICY_LABEL = "nmstate.io/policy"
_NETWORK_LABEL = "stuntime.io/network"
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"
_LONGEST_INTERFACE = 15
_LONGEST_LABEL = 63  # NMState labels a node's enactment with the name of its policy
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
    """How a network is made on a NIC: `bridge` is its interface on the nodes, each of which gets a policy of its own.

    So the nodes that are not measured on keep what they have.
    """

    network: str
    nic: str
    vlan: int | None
    mtu: int | None

    @property
    def name(self) -> str:
        """What its objects are called; the policy of a node has the node's name behind it."""
        return f"stuntime-{self.network}"

    @property
    def bridge(self) -> str:
        """The interface on the nodes; the kernel takes 15 characters."""
        return _named("st-", self.nic, _LONGEST_INTERFACE)

    def policy(self, node: Node, labels: Mapping[str, str]) -> Object:
        """Return the policy that makes the network on a node."""
        name = _named(f"{self.name}-", node.name, _LONGEST_LABEL)
        spec = {"nodeSelector": {HOSTNAME: node.hostname}, "desiredState": self.desired_state(up=True)}
        return NNCP.object(name, labels={**labels, _NETWORK_LABEL: self.network}, spec=spec)

    def desired_state(self, *, up: bool) -> Object:
        """Return the desired state of a node, in the terms of NMState."""
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


def up(api: Api, made: Plan, nodes: Sequence[Node], labels: Mapping[str, str]) -> Attachment:
    """Make a network and wait until every one of the nodes has it; return how VMs are attached to it.

    One that is up on another NIC, of a run that was killed, is taken away first. Raise UnfitError, with NMState's own
    words, when a node cannot be configured.
    """
    if nic_of(api, made) not in (None, made.nic):
        down(api, made)
    policies = {node.name: made.policy(node, labels) for node in nodes}
    for policy in policies.values():
        _apply(api, NNCP, policy)
    _wait_configured(api, made, {f"{node}.{policy['metadata']['name']}" for node, policy in policies.items()})
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
    policies = _policies(api, made)
    for found in policies:
        bridge = next((one["name"] for one in found["spec"]["desiredState"].get("interfaces", [])), made.bridge)
        gone = made.desired_state(up=False)
        gone["interfaces"][0]["name"] = bridge
        for mapping in gone.get("ovn", {}).get("bridge-mappings", ()):
            mapping["bridge"] = bridge
        _change(api, found, {"spec": {"desiredState": gone}})
    if policies:
        enacted = {one["metadata"]["name"] for one in api.find(NNCE, labels=_enactments_of(policies))}
        _wait_configured(api, made, enacted, timeout_s=timeout_s)
    for found in policies:
        api.delete(NNCP, found["metadata"]["name"], grace_s=None)


def nic_of(api: Api, made: Plan) -> str | None:
    """Return the NIC that a network which is up was made on; None when that is not known."""
    for found in _policies(api, made):
        for interface in found["spec"]["desiredState"].get("interfaces") or ():
            for port in (interface.get("bridge") or {}).get("port") or ():
                return str(port["name"])
    return None


def is_part(name: str, made: Plan) -> bool:
    """Tell whether an object's name is one of the network's."""
    return name == made.name or name.startswith(f"{made.name}-")


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


def _named(prefix: str, name: str, longest: int) -> str:
    """Return a name with its prefix, or with its checksum where both are too long."""
    whole = f"{prefix}{name}"
    return whole if len(whole) <= longest else f"{prefix}{zlib.crc32(name.encode()):08x}"


def _policies(api: Api, made: Plan) -> list[Object]:
    return api.find(NNCP, labels=selector({**OURS, _NETWORK_LABEL: made.network}))


def _enactments_of(policies: Sequence[Object]) -> str:
    return f"{_POLICY_LABEL} in ({','.join(one['metadata']['name'] for one in policies)})"


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


def _wait_configured(api: Api, made: Plan, enactments: Collection[str], *, timeout_s: float = _CONFIGURED_S) -> None:
    """Wait until nodes have enacted their policies as they are now; raise UnfitError when one cannot.

    `enactments` are the names of what is waited for: each is a node's and, after a dot, its policy's.
    """
    policies = _policies(api, made)
    generations = {one["metadata"]["name"]: one["metadata"]["generation"] for one in policies}
    deadline = time.monotonic() + timeout_s
    waiting = set(enactments)
    for state in api.states(NNCE, deadline, labels=_enactments_of(policies)):
        current = {}
        for name, one in state.items():
            policy = one["metadata"]["labels"][_POLICY_LABEL]
            if (one.get("status") or {}).get("policyGeneration") != generations[policy]:
                continue
            current[name] = one
            failing = condition(one, "Failing")
            if failing.get("status") == "True":
                raise _failed(name.removesuffix(f".{policy}"), policy, failing)
        waiting = {name for name in enactments if condition(current.get(name), "Available").get("status") != "True"}
        if not waiting:
            return
    raise TestbedError(
        f"not configured within {timeout_s:g} s: {', '.join(sorted(waiting))}",
        "look at these NodeNetworkConfigurationEnactments; each is named by its node and its policy",
        reason="network-not-configured",
    )


def _failed(node: str, policy: str, failing: Object) -> UnfitError:
    message = " ".join(str(failing.get("message") or failing.get("reason")).split())
    return UnfitError(
        f"{node} could not be configured by the policy {policy}: {message[:600]}",
        "name a NIC that these nodes have to spare with --nic; they keep what they had",
        reason="network-degraded",
    )
