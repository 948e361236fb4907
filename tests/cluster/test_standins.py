"""The stand-ins on the running cluster, and two VMs on the localnet that they make."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websocket import WebSocketException

from stuntime.errors import TestbedError
from stuntime.sandbox.process import run
from tests.cluster.images import GUEST
from tests.cluster.layout import SPARE_NICS
from tests.cluster.running import Running
from tests.cluster.standins.localnet import LABEL
from tests.cluster.vms import typed

_BRIDGE, _SWITCH, _PHYSICAL = "br-standin", "br-standin-loc", "standin-physnet"
_NAMESPACE, _NETWORK = "standins", "standin-net"
_ADDRESSES = {"still": ("192.168.77.1", "fd77::1"), "moving": ("192.168.77.2", "fd77::2")}
_MACS = {"still": "02:00:00:77:00:01", "moving": "02:00:00:77:00:02"}
_PROMPT_S, _MINUTES_S = 60.0, 240.0
_LOOK_S = 0.05


class Lab:
    """What the tests ask of the running cluster."""

    def __init__(self, cluster: Running) -> None:
        self.running = cluster
        self.nodes = sorted(cluster.nodes)

    def apply(self, document: dict[str, Any]) -> None:
        self.running.kubectl("apply", "-f", "-", stdin=json.dumps(document))

    def get(self, *what: str) -> dict[str, Any]:
        return json.loads(self.running.kubectl("get", *what, "-o", "json"))

    def policy(self, name: str, desired: dict[str, Any], **spec: Any) -> dict[str, Any]:
        """Apply a policy and return it when it is Available or Degraded in this generation on all its nodes."""
        kind = {"apiVersion": "nmstate.io/v1", "kind": "NodeNetworkConfigurationPolicy"}
        self.apply({**kind, "metadata": {"name": name}, "spec": {"desiredState": desired, **spec}})

        def done() -> dict[str, Any] | None:
            policy = self.get("nncp", name)
            enactments = self.get("nnce", "-l", f"nmstate.io/policy={name}")["items"]
            told = [(each.get("status", {}).get("policyGeneration"), _holding(each)) for each in enactments]
            ended = all(
                generation == policy["metadata"]["generation"] and holds[0]["type"] != "Progressing"
                for generation, holds in told
            )
            return policy if told and ended and _holding(policy)[0]["type"] != "Progressing" else None

        return _wait(done, f"policy {name}", _PROMPT_S)

    def spare_nic(self) -> str | None:
        """Return a NIC that no bridge of any node has: others may use the cluster, too."""
        states = [self.get("nns", node)["status"]["currentState"]["interfaces"] for node in self.nodes]
        used = {each["name"] for state in states for each in state if "controller" in each}
        return next((nic for nic in SPARE_NICS if nic not in used), None)

    def links(self, node: str) -> dict[str, Any]:
        return {link["ifname"]: link for link in json.loads(self.running.on(node, "ip", "-json", "link"))}

    def ports(self) -> dict[str, bool]:
        """Return which logical ports of the namespace's pods are enabled, by pod."""
        columns = ["--bare", "--format=csv", "--no-headings", "--columns=name,enabled"]
        database = "--db=unix:/run/stand-ins/ovn/nb.sock"
        listed = run([*self.running.entering(), "ovn-nbctl", database, *columns, "list", "Logical_Switch_Port"]).split()
        rows = [line.split(",") for line in listed if line.startswith(f"{_NAMESPACE}.{_NETWORK}_")]
        return {name.rpartition("_")[2]: enabled == "true" for name, enabled in rows}

    def hears(self, vm: str, address: str, timeout_s: float = _PROMPT_S) -> bool:
        """Say whether a VM hears all of three probes back."""
        ping = f"/bin/ping -c 3 -i 0.2 -W 5 {address}"
        return "3 received" in typed(self.running, _NAMESPACE, vm, ping, r"\d received", timeout_s)

    def runs(self, vm: str) -> bool:
        return self.get("vmi", "-n", _NAMESPACE, vm)["status"].get("phase") == "Running"

    def node_of(self, vm: str) -> str | None:
        return self.get("vmi", "-n", _NAMESPACE, vm)["status"].get("nodeName")


@pytest.fixture(scope="module")
def lab(cluster: Running) -> Lab:
    """Return the running cluster as these tests see it."""
    return Lab(cluster)


@pytest.fixture
def nic(lab: Lab) -> str:
    """Return a NIC for one test."""
    return _wait(lab.spare_nic, "a spare NIC", _MINUTES_S)


