"""A laboratory on the running cluster: a namespace with the least-privilege account, and the product's command there.

What a run leaves in the namespace is looked for as the cluster's admin, who sees more than the account.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from stuntime.errors import TestbedError
from stuntime.kubevirt.kinds import OURS, RUN_LABEL, selector
from stuntime.kubevirt.window import LINE, NAME
from tests.cluster.images import GUEST
from tests.cluster.layout import NODES
from tests.cluster.running import Running
from tests.cluster.vms import network
from tests.sandbox.harness import ROOT, Command, Finished, wait_for

ACCOUNT = "stuntime"
RBAC = ROOT / "tasks" / "rbac"
STUNTIME = (sys.executable, "-m", "stuntime")
#: The product's command line with a capture at the static VM's tap.
MEASURED = (sys.executable, "-m", "tests.cluster.measured")
GUEST_OPTIONS = ("--guest-image", GUEST, "--guest-boot", "kernel", "--guest-memory", "128Mi")

_RUN_S = 300.0
_GONE_S = 60.0
_NIC_S = 300.0
_LOOK_S = 0.3
# Whatever a run could leave. Of the namespaced kinds also what is not labelled: a pod, a VM of somebody else is none.
_NAMESPACED = "vm,vmi,vmim,pods,net-attach-def,configmaps,secrets"
_CLUSTER_WIDE = "nncp,clusteruserdefinednetworks"


@dataclass(frozen=True)
class Lab:
    """A namespace with an account that has the rights of tasks/rbac there, and no others.

    `window` is the namespace of the quiet window's Leases. `kept` are objects of the namespace that are no leftovers.
    """

    cluster: Running
    namespace: str
    window: str
    kubeconfig: Path
    folder: Path
    kept: set[str] = field(default_factory=set)
    _started: list[Command] = field(default_factory=list)
    _number: Iterator[int] = field(default_factory=count)

    @property
    def place(self) -> list[str]:
        """The options that name the cluster, the account and both namespaces."""
        return ["--kubeconfig", str(self.kubeconfig), "--namespace", self.namespace, "--window-namespace", self.window]

    def start(self, *words: str, program: Sequence[str] = STUNTIME) -> Command:
        """Start a command in this place, every step told on stderr: `start("cleanup")`."""
        folder = self.folder / f"command-{next(self._number)}"
        folder.mkdir()
        command = Command([*program, "-v", *words, *self.place], folder, {})
        self._started.append(command)
        return command

    def started(self, command: Command) -> None:
        """See to the end of a command that was started in another way."""
        self._started.append(command)

    def start_measuring(self, *words: str, program: Sequence[str] = STUNTIME) -> Command:
        """Start `run` or `suite` with the guest that this cluster has."""
        return self.start(*words, "--testbed", "kubevirt", *GUEST_OPTIONS, program=program)

    def run(self, *words: str, timeout_s: float = _RUN_S) -> Finished:
        """Run a command in this place to its end."""
        return ended(self.start(*words), timeout_s)

    def measure(self, *words: str, timeout_s: float = _RUN_S, program: Sequence[str] = STUNTIME) -> Finished:
        """Run `run` or `suite` to its end."""
        return ended(self.start_measuring(*words, program=program), timeout_s)

    def use_bridge(self, name: str, bridge: str) -> list[str]:
        """Make a NAD over a bridge that the nodes have; return the option that measures on it."""
        self.apply(network(name, bridge))
        self.kept.add(f"networkattachmentdefinition/{name}")
        return ["--nad", f"linux-bridge={name}"]

    def apply(self, *documents: dict[str, Any]) -> None:
        """Apply objects in the namespace, as the cluster's admin."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(listed))

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl in the namespace, as the cluster's admin."""
        return self.cluster.kubectl("-n", self.namespace, *arguments, stdin=stdin)

    def items(self, what: str, *arguments: str) -> list[dict[str, Any]]:
        """Return the objects of some kinds in the namespace."""
        found: list[dict[str, Any]] = json.loads(self.kubectl("get", what, *arguments, "-o", "json"))["items"]
        return found

    def left(self) -> list[str]:
        """Return what is in the namespace and was not at the beginning, what runs left outside, and who is in line."""
        found = [_told(one) for one in self.items(_NAMESPACED)]
        runs = {run for command in self._started if (run := run_of(command))}
        found += [
            _told(one)
            for one in self.items(_CLUSTER_WIDE, "-l", selector(OURS))
            if one["metadata"]["labels"].get(RUN_LABEL) in runs
        ]
        leases = self.items("leases") if self.window == self.namespace else []
        found += [_told(one) for one in leases if one["metadata"]["name"] != NAME]
        line = next((one for one in leases if one["metadata"]["name"] == NAME), None)
        if line is not None:
            waiting = json.loads(line["metadata"]["annotations"][LINE])
            # What holds off others for a while after a signal stays until it holds up somebody.
            found += [f"in line: {entry}" for entry in waiting if not entry["who"].startswith("tear-down of ")]
        return sorted(set(found) - self.kept)

    def until_nothing_is_left(self, timeout_s: float = _GONE_S) -> None:
        """Wait until nothing is left of the runs in this place."""
        deadline = time.monotonic() + timeout_s
        while left := self.left():
            self.free_kernel_boot()
            assert time.monotonic() < deadline, f"left after {timeout_s:g} s: {left}"
            time.sleep(_LOOK_S)

    def free_kernel_boot(self) -> None:
        """Let pods go that end: KubeVirt 1.7 leaves what it mounted for kernelBoot in a source's node (its defect)."""
        for pod in self.items("pods"):
            if "deletionTimestamp" not in pod["metadata"] or "nodeName" not in pod["spec"]:
                continue
            mounted = f"/{pod['metadata']['uid']}/.*/kernel-boot/"
            script = f"for place in $(grep -o '[^ ]*{mounted}[^ ]*' /proc/mounts); do umount $place; done"
            with suppress(TestbedError):  # it has just been done by the one whose duty it is
                self.cluster.on(pod["spec"]["nodeName"], "sh", "-c", script)

    def end_commands(self) -> None:
        """See to it that every command has ended."""
        for command in self._started:
            command.end()


