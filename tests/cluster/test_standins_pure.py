"""The rules of the stand-ins that need no cluster."""

import json
import runpy
from pathlib import Path

import pytest

from tests.cluster.standins import conditions, localnet
from tests.cluster.standins.desired import RefusedError, plan
from tests.cluster.standins.node_state import state

_CNI = Path(__file__).parent / "standins" / "ovn-k8s-cni-overlay"
_NIC = {"name": "nic1", "type": "ethernet", "state": "up", "mtu": 1500, "ipv4": {"enabled": False}}
_ETH = {**_NIC, "name": "eth0", "ipv4": {"enabled": True, "address": [{"ip": "10.0.0.1", "prefix-length": 24}]}}


def _bridge(name, kind="linux-bridge", ports=("nic1",)):
    return {"name": name, "type": kind, "state": "up", "bridge": {"port": [{"name": port} for port in ports]}}


def _steps(*interfaces, there=(), mappings=()):
    current = {"interfaces": [_NIC, _ETH, *there], "ovn": {"bridge-mappings": []}}
    ovn = {"ovn": {"bridge-mappings": list(mappings)}} if mappings else {}
    steps = plan({"desiredState": {"interfaces": list(interfaces), **ovn}}, current, "netdev")
    return [" ".join(step.do) for step in steps]


def test_what_is_there_is_left_alone():
    """A policy that already holds takes no step."""
    assert _steps(_bridge("br1"), there=[_bridge("br1")]) == []


def test_what_goes_makes_room():
    """A NIC can go from one bridge to another in one policy."""
    steps = _steps(_bridge("br-loc", "ovs-bridge"), {"name": "br1", "state": "absent"}, there=[_bridge("br1")])
    assert steps[:2] == ["ip link set nic1 nomaster", "ip link del br1"]
    assert steps[-1] == "ovs-vsctl add-port br-loc nic1"


def test_absent_of_nothing_is_done():
    """What is not there is absent already."""
    assert _steps({"name": "br1", "type": "linux-bridge", "state": "absent"}) == []


def test_mappings_are_merged():
    """A bridge mapping comes beside those that are there."""
    current = {"interfaces": [], "ovn": {"bridge-mappings": [{"localnet": "a", "bridge": "br-a"}]}}
    wanted = {"ovn": {"bridge-mappings": [{"localnet": "b", "bridge": "br-b", "state": "present"}]}}
    (step,) = plan({"desiredState": wanted}, current, "netdev")
    assert step.do[-1] == "external-ids:ovn-bridge-mappings=a:br-a,b:br-b"
    assert step.undo[-1] == "external-ids:ovn-bridge-mappings=a:br-a"


@pytest.mark.parametrize(
    ("interface", "said"),
    [
        (_bridge("br1", ports=["nic9"]), "no interface nic9"),
        (_bridge("br1", ports=["eth0"]), "eth0 has the node's own address"),
        (_bridge("br2"), "nic1 is a port of br0"),
        (_bridge("br0", "ovs-bridge"), "br0 is of type linux-bridge"),
        ({"name": "nic1.5", "type": "vlan"}, "interfaces[0].type: vlan"),
        ({**_bridge("br1"), "lldp": {"enabled": True}}, "interfaces[0].lldp"),
        ({**_bridge("br1"), "ipv4": {"enabled": True, "dhcp": True}}, "gives no addresses"),
        ({"name": "nic1", "state": "absent"}, "removes only bridges"),
    ],
)
def test_what_cannot_be_done_is_refused(interface, said):
    """A policy that the stand-in cannot do is refused with the reason."""
    with pytest.raises(RefusedError) as refused:
        _steps(interface, there=[_bridge("br0")])
    assert said in str(refused.value)


def test_state_of_links_and_switches():
    """A node's state names bridges with their ports, and leaves pods' interfaces out."""
    link = {"mtu": 1500, "operstate": "UP", "address": "aa:00:00:00:00:01", "addr_info": []}
    links = [
        {**link, "ifname": "br1", "linkinfo": {"info_kind": "bridge", "info_data": {"stp_state": 0}}},
        {**link, "ifname": "nic1", "master": "br1", "linkinfo": {"info_kind": "veth"}},
        {**link, "ifname": "veth0", "master": "br1", "linkinfo": {"info_kind": "veth"}},
        {**link, "ifname": "nic2", "linkinfo": {"info_kind": "veth"}},
    ]
    told = state(links, {"br-loc": (["nic2", "patch-to-br-int"], False)}, "phys:br-loc")
    interfaces = {each["name"]: each for each in told["interfaces"]}
    assert sorted(interfaces) == ["br-loc", "br1", "nic1", "nic2"]
    assert interfaces["br1"]["bridge"] == {"options": {"stp": {"enabled": False}}, "port": [{"name": "nic1"}]}
    assert interfaces["br-loc"]["bridge"]["port"] == [{"name": "nic2"}]
    assert (interfaces["nic1"]["controller"], interfaces["nic2"]["controller"]) == ("br1", "br-loc")
    assert told["ovn"] == {"bridge-mappings": [{"localnet": "phys", "bridge": "br-loc"}]}


