"""The shipped pipeline, installed on the running cluster for tests, and started as a person starts it: by tkn."""

import json
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from stuntime.kubevirt.kinds import RUN_LABEL
from tests.cluster import tekton
from tests.cluster.images import GUEST
from tests.cluster.lab import ACCOUNT, Lab, ended, remove_namespace
from tests.cluster.layout import SPARE_NICS
from tests.cluster.running import Running
from tests.image.build import image
from tests.sandbox.harness import ROOT, Command, Finished, wait_for

PIPELINE = "stuntime"
RUN_S = 600.0
#: KubeVirt 1.7 loses about one migration in twenty: its handlers race, and the VM has moved but the end is never told.
LOST = "migration-timeout"
_TRIES = 3
_ALL_S = 1800.0
#: The defaults that this laboratory changes: no fedora here, and a spare NIC that another run may hold for a while.
_LABORATORY = {
    "guest-image": GUEST,
    "guest-boot": "kernel",
    "guest-memory": "160Mi",
    "nic": SPARE_NICS[0],
    "nic-wait": "600",
    "boot-timeout": "240",
    "concurrency": "1",  # what two cores measure without noise
}
ONE_SCENARIO = {"networks": "linux-bridge", "paths": "from-static-node", "initiators": "static"}
SCENARIO = "linux-bridge.from-static-node.static.ipv4"

_SHIPPED = ("kustomization.yaml", "namespace.yaml", "tasks", "pipelines")
TKN = ("--use-param-defaults", "--showlog", "-E")
_LEFT = "vm,vmi,vmim,net-attach-def"
_STARTED_S = 60.0


