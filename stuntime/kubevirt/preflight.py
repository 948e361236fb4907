"""Is this cluster fit to measure on? One line per check, each with what was found, what is needed and what to do."""

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stuntime.errors import StuntimeError, UnfitError
from stuntime.kubevirt import cluster, networks, nics, permissions
from stuntime.kubevirt.api import Api, ApiError
from stuntime.kubevirt.cluster import Cluster, Node
from stuntime.kubevirt.kinds import (
    CONFIG_MAP,
    CUDN,
    DEPOSIT_LABEL,
    NAD,
    NAMESPACE,
    NNCP,
    NNS,
    OURS,
    POD,
    RUN_LABEL,
    VM,
    VMIM,
    Object,
    selector,
)
from stuntime.kubevirt.manifests import HOSTNAME, run_labels
from stuntime.kubevirt.plans import bridge_on
from stuntime.kubevirt.settings import Settings
from stuntime.scenario import NETWORKS

_LEAST_KUBEVIRT = (1, 6)
_NODES_FOR_ALL, _NODES_AT_LEAST = 3, 2
_PULL_S = 180.0
_ENFORCED = "pod-security.kubernetes.io/enforce"
_OVER = ("Succeeded", "Failed")
_NOT_PULLED = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_STARTING = ("ContainerCreating", "PodInitializing", "")


@dataclass(frozen=True)
class Check:
    """A line of the table. `fit` False: nothing can be measured; `note`: what falls away all the same."""

    name: str
    found: str
    needed: str
    fit: bool
    way_out: str = ""
    note: str = ""


@dataclass(frozen=True)
class Found:
    """What the preflight saw: its lines, and what the measurement goes on with (None where it could not be read)."""

    checks: Sequence[Check]
    cluster: Cluster | None = None
    nodes: Sequence[Node] = ()
    nic: str | None = None

    @property
    def fit(self) -> bool:
        """Whether it can be measured here."""
        return all(check.fit for check in self.checks)

    @property
    def without_nodes(self) -> tuple[str, ...]:
        """The paths that there are too few nodes for."""
        return () if len(self.nodes) >= _NODES_FOR_ALL else ("between-other-nodes",)

    def require(self) -> "Found":
        """Return itself; raise UnfitError with all that is not fit."""
        bad = [check for check in self.checks if not check.fit]
        if bad:
            told = "; ".join(f"{check.name}: {check.found}" for check in bad)
            ways = "; ".join(dict.fromkeys(check.way_out for check in bad if check.way_out))
            raise UnfitError(f"the cluster is not fit: {told}", ways or "see `stuntime preflight --testbed kubevirt`")
        return self


def examine(
    api: Api, settings: Settings, wanted: Sequence[str], paths: Sequence[str], *, pull: bool = True, owned: bool = False
) -> Found:
    """Look at everything that a run of these networks and paths will use; nothing is left behind.

    `pull` also has the guest image pulled. `owned`: this run is going on already, its own objects do not disturb it.
    """
    checks: list[Check] = []
    try:
        version = api.ask("/version")["gitVersion"]
    except StuntimeError as error:
        return Found([Check("API server", str(error), "it answers", fit=False, way_out=error.way_out)])
    checks.append(Check("API server", f"{api.configuration.host}, {version}", "it answers", fit=True))
    making = [network for network in wanted if network not in settings.networks.nads]
    refused = permissions.missing(api, permissions.needed(making), settings.window_namespace)
    checks.append(
        Check(
            "permissions",
            f"missing: {'; '.join(refused)}" if refused else "all that are used",
            "those of the roles in tasks/rbac",
            fit=not refused,
            way_out="ask an administrator to apply tasks/rbac for this account",
        )
    )
    try:
        seen = cluster.read(api, settings.node_selector)
    except ApiError as error:
        checks.append(Check("KubeVirt", str(error), "KubeVirt 1.6 or newer", fit=False, way_out=error.way_out))
        return Found(checks)
    nodes = _chosen(seen, settings)
    checks += [_kubevirt(seen), _migrations(seen), _pod_security(api, seen), _nodes(seen, nodes, settings, paths)]
    checks += [_group(api, "Multus", NAD.api_version, "install Multus")]
    nic = None
    if making:
        nmstate = _group(api, "NMState", NNCP.api_version, "install the NMState operator, or name NADs with --nad")
        checks += [nmstate, _ovn(api)] if "ovn-localnet" in making else [nmstate]
        if nmstate.fit:
            nic, check = _nic(api, settings, nodes, making)
            checks.append(check)
    checks += [_nad(api, name) for network, name in settings.networks.nads.items() if network in wanted]
    try:
        checks.append(_idle(api, settings, owned=owned))
    except ApiError as error:
        checks.append(Check("idle", str(error), "no migration in flight", fit=False, way_out=error.way_out))
    if pull and not refused and nodes:
        checks.append(_image(api, settings, nodes[0]))
    return Found(checks, seen, nodes, nic)


