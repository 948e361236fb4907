"""VMs for the tests of the cluster itself: the sandbox's guest on one network, and its console."""

import json
import re
import ssl
import time
from typing import Any

import websocket

from stuntime.errors import TestbedError
from tests.cluster.images import GUEST
from tests.cluster.running import Running

_PROTOCOL = "plain.kubevirt.io"


def network(name: str, bridge: str) -> dict[str, Any]:
    """Return a network over a Linux bridge of the nodes."""
    plugin = {"type": "bridge", "bridge": bridge, "disableContainerInterface": True, "ipam": {}}
    return {
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": name},
        "spec": {"config": json.dumps({"cniVersion": "0.3.1", "name": name, "plugins": [plugin]})},
    }


def vm(name: str, network_name: str, address: str, node: str) -> dict[str, Any]:
    """Return a VM with one NIC that prefers a node."""
    prefers = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    boot = {
        "container": {"image": GUEST, "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd.img"},
        "kernelArgs": f"console=ttyS0 quiet vm_name={name} vm_ipv4={address}/24 vm_ipv6=fd00::{address[-1]}/64",
    }
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "evictionStrategy": "LiveMigrate",
            "affinity": {
                "nodeAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 100, "preference": {"matchExpressions": [prefers]}}
                    ]
                }
            },
            "domain": {
                "memory": {"guest": "160Mi"},
                "firmware": {"kernelBoot": boot},
                "devices": {"interfaces": [{"name": "net", "bridge": {}}]},
            },
            "networks": [{"name": "net", "multus": {"networkName": network_name}}],
        },
    }


def migration(name: str, target: str) -> dict[str, Any]:
    """Return a migration of a VM to a node."""
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstanceMigration",
        "metadata": {"generateName": f"{name}-"},
        "spec": {"vmiName": name, "addedNodeSelector": {"kubernetes.io/hostname": target}},
    }


def typed(cluster: Running, namespace: str, name: str, command: str, answer: str, timeout_s: float) -> str:
    """Type a command at a VM's console until what comes back holds the answer; return what came back."""
    user = json.loads(cluster.kubeconfig.read_text())["users"][0]["user"]
    path = f"apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances/{name}/console"
    connection = websocket.create_connection(
        f"wss://127.0.0.1:{cluster.port}/{path}",
        subprotocols=[_PROTOCOL],
        header={"Authorization": f"Bearer {user['token']}"},
        sslopt={"ca_certs": str(cluster.layout.secrets / "ca.crt"), "cert_reqs": ssl.CERT_REQUIRED},
        timeout=2,
    )
    deadline, seen, again = time.monotonic() + timeout_s, "", 0.0
    try:
        while not re.search(answer, seen):
            if time.monotonic() > deadline:
                raise TestbedError(f"{name} did not answer {command!r}: {seen[-1000:]}", "look at its console")
            if time.monotonic() > again:
                connection.send_binary(f"\n{command}\n".encode())
                again = time.monotonic() + 10
            try:
                seen += connection.recv().decode(errors="replace")
            except websocket.WebSocketTimeoutException:
                continue
    finally:
        connection.close()
    return seen
