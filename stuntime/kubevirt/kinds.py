"""The kinds of objects that are spoken of, and the paths the API has them under."""

from dataclasses import dataclass
from typing import Any

#: An object as JSON has it.
Object = dict[str, Any]

NAME_LABEL, RUN_LABEL, SCENARIO_LABEL = "app.kubernetes.io/name", "stuntime.io/run", "stuntime.io/scenario"
#: The namespace of the run that an object belongs to, where the object itself is in none or in another one.
NAMESPACE_LABEL = "stuntime.io/namespace"
#: Results that are kept in the cluster have it; cleaning up leaves them.
DEPOSIT_LABEL = "stuntime.io/deposit"
#: Every object of ours has this label, and cleaning up asks for it.
OURS = {NAME_LABEL: "stuntime"}


@dataclass(frozen=True)
class Kind:
    """A kind of object: its API version, its name and its plural."""

    api_version: str
    name: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """The API group; empty for the core's."""
        group, slash, _ = self.api_version.partition("/")
        return group if slash else ""

    @property
    def resource(self) -> str:
        """What RBAC and errors call it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str, name: str = "") -> str:
        """Return the path of one object, or without a name of all of them."""
        root = "/apis/" if self.group else "/api/"
        place = f"/namespaces/{namespace}" if self.namespaced else ""
        return f"{root}{self.api_version}{place}/{self.plural}" + (f"/{name}" if name else "")

    def object(self, name: str, **fields: Any) -> Object:
        """Return an object of this kind with these top-level fields; `labels` and `owners` go into its metadata."""
        labels, owners = fields.pop("labels", {}), fields.pop("owners", [])
        metadata: Object = {"name": name, "labels": {**OURS, **labels}}
        if owners:
            metadata["ownerReferences"] = owners
        return {"apiVersion": self.api_version, "kind": self.name, "metadata": metadata, **fields}


NODE = Kind("v1", "Node", "nodes", namespaced=False)
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
POD = Kind("v1", "Pod", "pods")
EVENT = Kind("v1", "Event", "events")
SECRET = Kind("v1", "Secret", "secrets")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
VM = Kind("kubevirt.io/v1", "VirtualMachine", "virtualmachines")
VMI = Kind("kubevirt.io/v1", "VirtualMachineInstance", "virtualmachineinstances")
VMIM = Kind("kubevirt.io/v1", "VirtualMachineInstanceMigration", "virtualmachineinstancemigrations")
KUBEVIRT = Kind("kubevirt.io/v1", "KubeVirt", "kubevirts")
NAD = Kind("k8s.cni.cncf.io/v1", "NetworkAttachmentDefinition", "network-attachment-definitions")
NNCP = Kind("nmstate.io/v1", "NodeNetworkConfigurationPolicy", "nodenetworkconfigurationpolicies", namespaced=False)
NNCE = Kind(
    "nmstate.io/v1beta1",
    "NodeNetworkConfigurationEnactment",
    "nodenetworkconfigurationenactments",
    namespaced=False,
)
NNS = Kind("nmstate.io/v1beta1", "NodeNetworkState", "nodenetworkstates", namespaced=False)
CUDN = Kind("k8s.ovn.org/v1", "ClusterUserDefinedNetwork", "clusteruserdefinednetworks", namespaced=False)


def selector(labels: dict[str, str]) -> str:
    """Return a label selector."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def cleanup_command(namespace: str | None, run: str | None) -> str:
    """Return the command that removes what a run of a namespace has left."""
    return f"stuntime cleanup --testbed kubevirt --namespace {namespace} --run {run}"


def cleaning_up(found: Object) -> str:
    """Return the command that removes what the run of an object has left."""
    labels = found["metadata"].get("labels") or {}
    return cleanup_command(labels.get(NAMESPACE_LABEL), labels.get(RUN_LABEL))


def condition(found: Object | None, name: str) -> Object:
    """Return a condition of an object's status by its type; empty when it has none."""
    listed = ((found or {}).get("status") or {}).get("conditions") or []
    return next((one for one in listed if one.get("type") == name), {})