def as_json(found: Found) -> dict[str, Any]:
    """Return the table as a document."""
    return {"fit": found.fit, "checks": [asdict(check) for check in found.checks], "nic": found.nic}


def new_enough(version: str) -> bool:
    """Tell whether a KubeVirt can be told the node to migrate to (addedNodeSelector, since 1.6.0)."""
    parsed = re.match(r"v?(\d+)\.(\d+)", version)
    return parsed is not None and (int(parsed[1]), int(parsed[2])) >= _LEAST_KUBEVIRT


def _kubevirt(seen: Cluster) -> Check:
    version = seen.versions.get("kubevirt")
    return Check(
        "KubeVirt",
        version or "not deployed",
        "1.6 or newer",
        fit=version is not None and new_enough(version),
        way_out="install KubeVirt (OpenShift Virtualization), 1.6 or newer: older ones cannot be told the target node",
    )


def _migrations(seen: Cluster) -> Check:
    told = ", ".join(f"{key} {value}" for key, value in sorted(seen.migrations.items())) or "the defaults"
    return Check("migration configuration", told, "any: it is recorded", fit=True)


def _pod_security(api: Api, seen: Cluster) -> Check:
    """Tell whether a VM's pod is admitted in the namespace; KubeVirt sees to that itself where its gate is open."""
    try:
        found = api.get(NAMESPACE, api.namespace)
    except ApiError:  # one that this account may not look at
        found = None
    level = ((found or {}).get("metadata", {}).get("labels") or {}).get(_ENFORCED, "")
    return Check(
        "pod security",
        f"{api.namespace} enforces {level or 'what the cluster does'}",
        "VMs are admitted: not `restricted`, or KubeVirt's feature gate PSA",
        fit=level != "restricted" or "PSA" in seen.feature_gates,
        way_out=f"kubectl label --overwrite namespace {api.namespace} {_ENFORCED}=privileged, or take another one",
    )


def _chosen(seen: Cluster, settings: Settings) -> list[Node]:
    known = {node.name: node for node in seen.nodes}
    if settings.nodes:
        return [known[name] for name in settings.nodes if name in known]
    return list(seen.nodes)[:_NODES_FOR_ALL]


def _nodes(seen: Cluster, nodes: Sequence[Node], settings: Settings, paths: Sequence[str]) -> Check:
    missing = [name for name in settings.nodes if name not in {node.name for node in nodes}]
    third = "between-other-nodes" in paths
    needed = _NODES_FOR_ALL if third and paths == ("between-other-nodes",) else _NODES_AT_LEAST
    named = ", ".join(node.name for node in nodes) or "none"
    found = f"{named} of {len(seen.nodes)}" + (f"; not fit: {', '.join(missing)}" if missing else "")
    falls_away = third and len(nodes) < _NODES_FOR_ALL
    return Check(
        "nodes for VMs",
        found,
        f"{_NODES_FOR_ALL}, ready and schedulable; {_NODES_AT_LEAST} for two of the three paths",
        fit=len(nodes) >= needed and not missing,
        way_out="see `kubectl get nodes -l kubevirt.io/schedulable=true`; mend or uncordon nodes",
        note="the scenarios between-other-nodes fall away" if falls_away else "",
    )


def _group(api: Api, name: str, version: str, way_out: str) -> Check:
    there = api.serves(version)
    return Check(name, version if there else "not there", f"the API {version}", fit=there, way_out=way_out)


def _ovn(api: Api) -> Check:
    there = api.serves(CUDN.api_version)
    return Check(
        "OVN-Kubernetes",
        CUDN.api_version if there else "not there",
        "OVN-Kubernetes with localnet",
        fit=there,
        way_out="measure only linux-bridge, or name a NAD of a localnet with --nad",
    )


def _nic(api: Api, settings: Settings, nodes: Sequence[Node], making: Sequence[str]) -> tuple[str | None, Check]:
    needed = "a NIC that is up, unused and named alike on all nodes"
    try:
        nic, found, fit = _found_nic(api, settings, {node.name for node in nodes}, making)
    except ApiError as error:
        return None, Check("NIC", str(error), needed, fit=False, way_out=error.way_out)
    way_out = "name it with --nic, cable one, or use existing NADs with --nad"
    return nic, Check("NIC", found, needed, fit=fit, way_out=way_out)