@dataclass(frozen=True)
class Pipeline:
    """The pipeline in a namespace. `lab` is the product's command there, with the rights that are shipped."""

    lab: Lab
    _number: Iterator[int] = field(default_factory=count)

    def start(self, *options: str, params: dict[str, str], pod: dict[str, Any] | None = None) -> tuple[str, Command]:
        """Start it with some parameters other than their defaults; return the PipelineRun's name and tkn."""
        folder = self.lab.folder / f"tkn-{next(self._number)}"
        folder.mkdir()
        prefix = f"run-{time.monotonic_ns() // 1_000_000}"
        given = [word for key, value in params.items() for word in ("-p", f"{key}={value}")]
        if pod is not None:
            template = folder / "pod.yaml"
            template.write_text(json.dumps({"securityContext": pod}))
            given += ["--pod-template", str(template)]
        argv = self.tkn("pipeline", "start", PIPELINE, *TKN, "-s", ACCOUNT, "--prefix-name", prefix, *given, *options)
        command = Command(argv, folder, {})
        self.lab.started(command)

        def found() -> list[str]:
            names = [one["metadata"]["name"] for one in self.lab.items("pipelineruns")]
            return [name for name in names if name.startswith(prefix)]

        wait_for(lambda: found() or not command.running(), f"the PipelineRun {prefix}", timeout_s=_STARTED_S)
        assert found(), command.finish()
        return found()[0], command

    def run(self, *options: str, params: dict[str, str], pod: dict[str, Any] | None = None) -> tuple[str, Finished]:
        """Run it to its end, again where KubeVirt lost a migration; return the PipelineRun's name and what tkn said."""
        for _ in range(_TRIES):
            name, command = self.start(*options, params=params, pod=pod)
            told = ended(command, RUN_S)
            if not told.code or LOST not in told.stdout:
                break
        return name, told

    def task(self, name: str, **params: str) -> tuple[bool, Finished]:
        """Run a task by itself to its end; return whether it succeeded, and what tkn said."""
        (found,) = [one for one in self.lab.items("tasks") if one["metadata"]["name"] == name]
        known = {one["name"] for one in found["spec"]["params"]}
        given = {key: value for key, value in _LABORATORY.items() if key in known}
        given |= {key.replace("_", "-"): value for key, value in params.items()}
        words = [word for key, value in given.items() for word in ("-p", f"{key}={value}")]
        argv = self.tkn("task", "start", name, "--use-param-defaults", "--skip-optional-workspace", "--showlog")
        command = Command([*argv, "-s", ACCOUNT, *words], self._folder(), {})
        self.lab.started(command)
        told = ended(command, RUN_S)
        (run,) = re.findall(r"TaskRun started: (\S+)", told.stdout)
        conditions = [
            one["status"]["conditions"][0] for one in self.lab.items("taskruns") if one["metadata"]["name"] == run
        ]
        return conditions[0]["status"] == "True", told

    def run_by_the_bare_command(self) -> Finished:
        """Run it to its end with nothing but defaults, and nobody to answer a question; return what tkn said."""
        command = Command(self.tkn("pipeline", "start", PIPELINE, *TKN), self._folder(), {})
        self.lab.started(command)
        return ended(command, _ALL_S)

    def run_sample(self, name: str) -> tuple[str, Finished]:
        """Run a sample PipelineRun to its end; return its name and its logs."""
        sample = ROOT / "pipelines" / "samples" / name
        run = self.lab.kubectl("create", "-f", str(sample), "-o", "name").strip().rpartition("/")[2]
        command = Command(self.tkn("pipelinerun", "logs", "--follow", run), self._folder(), {})
        self.lab.started(command)
        return run, ended(command, _ALL_S)

    def give_volume(self, claim: str, path: str) -> None:
        """Give the pipeline its workspace, and a claim of a folder that is on each node, for anybody to write to."""
        patch = ("--type=json", f"--patch-file={ROOT / 'pipelines' / 'results-workspace.yaml'}")
        self.lab.kubectl("patch", "pipeline", PIPELINE, *patch)
        size, modes = {"storage": "1Gi"}, ["ReadWriteOnce"]
        volume = {"capacity": size, "accessModes": modes, "hostPath": {"path": path}, "storageClassName": ""}
        claimed = {"resources": {"requests": size}, "accessModes": modes, "storageClassName": "", "volumeName": claim}
        made = (
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": claim}, "spec": volume},
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": claim, "namespace": self.lab.namespace},
                "spec": claimed,
            },
        )
        self.lab.cluster.kubectl("create", "-f", "-", stdin=_listed(made))
        for node in self.lab.cluster.nodes:
            self.lab.cluster.on(node, "install", "--directory", "--mode=777", path)

    def cancel(self, run: str) -> None:
        """Cancel a run as the README says, so that it is still reported."""
        done = Command(self.tkn("pipelinerun", "cancel", run, "--grace", "CancelledRunFinally"), self._folder(), {})
        assert done.finish().code == 0

    def reason(self, run: str) -> str:
        """Return how a PipelineRun ended, as Tekton says it."""
        (found,) = [one for one in self.lab.items("pipelineruns") if one["metadata"]["name"] == run]
        return str(found["status"]["conditions"][0]["reason"])

    def tasks(self, run: str) -> dict[str, str]:
        """Return how each TaskRun of a run ended, by the name of its task in the pipeline."""
        found = self.lab.items("taskruns", "-l", f"tekton.dev/pipelineRun={run}")
        label = "tekton.dev/pipelineTask"
        return {one["metadata"]["labels"][label]: one["status"]["conditions"][0]["reason"] for one in found}

    def evict(self, run: str, **params: str) -> None:
        """Evict the pod of a scenario's TaskRun that was given some parameters."""
        (task,) = [
            one
            for one in self.lab.items("taskruns", "-l", f"tekton.dev/pipelineRun={run}")
            if params.items() <= {param["name"]: param["value"] for param in one["spec"].get("params", [])}.items()
        ]
        pod = task["status"]["podName"]
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        place = f"/api/v1/namespaces/{self.lab.namespace}/pods/{pod}/eviction"
        self.lab.cluster.kubectl("create", "--raw", place, "-f", "-", stdin=json.dumps(body))

    def pods(self, run: str) -> list[dict[str, Any]]:
        """Return the pods of a run."""
        return self.lab.items("pods", "-l", f"tekton.dev/pipelineRun={run}")

    def verdicts(self, run: str, folder: Path) -> dict[str, str]:
        """Fetch a run's results from the cluster and return each scenario's verdict."""
        self.lab.run("fetch", run, "--output", str(folder))
        told = json.loads((folder / "aggregate.json").read_text())
        return {one["scenario"]: one["verdict"] for one in told["scenarios"]}

    def left(self, run: str) -> list[str]:
        """Return what a run has left of VMs and networks."""
        found = self.lab.items(_LEFT) + self.lab.items("nncp,clusteruserdefinednetworks", "-l", f"{RUN_LABEL}={run}")
        return [f"{one['kind']}/{one['metadata']['name']}" for one in found]

    def until_nothing_is_left(self, run: str) -> None:
        """Wait until the VMs of a run, which are deleted in the background, are gone."""

        def is_gone() -> bool:
            self.lab.free_kernel_boot()
            return not self.left(run)

        wait_for(is_gone, f"the end of {self.left(run)}", timeout_s=_STARTED_S)

    def _folder(self) -> Path:
        folder = self.lab.folder / f"tkn-{next(self._number)}"
        folder.mkdir()
        return folder

    def tkn(self, *words: str) -> list[str]:
        """Return a command of tkn in this namespace."""
        return [str(tekton.tkn()), f"--kubeconfig={self.lab.cluster.kubeconfig}", "-n", self.lab.namespace, *words]


