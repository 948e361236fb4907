"""How a network is made on a spare NIC: its objects as pure functions of what was asked for.

They are those that OpenShift Virtualization documents for a Linux bridge and an OVN localnet.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from stuntime.errors import UsageError
from stuntime.kubevirt.cluster import Node
from stuntime.kubevirt.kinds import CUDN, NAD, NAMESPACE_LABEL, NNCP, Kind, Object
from stuntime.kubevirt.manifests import HOSTNAME
from stuntime.kubevirt.settings import NetworkSettings
from stuntime.scenario import NETWORKS

#: The label that names the network which an object belongs to.
NETWORK_LABEL = "stuntime.io/network"
_PLAN = "stuntime.io/plan"
_FORMER_MTU = "stuntime.io/former-mtu"
_OWN_NAME = "kubernetes.io/metadata.name"
_LONGEST_INTERFACE = 15
_LONGEST_LABEL = 63  # NMState labels a node's enactment with the name of its policy


def name_of(network: str) -> str:
    """Return what a network's objects are called; the policy of a node has the node's name behind it."""
    return f"stuntime-{network}"


def node_selector(node: Node) -> dict[str, str]:
    """Return what selects a node, and no other, in its policy."""
    return {HOSTNAME: node.hostname}


def bridge_on(nic: str) -> str:
    """Return the name of the bridge that a network is made by on a NIC; the kernel takes 15 characters."""
    return _named("st-", nic, _LONGEST_INTERFACE)


@dataclass(frozen=True)
class Plan:
    """How a network is made on a NIC for the VMs of a namespace; each node gets a policy of its own.

    So the nodes that are not measured on keep what they have. Every object says in an annotation how it was planned.
    """

    network: str
    namespace: str
    nic: str
    vlan: int | None
    mtu: int | None

    @classmethod
    def of(cls, found: Object) -> "Plan | None":
        """Return how an object of a network was planned; None where it does not say."""
        try:
            return cls(**json.loads((found["metadata"].get("annotations") or {})[_PLAN]))
        except (KeyError, ValueError, TypeError):
            return None

    @property
    def name(self) -> str:
        """What its objects are called; see `name_of`."""
        return name_of(self.network)

    @property
    def bridge(self) -> str:
        """The interface on the nodes; see `bridge_on`."""
        return bridge_on(self.nic)

    def policy_name(self, node: Node) -> str:
        """Return the name of the policy that makes the network on a node."""
        return _named(f"{self.name}-", node.name, _LONGEST_LABEL)

    def policy(self, node: Node, labels: Mapping[str, str], former_mtu: int | None = None) -> Object:
        """Return the policy that makes the network on a node, and says which MTU the NIC had before."""
        spec = {"nodeSelector": node_selector(node), "desiredState": self.desired_state(up=True)}
        made = self._object(NNCP, self.policy_name(node), labels, spec)
        if former_mtu is not None:
            made["metadata"]["annotations"][_FORMER_MTU] = str(former_mtu)
        return made

    def desired_state(self, *, up: bool, former_mtu: int | None = None) -> Object:
        """Return the desired state of a node, in the terms of NMState; where it is not `up` the NIC is as before."""
        interface: Object = {"name": self.bridge, "type": self._type, "state": "up" if up else "absent"}
        desired: Object = {"interfaces": [interface]}
        if up:
            ports = {"port": [{"name": self.nic}]}
            interface["bridge"] = ports if self._ovs else {"options": {"stp": {"enabled": False}}, **ports}
            if self.mtu is not None and not self._ovs:
                interface["mtu"] = self.mtu
        if (mtu := self.mtu if up else former_mtu) is not None:
            desired["interfaces"].append({"name": self.nic, "type": "ethernet", "state": "up", "mtu": mtu})
        if self._ovs:
            mapping = {"localnet": self.name, "bridge": self.bridge, "state": "present" if up else "absent"}
            desired["ovn"] = {"bridge-mappings": [mapping]}
        return desired

    def attachment(self, labels: Mapping[str, str]) -> tuple[Kind, Object]:
        """Return what VMs are attached by: the NAD of a bridge, or what makes the NAD of a localnet."""
        if self._ovs:
            return CUDN, self._object(CUDN, self.name, labels, self._user_defined_network())
        return NAD, self._object(NAD, self.name, labels, {"config": json.dumps(self._bridge_configuration())})

    def _bridge_configuration(self) -> Object:
        plugin: Object = {"type": "bridge", "bridge": self.bridge, "disableContainerInterface": True}
        plugin |= {} if self.vlan is None else {"vlan": self.vlan}
        plugin |= {} if self.mtu is None else {"mtu": self.mtu}
        return {"cniVersion": "0.3.1", "name": self.name, "plugins": [plugin]}

    def _user_defined_network(self) -> Object:
        localnet: Object = {"role": "Secondary", "physicalNetworkName": self.name, "ipam": {"mode": "Disabled"}}
        if self.vlan is not None:
            localnet["vlan"] = {"mode": "Access", "access": {"id": self.vlan}}
        if self.mtu is not None:
            localnet["mtu"] = self.mtu
        return {
            "namespaceSelector": {"matchLabels": {_OWN_NAME: self.namespace}},
            "network": {"topology": "Localnet", "localnet": localnet},
        }

    def _object(self, kind: Kind, name: str, labels: Mapping[str, str], spec: Object) -> Object:
        own = {NETWORK_LABEL: self.network, NAMESPACE_LABEL: self.namespace}
        made = kind.object(name, labels={**labels, **own}, spec=spec)
        made["metadata"]["annotations"] = {_PLAN: json.dumps(asdict(self))}
        return made

    @property
    def _ovs(self) -> bool:
        return self.network == "ovn-localnet"

    @property
    def _type(self) -> str:
        return "ovs-bridge" if self._ovs else "linux-bridge"


def plan(network: str, namespace: str, settings: NetworkSettings, nic: str) -> Plan:
    """Return how a network is made; raise UsageError when it is none of ours."""
    if network not in NETWORKS:
        raise UsageError(
            f"no network {network!r} can be made here", f"it makes {' and '.join(NETWORKS)}; name a NAD with --nad"
        )
    return Plan(network, namespace, nic, settings.vlan, settings.mtu)


def former_mtu(policy: Object) -> int | None:
    """Return the MTU that the NIC had before a policy; None where the policy leaves it alone."""
    told = (policy["metadata"].get("annotations") or {}).get(_FORMER_MTU)
    return None if told is None else int(told)


def _named(prefix: str, name: str, longest: int) -> str:
    """Return a name with its prefix, or with its checksum where both are too long."""
    whole = f"{prefix}{name}"
    return whole if len(whole) <= longest else f"{prefix}{zlib.crc32(name.encode()):08x}"