@pytest.fixture(scope="module")
def network(lab: Lab) -> Iterator[Lab]:
    """Make a localnet over a spare NIC, and a namespace that has it."""
    nic = _wait(lab.spare_nic, "a spare NIC", _MINUTES_S)
    desired = {
        "interfaces": [{"name": _SWITCH, "type": "ovs-bridge", "state": "up", "bridge": {"port": [{"name": nic}]}}],
        "ovn": {"bridge-mappings": [{"localnet": _PHYSICAL, "bridge": _SWITCH, "state": "present"}]},
    }
    absent = {
        "interfaces": [{"name": _SWITCH, "type": "ovs-bridge", "state": "absent"}],
        "ovn": {"bridge-mappings": [{"localnet": _PHYSICAL, "state": "absent"}]},
    }
    labels = {"standin": "yes"}
    localnet = {"role": "Secondary", "physicalNetworkName": _PHYSICAL, "ipam": {"mode": "Disabled"}}
    spec = {"namespaceSelector": {"matchLabels": labels}, "network": {"topology": "Localnet", "localnet": localnet}}
    with _policy(lab, "standin-localnet", desired, absent):
        lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE, "labels": labels}})
        kind = {"apiVersion": "k8s.ovn.org/v1", "kind": "ClusterUserDefinedNetwork"}
        try:
            lab.apply({**kind, "metadata": {"name": _NETWORK}, "spec": spec})
            yield lab
        finally:
            lab.running.kubectl("delete", "namespace", _NAMESPACE)
            lab.running.kubectl("delete", "clusteruserdefinednetwork", _NETWORK)


@pytest.fixture(scope="module")
def pair(network: Lab) -> Iterator[Lab]:
    """Two VMs on two nodes whose only network is the localnet."""
    _wait(lambda: _created(network), "the network", _PROMPT_S)
    for name, node in (("still", "node-a"), ("moving", "node-b")):
        network.apply(_vm(name, node))
    for name in _ADDRESSES:
        _wait(lambda name=name: network.runs(name) and network.hears(name, "127.0.0.1"), name, _MINUTES_S)
    yield network
    network.running.kubectl("delete", "vm", "-n", _NAMESPACE, *_ADDRESSES)


def test_bridge_comes_and_goes(lab: Lab, nic: str):
    """A policy makes a bridge over the NIC of every node, as the nodes' states say too; `absent` removes it."""
    bridge = {"options": {"stp": {"enabled": False}}, "port": [{"name": nic}]}
    wanted = {"interfaces": [{"name": _BRIDGE, "type": "linux-bridge", "state": "up", "bridge": bridge}]}
    absent = {"interfaces": [{"name": _BRIDGE, "type": "linux-bridge", "state": "absent"}]}
    with _policy(lab, "standin-bridge", wanted, absent) as policy:
        said = [(each["type"], each["reason"], each["message"]) for each in _holding(policy)]
        assert said == [("Available", "SuccessfullyConfigured", "3/3 nodes successfully configured")]
        for node in lab.nodes:
            assert lab.links(node)[nic]["master"] == _BRIDGE
            interfaces = lab.get("nns", node)["status"]["currentState"]["interfaces"]
            assert bridge in [each.get("bridge") for each in interfaces if each["name"] == _BRIDGE]
        lab.running.kubectl("delete", "nncp", "standin-bridge")
        assert _BRIDGE in lab.links("node-a"), "deleting a policy undoes nothing"
    assert [node for node in lab.nodes if _BRIDGE in lab.links(node)] == []


def test_missing_nic_is_degraded(lab: Lab):
    """A policy with a NIC that a node lacks is Degraded there, the enactment says why, and nothing of it stays."""
    bridge = {"name": _BRIDGE, "type": "linux-bridge", "state": "up", "bridge": {"port": [{"name": "nic77"}]}}
    selector = {"kubernetes.io/hostname": "node-b"}
    try:
        policy = lab.policy("standin-missing", {"interfaces": [bridge]}, nodeSelector=selector)
        (degraded,) = _holding(policy)
        told = (degraded["type"], degraded["reason"], degraded["message"])
        assert told == ("Degraded", "FailedToConfigure", "1/1 nodes failed to configure")
        (failing,) = _holding(lab.get("nnce", "node-b.standin-missing"))
        assert failing["type"] == "Failing"
        assert "no interface nic77" in failing["message"]
        assert _BRIDGE not in lab.links("node-b")
    finally:
        lab.running.kubectl("delete", "nncp", "standin-missing")


def test_policy_in_progress_cannot_be_changed(lab: Lab):
    """A policy that nodes are at, or have not begun with, takes no other spec, as with the webhook of NMState."""
    kind = {
        "apiVersion": "nmstate.io/v1",
        "kind": "NodeNetworkConfigurationPolicy",
        "metadata": {"name": "standin-busy"},
    }
    specs = [{"desiredState": {"interfaces": []}, "maxUnavailable": limit} for limit in (1, 2)]
    try:
        with pytest.raises(TestbedError, match="policy standin-busy is still in progress"):
            lab.apply({"apiVersion": "v1", "kind": "List", "items": [{**kind, "spec": spec} for spec in specs]})
        lab.policy("standin-busy", {"interfaces": []}, maxUnavailable=3)
    finally:
        lab.running.kubectl("delete", "nncp", "standin-busy")