def _found_nic(api: Api, settings: Settings, names: set[str], making: Sequence[str]) -> tuple[str | None, str, bool]:
    """Return the NIC to use of the nodes named, what is told of it, and whether it can be used.

    A network of ours that is up, be it of a run that was killed, keeps its NIC: one that others have is not moved.
    Where none is spare, the NIC of the other network is the one to wait for.
    """
    asked = settings.networks.nic
    states = {name: one for one in api.find(NNS) if (name := one["metadata"]["name"]) in names}
    if silent := sorted(names - states.keys()):
        return asked, f"unknown: there is no {NNS.name} of {', '.join(silent)}", False
    there = networks.nics_of(api)
    ours = {
        nic: network
        for network in sorted(NETWORKS, key=lambda network: network in making)
        for nic in sorted(there.get(network, ()))
    }
    spare = nics.spare(list(states.values()))
    known = [nic for nic, network in ours.items() if network in making or spare is None]
    nic = asked or (known[-1] if known else spare)
    if nic is None:
        return None, "none", False
    if lacking := sorted(node for node, state in states.items() if nic not in nics.interfaces(state)):
        return nic, f"{nic}, which {', '.join(lacking)} has not", False
    own = bridge_on(nic) if nic in ours else None
    uses = [f"on {node} it {use}" for node, state in sorted(states.items()) if (use := nics.use_of(nic, state, own))]
    if uses:
        return nic, f"{nic} is in use: {'; '.join(uses)}", False
    return nic, f"{nic}, as asked" if asked else f"{nic}, which {ours[nic]} is on already" if known else nic, True


def _nad(api: Api, name: str) -> Check:
    needed = "it exists in this namespace and has a configuration"
    try:
        found = networks.existing(api, name)
    except StuntimeError as error:
        return Check(f"NAD {name}", str(error), needed, fit=False, way_out=error.way_out)
    told = ", ".join(f"{key} {value}" for key, value in found.configuration.items())
    return Check(f"NAD {name}", told, needed, fit=True)


def _idle(api: Api, settings: Settings, *, owned: bool) -> Check:
    flying = [one for one in api.find(VMIM, everywhere=True) if (one.get("status") or {}).get("phase") not in _OVER]
    ours = [one for one in flying if OURS.items() <= (one["metadata"].get("labels") or {}).items()]
    moving = [f"{one['metadata'].get('namespace')}/{one['metadata']['name']}" for one in flying if one not in ours]
    others = f"{selector(OURS)},!{DEPOSIT_LABEL}" + (f",{RUN_LABEL}!={settings.run_name}" if owned else "")
    left = [
        f"{kind.name} {one['metadata']['name']}" for kind in (VM, CONFIG_MAP) for one in api.find(kind, labels=others)
    ]
    told = [f"migrations in flight: {', '.join(moving)}"] if moving else []
    told += [f"left of other runs, or of runs that go on: {', '.join(left)}"] if left else []
    return Check(
        "idle",
        "; ".join(told) or "nothing moves, nothing is left",
        "no migration in flight",
        fit=not moving,
        way_out="wait for the migrations; `stuntime cleanup --testbed kubevirt` removes what runs left",
        note="measurements of several runs wait for each other" if left or ours else "",
    )


def _image(api: Api, settings: Settings, node: Node) -> Check:
    """Have the image pulled by a pod that cannot do anything else; a containerDisk has nothing to run."""
    image = settings.guest.image
    name = f"stuntime-{settings.run_name}-pull"
    started = time.monotonic()
    try:
        api.create(POD, _pulling(name, image, node, settings))
        try:
            said = _pulled(api, name)
        finally:
            api.lasting(patience_s=2.0).delete(POD, name)
    except ApiError as error:
        return Check("guest image", str(error), f"{image} can be pulled", fit=False, way_out=error.way_out)
    seconds = time.monotonic() - started
    return Check(
        "guest image",
        said or f"{image}, pulled on {node.name} in {seconds:.0f} s",
        "it can be pulled",
        fit=not said,
        way_out="name one that the nodes can pull with --guest-image, or mirror it",
    )


def _pulled(api: Api, name: str) -> str:
    """Wait until a pod's image is there; return why it is not, empty when it is."""
    told = f"it was not pulled within {_PULL_S:g} s"
    for state in api.states(POD, time.monotonic() + _PULL_S, name=name):
        status = (state.get(name) or {}).get("status") or {}
        for container in status.get("containerStatuses") or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            reason = waiting.get("reason", "")
            if reason in _NOT_PULLED:
                return f"{reason}: {' '.join(str(waiting.get('message', '')).split())[:300]}"
            if not waiting or reason not in _STARTING:
                return ""
        if status.get("phase") in _OVER:
            return ""
    return told


def _pulling(name: str, image: str, node: Node, settings: Settings) -> Object:
    container = {
        "name": "image",
        "image": image,
        "command": ["/none"],
        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "nodeSelector": {HOSTNAME: node.hostname},
        "containers": [container],
    }
    return POD.object(name, labels=run_labels(settings.run_name), spec=spec)
