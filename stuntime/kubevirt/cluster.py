"""What is known of a cluster: read once, and then the same for all results of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stuntime.kubevirt.api import Api, ApiError
from stuntime.kubevirt.kinds import KUBEVIRT, NAMESPACE, NODE, Kind, Object, condition
from stuntime.kubevirt.manifests import HOSTNAME

_CLUSTER_VERSION = Kind("config.openshift.io/v1", "ClusterVersion", "clusterversions", namespaced=False)
_KVM = "devices.kubevirt.io/kvm"
_CPU_MODEL = "host-model-cpu.node.kubevirt.io/"


@dataclass(frozen=True)
class Node:
    """A node that can run VMs. `hostname` is the label that VMs are placed by; `facts` go into results."""

    name: str
    hostname: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Cluster:
    """A cluster. `versions` are by product; `migrations` is its configuration of them; `kvm`: some node has it.

    `feature_gates` are those that KubeVirt's configuration opens.
    """

    id: str
    versions: Mapping[str, str]
    migrations: Mapping[str, Any]
    nodes: Sequence[Node]
    kvm: bool
    feature_gates: frozenset[str] = frozenset()


def read(api: Api, node_selector: str = "") -> Cluster:
    """Return what is known of the cluster, and of those of its nodes that have these labels."""
    kubevirts = api.find(KUBEVIRT, everywhere=True)
    kubevirt = kubevirts[0] if kubevirts else {}
    versions = {"kubernetes": str(api.ask("/version").get("gitVersion", "unknown"))}
    if version := (kubevirt.get("status") or {}).get("observedKubeVirtVersion"):
        versions["kubevirt"] = version
    identity, openshift = _openshift(api)
    if openshift:
        versions["openshift"] = openshift
    system = None if identity else api.get(NAMESPACE, "kube-system")
    configuration = (kubevirt.get("spec") or {}).get("configuration") or {}
    gates = (configuration.get("developerConfiguration") or {}).get("featureGates") or ()
    nodes = api.find(NODE, labels=node_selector)
    return Cluster(
        id=identity or (system["metadata"]["uid"] if system else "unknown"),
        versions=versions,
        migrations=configuration.get("migrations") or {},
        nodes=sorted((node_of(one) for one in nodes if runs_vms(one)), key=lambda node: node.name),
        kvm=any(_amount(one, _KVM) != "0" for one in nodes),
        feature_gates=frozenset(gates),
    )


def runs_vms(node: Object) -> bool:
    """Tell whether VMs can be scheduled on a node now."""
    return (
        node["metadata"].get("labels", {}).get("kubevirt.io/schedulable") == "true"
        and not node.get("spec", {}).get("unschedulable")
        and condition(node, "Ready").get("status") == "True"
    )


def node_of(found: Object) -> Node:
    """Return a node with the facts of it that go into results."""
    labels, info = found["metadata"].get("labels", {}), found["status"].get("nodeInfo", {})
    facts = {
        "os": info.get("osImage"),
        "kernel": info.get("kernelVersion"),
        "container_runtime": info.get("containerRuntimeVersion"),
        "cores": (found["status"].get("capacity") or {}).get("cpu"),
        "cpu_model": next((key.removeprefix(_CPU_MODEL) for key in sorted(labels) if key.startswith(_CPU_MODEL)), None),
        "model": labels.get("node.kubernetes.io/instance-type"),
    }
    name = found["metadata"]["name"]
    return Node(name, labels.get(HOSTNAME, name), {key: value for key, value in facts.items() if value})


def _amount(node: Object, resource: str) -> str:
    """Return how much of a resource a node has, as it says it: KubeVirt's device plugin says `1k`."""
    return str((node["status"].get("allocatable") or {}).get(resource, 0))


def _openshift(api: Api) -> tuple[str, str]:
    """Return OpenShift's id of the cluster and its version; empty elsewhere, and where this account may not read it."""
    try:
        found = api.get(_CLUSTER_VERSION, "version")
    except ApiError:
        return "", ""
    if found is None:
        return "", ""
    return found["spec"].get("clusterID", ""), ((found.get("status") or {}).get("desired") or {}).get("version", "")