def test_network_makes_definitions(network: Lab):
    """A ClusterUserDefinedNetwork has a definition in each namespace that it selects, and says so."""
    condition = _wait(lambda: _created(network), "NetworkCreated", _PROMPT_S)
    assert condition["reason"] == "NetworkAttachmentDefinitionCreated"
    assert _NAMESPACE in condition["message"]
    definition = network.get("net-attach-def", "-n", _NAMESPACE, _NETWORK)
    assert LABEL in definition["metadata"]["labels"]
    assert json.loads(definition["spec"]["config"])["physicalNetworkName"] == _PHYSICAL


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_localnet_reaches_across_nodes(pair: Lab, family: int):
    """Two VMs on different nodes reach each other over the localnet, by IPv4 and by IPv6."""
    assert pair.node_of("still") != pair.node_of("moving")
    assert _wait(lambda: pair.hears("still", _ADDRESSES["moving"][family]), "an answer", _PROMPT_S)


def test_migration_is_handed_over(pair: Lab):
    """The target's port is disabled until KubeVirt calls it ready; then it is enabled, and the source's disabled."""
    source, seen, target = _pods(pair)[0], [], ""
    kind = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration"}
    spec = {"vmiName": "moving", "addedNodeSelector": {"kubernetes.io/hostname": "node-c"}}
    pair.apply({**kind, "metadata": {"name": "moving", "namespace": _NAMESPACE}, "spec": spec})
    deadline = time.monotonic() + _MINUTES_S
    ports: dict[str, bool] = {}
    while time.monotonic() < deadline and not (ports.get(target) and pair.node_of("moving") == "node-c"):
        ports = pair.ports()
        target = target or next((pod for pod in _pods(pair) if pod != source), "")
        state = (ports.get(source), ports.get(target))
        if state not in seen[-1:]:
            seen.append(state)
        time.sleep(_LOOK_S)
    _wait(lambda: pair.ports().get(target) and source not in pair.ports(), "the source's end", _PROMPT_S)
    without_target = (True, None)
    assert [state for state in seen if state != without_target][:2] == [(True, False), (False, True)]
    for address in _ADDRESSES["moving"]:
        assert _wait(lambda address=address: pair.hears("still", address), "an answer", _PROMPT_S)


@contextmanager
def _policy(lab: Lab, name: str, wanted: dict[str, Any], absent: dict[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        yield lab.policy(name, wanted)
    finally:
        lab.policy(name, absent)
        lab.running.kubectl("delete", "nncp", name)


def _vm(name: str, node: str) -> dict[str, Any]:
    ipv4, ipv6 = _ADDRESSES[name]
    words = f"console=ttyS0 quiet panic=-1 vm_name={name} vm_ipv4={ipv4}/24 vm_ipv6={ipv6}/64"
    boot = {"image": GUEST, "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd.img"}
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    near = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": here}]}
    domain = {
        "devices": {"interfaces": [{"name": "net", "bridge": {}, "macAddress": _MACS[name]}]},
        "firmware": {"kernelBoot": {"container": boot, "kernelArgs": words}},
        "memory": {"guest": "128Mi"},
        "cpu": {"cores": 1},
    }
    networks = [{"name": "net", "multus": {"networkName": f"{_NAMESPACE}/{_NETWORK}"}}]
    spec = {
        "affinity": {"nodeAffinity": near},
        "terminationGracePeriodSeconds": 0,
        "domain": domain,
        "networks": networks,
    }
    template = {"metadata": {"labels": {"standin-vm": name}}, "spec": spec}
    metadata = {"name": name, "namespace": _NAMESPACE}
    kind = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine"}
    return {**kind, "metadata": metadata, "spec": {"runStrategy": "Always", "template": template}}


def _pods(lab: Lab) -> list[str]:
    listed = lab.get("pods", "-n", _NAMESPACE, "-l", "vm.kubevirt.io/name=moving")["items"]
    return [pod["metadata"]["name"] for pod in listed]


def _created(lab: Lab) -> dict[str, Any] | None:
    holding = _holding(lab.get("clusteruserdefinednetwork", _NETWORK))
    return next((each for each in holding if each["type"] == "NetworkCreated"), None)


def _holding(thing: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in thing.get("status", {}).get("conditions", []) if each["status"] == "True"]


def _wait(condition: Callable[[], Any], what: str, timeout_s: float) -> Any:
    deadline, error = time.monotonic() + timeout_s, None
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except (TestbedError, WebSocketException) as not_yet:
            error = not_yet
        time.sleep(0.2)
    raise AssertionError(f"{what} did not come within {timeout_s:g} s: {error}")
