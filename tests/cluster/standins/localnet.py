"""What OVN-Kubernetes makes of networks and pods: logical switches, logical ports, definitions of attachments. Pure."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

Object = Mapping[str, Any]

CNI_TYPE = "ovn-k8s-cni-overlay"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
TARGET_READY = "kubevirt.io/migration-target-ready-timestamp"
VM_LABEL = "vm.kubevirt.io/name"
FINALIZER = "k8s.ovn.org/user-defined-network-protection"
LABEL = "k8s.ovn.org/user-defined-network"


@dataclass(frozen=True)
class Network:
    """A logical switch with a port of type localnet."""

    name: str
    physical: str
    vlan: int | None = None

    @property
    def switch(self) -> str:
        """The logical switch's name."""
        return f"{_prefix(self.name)}ovn_localnet_switch"

    @property
    def uplink(self) -> str:
        """The localnet port's name."""
        return f"{_prefix(self.name)}ovn_localnet_port"


@dataclass(frozen=True)
class Port:
    """A pod's logical port. A disabled one has no address: what is sent to the address goes elsewhere."""

    network: Network
    name: str
    mac: str
    enabled: bool = True


def networks(definitions: Sequence[Object]) -> dict[str, Network]:
    """Return the localnets among NetworkAttachmentDefinitions, by NAMESPACE/NAME."""
    found = {}
    for each in definitions:
        try:
            config = json.loads(each["spec"]["config"])
        except (KeyError, ValueError):
            continue
        if config.get("type") == CNI_TYPE and config.get("topology") == "localnet":
            physical = config.get("physicalNetworkName", config["name"])
            found[key(each)] = Network(config["name"], physical, config.get("vlanID"))
    return found


def ports(pods: Sequence[Object], known: Mapping[str, Network]) -> dict[str, Port]:
    """Return the logical ports that these pods (oldest first) have, by name."""
    enabled = _enabled(pods)
    made = {}
    for pod in pods:
        if completed(pod) or not pod["spec"].get("nodeName") or pod["spec"].get("hostNetwork"):
            continue
        for chosen, mac in attachments(pod):
            if chosen in known:
                name = port_name(pod, chosen)
                made[name] = Port(known[chosen], name, mac or made_up_mac(name), enabled[pod["metadata"]["uid"]])
    return made


def port_name(pod: Object, definition: str) -> str:
    """Return the name of a pod's port, which is also the iface-id of its interface."""
    return f"{definition.replace('/', '.')}_{pod['metadata']['namespace']}_{pod['metadata']['name']}"


def made_up_mac(port: str) -> str:
    """Return the MAC of a port whose pod asks for none; the CNI plugin makes up the same."""
    return ":".join(["0a", "58", *(f"{byte:02x}" for byte in hashlib.sha256(port.encode()).digest()[:4])])


def attachments(pod: Object) -> Iterator[tuple[str, str | None]]:
    """Yield the definitions, as NAMESPACE/NAME, that a pod attaches to, and the MACs it asks for."""
    namespace, text = pod["metadata"]["namespace"], pod["metadata"].get("annotations", {}).get(NETWORKS, "")
    if text.lstrip().startswith("["):
        for each in json.loads(text):
            yield f"{each.get('namespace', namespace)}/{each['name']}", each.get("mac")
        return
    for each in filter(None, (part.strip() for part in text.split(","))):
        chosen = each.partition("@")[0]
        yield (chosen if "/" in chosen else f"{namespace}/{chosen}"), None


def completed(pod: Object) -> bool:
    """Say whether a pod's containers have ended for good."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _enabled(pods: Sequence[Object]) -> dict[str, bool]:
    """Return which pods' ports are enabled.

    Of a VM with two living pods the newer one is a migration's target. Its port is disabled until KubeVirt says on it
    that its domain is ready; then it is enabled and the source's is disabled. When one of the two has ended, the other
    one's is enabled: the target after a migration, the source after a failed one.
    """
    living = [pod for pod in pods if not completed(pod)]
    enabled = {pod["metadata"]["uid"]: True for pod in living}
    for vm, group in groupby(sorted(living, key=_vm), key=_vm):
        of_vm = sorted(group, key=lambda pod: pod["metadata"]["creationTimestamp"])
        if vm[1] and len(of_vm) > 1:
            source, target = of_vm[0], of_vm[-1]
            ready = TARGET_READY in target["metadata"].get("annotations", {})
            enabled[source["metadata"]["uid"]] = not ready
            enabled[target["metadata"]["uid"]] = ready
    return enabled


def attachment_definition(network: Object, namespace: str) -> dict[str, Any]:
    """Return the NetworkAttachmentDefinition that a ClusterUserDefinedNetwork has in a namespace."""
    name, localnet = network["metadata"]["name"], network["spec"]["network"]["localnet"]
    config = {
        "cniVersion": "1.0.0",
        "type": CNI_TYPE,
        "name": f"cluster_udn_{name}",
        "netAttachDefName": f"{namespace}/{name}",
        "topology": "localnet",
        "role": "secondary",
        "physicalNetworkName": localnet["physicalNetworkName"],
        **({"mtu": localnet["mtu"]} if "mtu" in localnet else {}),
        **({"vlanID": localnet["vlan"]["access"]["id"]} if "vlan" in localnet else {}),
    }
    owner = {"apiVersion": "k8s.ovn.org/v1", "kind": "ClusterUserDefinedNetwork", "name": name, "controller": True}
    return {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {LABEL: ""},
            "finalizers": [FINALIZER],
            "ownerReferences": [{**owner, "blockOwnerDeletion": True, "uid": network["metadata"]["uid"]}],
        },
        "spec": {"config": json.dumps(config)},
    }


def network_created(
    namespaces: Sequence[str], errors: Sequence[str], time: str, before: Object | None
) -> dict[str, Any]:
    """Return the condition NetworkCreated."""
    status, reason = "True", "NetworkAttachmentDefinitionCreated"
    listed = ", ".join(sorted(namespaces))
    message = f"NetworkAttachmentDefinition has been created in following namespaces: [{listed}]"
    if errors:
        status, reason, message = "False", "NetworkAttachmentDefinitionSyncError", "; ".join(errors)
    since = before["lastTransitionTime"] if before and before["status"] == status else time
    told = {"type": "NetworkCreated", "status": status, "reason": reason, "message": message}
    return {**told, "lastTransitionTime": since}


def _vm(pod: Object) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["metadata"].get("labels", {}).get(VM_LABEL, "")


def _prefix(network: str) -> str:
    return network.replace("-", ".").replace("/", ".") + "_"


def key(thing: Object) -> str:
    """Return NAMESPACE/NAME."""
    return f"{thing['metadata']['namespace']}/{thing['metadata']['name']}"