@contextmanager
def installed(cluster: Running, namespace: str, folder: Path, *, enforce: str) -> Iterator[Pipeline]:
    """Hold the pipeline in a namespace of its own that enforces a Pod Security Standard; take it away again."""
    tekton.deploy(cluster)
    documents = rendered(namespace, folder)
    (pipeline,) = [one for one in documents if one["kind"] == "Pipeline"]
    params = {one["name"]: one for one in pipeline["spec"]["params"]}
    for name, default in _LABORATORY.items():
        params[name]["default"] = default
    cluster.import_image(image().archive, params["image"]["default"])
    missing = [one for one in documents if one["metadata"].get("namespace") != namespace and not _exists(cluster, one)]
    cluster.kubectl("create", "namespace", namespace)
    lab = None
    try:
        cluster.kubectl("label", "namespace", namespace, f"pod-security.kubernetes.io/enforce={enforce}")
        cluster.kubectl("create", "serviceaccount", tekton.ACCOUNT, "-n", namespace)
        cluster.kubectl("apply", "-f", "-", stdin=_listed(documents))
        kubeconfig = cluster.service_account_kubeconfig(folder / "kubeconfig", ACCOUNT, namespace)
        lab = Lab(cluster, namespace, "stuntime", kubeconfig, folder)
        yield Pipeline(lab)
    finally:
        if lab is not None:
            lab.end_commands()
            cluster.kubectl("delete", "-n", namespace, "pipelineruns", "--all", "--timeout=60s")
        cluster.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", stdin=_listed(missing))
        remove_namespace(cluster, namespace, namespace, lab)


def rendered(namespace: str, folder: Path) -> list[dict[str, Any]]:
    """Return what `oc apply -k .` applies, for another namespace; its bindings are named so that others' stay."""
    tree = folder / "shipped"
    tree.mkdir(parents=True)
    for name in _SHIPPED:
        source = ROOT / name
        shutil.copytree(source, tree / name) if source.is_dir() else shutil.copy(source, tree / name)
    transformer = yaml.safe_load((tree / "namespace.yaml").read_text())
    transformer["metadata"]["namespace"] = namespace
    (tree / "namespace.yaml").write_text(yaml.safe_dump(transformer))
    done = Command(("kubectl", "kustomize", str(tree)), folder, {}).finish()
    assert done.code == 0, done.stderr
    documents = [one for one in yaml.safe_load_all(done.stdout) if one]
    for one in documents:
        if one["kind"].endswith("Binding"):
            one["metadata"]["name"] += f"-{namespace}"
    return documents


def _exists(cluster: Running, document: dict[str, Any]) -> bool:
    metadata = document["metadata"]
    place = ["-n", metadata["namespace"]] if "namespace" in metadata else []
    return bool(cluster.kubectl("get", document["kind"], metadata["name"], "--ignore-not-found", "-o", "name", *place))


def _listed(documents: Sequence[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