@contextmanager
def laboratory(cluster: Running, namespace: str, folder: Path, *, window: str | None = None) -> Iterator[Lab]:
    """Hold a laboratory in a namespace of its own; at the end all of it is gone.

    `window` None: the Leases are in the namespace, too, so that other laboratories do not wait for this one.
    """
    window = window or namespace
    folder.mkdir(parents=True, exist_ok=True)
    cluster.kubectl("create", "namespace", namespace)
    lab = None
    try:
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(_rights(namespace, window)))
        kubeconfig = cluster.service_account_kubeconfig(folder / "kubeconfig", ACCOUNT, namespace)
        lab = Lab(cluster, namespace, window, kubeconfig, folder)
        wait_for(lambda: "configmap/kube-root-ca.crt" in lab.left(), "the namespace's own objects", timeout_s=_GONE_S)
        lab.kept.update(lab.left())
        yield lab
    finally:
        if lab is not None:
            lab.end_commands()
        remove_namespace(cluster, namespace, window, lab)


def ended(command: Command, timeout_s: float = _RUN_S) -> Finished:
    """Wait for a command's end."""
    wait_for(lambda: not command.running(), f"the end of {' '.join(command.argv)}", timeout_s=timeout_s)
    return command.finish()


def run_of(command: Command) -> str | None:
    """Return what the objects of a command's run are labelled with; None where it has no output directory."""
    if "--output" not in command.argv:
        return None
    summary = Path(command.argv[command.argv.index("--output") + 1]) / "summary.json"
    if not summary.exists():
        return None
    return str(json.loads(summary.read_text())["plan"]["run"]).lower()


@contextmanager
def bridged(cluster: Running, bridge: str, nic: str) -> Iterator[str]:
    """Make a bridge by hand on every node, with a spare NIC in it; take both away again. Wait until nobody has it."""
    wait_for(lambda: not any(is_taken(cluster, nic)), f"a spare {nic}", timeout_s=_NIC_S)
    for node in NODES:
        cluster.on(node.name, "ip", "link", "add", bridge, "type", "bridge")
        cluster.on(node.name, "ip", "link", "set", nic, "master", bridge)
        cluster.on(node.name, "ip", "link", "set", bridge, "up")
    try:
        yield bridge
    finally:
        for node in NODES:
            cluster.on(node.name, "ip", "link", "delete", bridge)


def is_taken(cluster: Running, nic: str) -> list[bool]:
    """Tell of each node whether a bridge has the NIC."""
    links = [json.loads(cluster.on(node.name, "ip", "-json", "link", "show", nic)) for node in NODES]
    return ["master" in found[0] for found in links]


def _rights(namespace: str, window: str) -> dict[str, Any]:
    """Return the account and its roles: those that are shipped, bound in this place."""
    role, window_role, cluster_role = (
        yaml.safe_load((RBAC / f"{name}.yaml").read_text()) for name in ("role", "window-role", "clusterrole")
    )
    role["metadata"]["namespace"] = namespace
    window_role["metadata"]["namespace"] = window
    window_role["metadata"]["name"] += f"-{namespace}"
    cluster_role["metadata"]["name"] += f"-{namespace}"
    account = {"kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": namespace}}
    bindings = [_binding("RoleBinding", one) for one in (role, window_role)]
    bindings.append(_binding("ClusterRoleBinding", cluster_role))
    for binding in bindings:
        binding["subjects"] = [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}]
    items = [{"apiVersion": "v1", **account}, role, window_role, cluster_role, *bindings]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _binding(kind: str, role: dict[str, Any]) -> dict[str, Any]:
    metadata = {key: value for key, value in role["metadata"].items() if key != "labels"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": metadata["name"]}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": metadata,
        "roleRef": reference,
    }


def remove_namespace(cluster: Running, namespace: str, window: str, lab: Lab | None) -> None:
    """Remove a laboratory's namespace and its rights, and wait until they are gone."""
    name = f"stuntime-{namespace}"
    gone = ["--ignore-not-found", "--wait=false"]
    cluster.kubectl("delete", f"clusterrole/{name}", f"clusterrolebinding/{name}", *gone)
    if window != namespace:
        role = f"stuntime-window-{namespace}"
        cluster.kubectl("delete", "-n", window, f"role/{role}", f"rolebinding/{role}", *gone)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")

    def is_gone() -> bool:
        if not cluster.kubectl("get", "namespace", namespace, "--ignore-not-found"):
            return True
        if lab is not None:
            lab.free_kernel_boot()
        return False

    wait_for(is_gone, f"the end of namespace {namespace}", timeout_s=2 * _GONE_S)


def _told(one: dict[str, Any]) -> str:
    return f"{one['kind'].lower()}/{one['metadata']['name']}"