@pytest.mark.parametrize(
    ("phases", "holds", "message"),
    [
        (["Available", "Available"], "Available", "2/2 nodes successfully configured"),
        (["Available", "Progressing"], "Progressing", "Policy is progressing 1/2 nodes finished"),
        (["Available", "Failing"], "Degraded", "1/2 nodes failed to configure"),
        ([], "Progressing", "Policy is progressing 0/2 nodes finished"),
    ],
)
def test_policy_sums_up_its_enactments(phases, holds, message):
    """A policy is Degraded when a node failed, Available when all are done, Progressing otherwise."""
    enactments = [
        {"status": {"policyGeneration": 2, "conditions": conditions.enactment(phase, "", "t")}} for phase in phases
    ]
    told = [each for each in conditions.policy(2, 2, enactments, "t") if each["status"] == "True"]
    assert [(each["type"], each["message"]) for each in told] == [(holds, message)]


def test_old_enactments_do_not_count():
    """An enactment of an older generation says nothing about the policy."""
    old = {"status": {"policyGeneration": 1, "conditions": conditions.enactment("Available", "", "t")}}
    assert conditions.holding(old["status"], 2) is None


def _definition(namespace="default", name="loc", **config):
    whole = {"type": "ovn-k8s-cni-overlay", "topology": "localnet", "name": "net", "physicalNetworkName": "phys"}
    return {"metadata": {"namespace": namespace, "name": name}, "spec": {"config": json.dumps({**whole, **config})}}


def _pod(name, created="1", vm="vm", phase="Running", networks='[{"name": "loc", "mac": "02:00:00:00:00:01"}]', **more):
    return {
        "metadata": {
            "uid": name,
            "name": name,
            "namespace": "default",
            "creationTimestamp": created,
            "labels": {localnet.VM_LABEL: vm} if vm else {},
            "annotations": {localnet.NETWORKS: networks, **more},
        },
        "spec": {"nodeName": "node-a"},
        "status": {"phase": phase},
    }


_READY = {localnet.TARGET_READY: "2026-01-01"}


@pytest.mark.parametrize(
    ("pods", "enabled"),
    [
        ([_pod("source")], {"source": True}),
        ([_pod("source"), _pod("target", "2")], {"source": True, "target": False}),
        ([_pod("source"), _pod("target", "2", **_READY)], {"source": False, "target": True}),
        ([_pod("source", phase="Succeeded"), _pod("target", "2", **_READY)], {"target": True}),
        ([_pod("source"), _pod("target", "2", phase="Failed", **_READY)], {"source": True}),
        ([_pod("source", **_READY), _pod("target", "2")], {"source": True, "target": False}),
        ([_pod("one", vm="a"), _pod("two", "2", vm="b")], {"one": True, "two": True}),
        ([_pod("one", vm=""), _pod("two", "2", vm="")], {"one": True, "two": True}),
    ],
)
def test_hand_over(pods, enabled):
    """A target's port is disabled until KubeVirt calls it ready; then the source's is; a failure gives it back."""
    ports = localnet.ports(pods, localnet.networks([_definition()]))
    assert {port.name.rpartition("_")[2]: port.enabled for port in ports.values()} == enabled


def test_only_localnets_get_ports():
    """Attachments to networks of other kinds get no port."""
    pod = _pod("pod", networks="other/bridge, loc@net1")
    known = localnet.networks([_definition(), _definition("other", "bridge", type="bridge")])
    assert list(localnet.ports([pod], known)) == ["default.loc_default_pod"]


def test_made_up_macs_agree():
    """The controller and the CNI plugin make up the same MAC."""
    assert localnet.made_up_mac("a.b_c_d") == runpy.run_path(str(_CNI))["made_up_mac"]("a.b_c_d")


def test_definition_of_a_network():
    """A ClusterUserDefinedNetwork's definition carries its physical network, MTU and VLAN."""
    local = {"physicalNetworkName": "phys", "mtu": 1400, "vlan": {"mode": "Access", "access": {"id": 7}}}
    network = {"metadata": {"name": "blue", "uid": "u"}, "spec": {"network": {"localnet": local}}}
    made = localnet.attachment_definition(network, "ns")
    assert json.loads(made["spec"]["config"])["mtu"] == 1400
    assert localnet.networks([made]) == {"ns/blue": localnet.Network("cluster_udn_blue", "phys", 7)}
