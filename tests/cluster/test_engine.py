"""The cluster itself: what the tests of the product on it can rely on."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stuntime.sandbox.process import run
from tests.cluster.layout import NODES, SPARE_NICS
from tests.cluster.oci import Image, write_archive, write_layer
from tests.cluster.parts import ENGINE
from tests.cluster.running import Running
from tests.cluster.vms import migration, network, typed, vm

_RUNNING_S = 90
_MIGRATED_S = 90
_BRIDGE = "br-engine"


@pytest.fixture
def bridge(cluster: Running) -> Iterator[str]:
    """Make a bridge by hand on every node, with the second spare NIC in it; take both away again."""
    nic = SPARE_NICS[1]
    for node in NODES:
        cluster.on(node.name, "ip", "link", "add", _BRIDGE, "type", "bridge")
        cluster.on(node.name, "ip", "link", "set", nic, "master", _BRIDGE)
        cluster.on(node.name, "ip", "link", "set", _BRIDGE, "up")
    yield _BRIDGE
    for node in NODES:
        cluster.on(node.name, "ip", "link", "delete", _BRIDGE)


def test_nodes_are_ready(cluster: Running) -> None:
    """All nodes are Ready, and are the ones that are documented."""
    nodes = _get(cluster, "nodes")["items"]
    ready = {
        node["metadata"]["name"]
        for node in nodes
        for condition in node["status"]["conditions"]
        if (condition["type"], condition["status"]) == ("Ready", "True")
    }
    assert ready == {node.name for node in NODES}


def test_every_node_has_the_spare_nics(cluster: Running) -> None:
    """Each node has the spare NICs by the same names, and they are up."""
    for node in NODES:
        for nic in SPARE_NICS:
            assert "UP" in cluster.on(node.name, "ip", "-brief", "link", "show", nic)


def test_kubevirt_is_deployed(cluster: Running) -> None:
    """KubeVirt's operator says Deployed, and every pod of it is ready."""
    assert _get(cluster, "kubevirts", "kubevirt", namespace="kubevirt")["status"]["phase"] == "Deployed"
    for pod in _get(cluster, "pods", namespace="kubevirt")["items"]:
        assert all(container["ready"] for container in pod["status"]["containerStatuses"]), pod["metadata"]["name"]


def test_two_vms_talk_and_one_moves_where_it_is_told(cluster: Running, namespace: str, bridge: str) -> None:
    """Two VMs reach each other over a bridge, before and after one of them moves to the node that is named."""
    _apply(cluster, namespace, network("lan", bridge))
    _apply(cluster, namespace, vm("one", "lan", "192.168.77.1", "node-a"))
    _apply(cluster, namespace, vm("two", "lan", "192.168.77.2", "node-b"))
    homes = {name: _running_on(cluster, namespace, name) for name in ("one", "two")}
    _assert_pings(cluster, namespace)
    target = next(node.name for node in NODES if node.name not in homes.values())

    made = cluster.kubectl(
        "create", "-n", namespace, "-f", "-", "-o", "name", stdin=json.dumps(migration("two", target))
    )

    _wait_until(lambda: _phase(cluster, namespace, made.strip()) == "Succeeded", made, _MIGRATED_S)
    assert _get(cluster, "vmi", "two", namespace=namespace)["status"]["nodeName"] == target
    _assert_pings(cluster, namespace)


def test_an_image_can_be_brought_at_run_time(cluster: Running, namespace: str, tmp_path: Path) -> None:
    """An image that is imported while the cluster runs starts on every node, asked for by tag."""
    name, layer, archive = f"stuntime.test/{namespace}:1", tmp_path / "layer.tar", tmp_path / "image.tar"
    pause = tmp_path / "root" / "pause"
    pause.parent.mkdir()
    run(["gcc", "-static", "-o", str(pause), str(ENGINE / "pause" / "pause.c")])
    write_layer(pause.parent, layer)
    write_archive([Image("stuntime.test/other:1", [layer], {"Entrypoint": ["/pause"]})], archive)

    cluster.import_image(archive, name)

    for node in NODES:
        spec = {"nodeName": node.name, "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": name}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": node.name}, "spec": spec}
        _apply(cluster, namespace, pod)
    for node in NODES:
        _wait_until(lambda pod=f"pod/{node.name}": _phase(cluster, namespace, pod) == "Running", node.name, _RUNNING_S)


def test_an_account_without_rights_is_denied(cluster: Running, namespace: str, tmp_path: Path) -> None:
    """A ServiceAccount that nobody gave a right may not list VMs, and is told so by the API server."""
    cluster.kubectl("create", "serviceaccount", "nobody", "-n", namespace)
    kubeconfig = cluster.service_account_kubeconfig(tmp_path / "kubeconfig", "nobody", namespace)
    argv = ["kubectl", f"--kubeconfig={kubeconfig}", "get", "virtualmachines"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert f"system:serviceaccount:{namespace}:nobody" in done.stderr


def test_pod_security_is_enforced(cluster: Running, namespace: str) -> None:
    """A namespace that asks for the restricted profile refuses a privileged pod."""
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    container = {"name": "c", "image": "stuntime.test/pause:1", "securityContext": {"privileged": True}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}
    argv = ["kubectl", f"--kubeconfig={cluster.kubeconfig}", "apply", "-n", namespace, "-f", "-"]
    done = subprocess.run(argv, input=json.dumps(pod), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "violates PodSecurity" in done.stderr


def _get(cluster: Running, *what: str, namespace: str = "default") -> Any:
    return json.loads(cluster.kubectl("get", *what, "-n", namespace, "-o", "json"))


def _apply(cluster: Running, namespace: str, document: dict[str, Any]) -> None:
    cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(document))


def _phase(cluster: Running, namespace: str, name: str) -> str:
    return cluster.kubectl("get", name, "-n", namespace, "-o", "jsonpath={.status.phase}")


def _running_on(cluster: Running, namespace: str, name: str) -> str:
    _wait_until(lambda: _phase(cluster, namespace, f"vmi/{name}") == "Running", name, _RUNNING_S)
    return _get(cluster, "vmi", name, namespace=namespace)["status"]["nodeName"]


def _assert_pings(cluster: Running, namespace: str) -> None:
    """Let one ping the other until it answers: they need some seconds to boot."""
    typed(cluster, namespace, "one", "/bin/ping -c 3 192.168.77.2", r"[1-3] received", _RUNNING_S)


def _wait_until(good: Any, what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not good():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s} s"
        time.sleep(0.5)
