"""The work inside the cluster's namespaces: everything is started from here, in order, and then kept."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stuntime.sandbox.namespaces import HOST_PID
from stuntime.sandbox.process import Process
from tests.cluster.control_plane import kubectl, make_networks, make_secrets, start_control_plane, wait_until
from tests.cluster.forward import forward
from tests.cluster.kubevirt import deploy_kubevirt
from tests.cluster.layout import CONTROL_IP, NODES, Layout
from tests.cluster.node import entering, import_images, start_node
from tests.cluster.say import say
from tests.cluster.standin import stand_ins

_NODES_S = 120.0
_MANIFESTS = Path(__file__).parent / "manifests"
_CONTROL_PLANE_LABEL = "node-role.kubernetes.io/control-plane="


@dataclass(frozen=True)
class Built:
    """What has been built before."""

    etcd: Path
    kubernetes: Path
    cni: Path
    multus: Path
    kubevirt: Path
    small_images: Path
    kubevirt_images: Path


def be_cluster(layout: Layout, built: Built, listener: socket.socket) -> int:
    """Start everything and stay until a signal ends this process."""
    make_networks()
    make_secrets(layout, port=listener.getsockname()[1])
    say("certificates made")
    started = start_control_plane(layout, built.etcd, built.kubernetes)
    threading.Thread(target=forward, args=(listener, (CONTROL_IP, 443)), daemon=True).start()
    say("the API server answers")
    _apply(layout)
    nodes = {node.name: start_node(layout, node, [built.cni, built.multus]) for node in NODES}
    _note(layout, nodes, listener, phase="starting")
    started += nodes.values()
    _import_in_all(nodes, built.small_images)
    for node in NODES:
        wait_until(lambda name=node.name: _registered(layout, name), node.name, _NODES_S, started)
        kubectl(layout, "label", "node", node.name, _CONTROL_PLANE_LABEL, "node-role.kubernetes.io/worker=")
    kubectl(layout, "wait", "--for=condition=Ready", "nodes", "--all", f"--timeout={_NODES_S:.0f}s", timeout_s=_NODES_S)
    say("the nodes are ready")
    helpers = [sys.executable, "-m", "tests.cluster.services", str(layout.home)]
    started.append(Process("stand-ins", helpers, layout.logs / "control.log"))
    _import_in_all(nodes, built.kubevirt_images)
    say("KubeVirt's images are in all nodes")
    deploy_kubevirt(layout, built.kubevirt / "files")
    say("KubeVirt is deployed")
    _note(layout, nodes, listener, phase="running")
    return _watch(started)


def _apply(layout: Layout) -> None:
    manifests = [_MANIFESTS / "multus.yaml", *(path for stand_in in stand_ins() for path in stand_in.manifests)]
    for manifest in manifests:
        kubectl(layout, "apply", "-f", str(manifest))
    kubectl(layout, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")


def _registered(layout: Layout, name: str) -> bool:
    return name in kubectl(layout, "get", "nodes", "-o", "name")


def _import(process: Process, archive: Path) -> None:
    socket_there = [*entering(process.pid), "test", "-S", "/run/containerd/containerd.sock"]

    def answers() -> bool:
        return subprocess.run(socket_there, capture_output=True, check=False).returncode == 0

    wait_until(answers, f"{process.name}'s containerd", _NODES_S, [process])
    import_images(process.pid, archive)


def _import_in_all(nodes: Mapping[str, Process], archive: Path) -> None:
    with ThreadPoolExecutor() as pool:
        for finished in [pool.submit(_import, process, archive) for process in nodes.values()]:
            finished.result()


def _note(layout: Layout, nodes: Mapping[str, Process], listener: socket.socket, *, phase: str) -> None:
    """Say how the cluster is reached, at once or not at all."""
    state = {
        "phase": phase,
        "first": int(os.environ[HOST_PID]),
        "nodes": {name: process.pid for name, process in nodes.items()},
        "port": listener.getsockname()[1],
    }
    new = layout.state.with_suffix(".new")
    new.write_text(json.dumps(state, indent=2) + "\n")
    new.rename(layout.state)


def _watch(started: Sequence[Process]) -> int:
    while all(process.running() for process in started):
        time.sleep(1)
    for process in started:
        if not process.running():
            say(f"{process.name} has ended: {process.last_words()}")
    return 1
