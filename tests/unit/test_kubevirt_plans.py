"""What is made on a cluster, as pure functions of what was asked for; and what cannot be asked for."""

import json
from typing import Any

import pytest

from stuntime.errors import UsageError
from stuntime.kubevirt import manifests, plans
from stuntime.kubevirt.cluster import Node
from stuntime.kubevirt.kinds import CUDN, NAD
from stuntime.kubevirt.networks import described
from stuntime.kubevirt.nics import spare, use_of
from stuntime.kubevirt.plans import Plan
from stuntime.kubevirt.settings import Addresses, Guest, NetworkSettings, Settings

BRIDGE, LOCALNET = "linux-bridge", "ovn-localnet"


def _nic(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "ethernet", "state": "up", **fields}


def _state(*interfaces: dict[str, Any]) -> dict[str, Any]:
    return {"status": {"currentState": {"interfaces": list(interfaces)}}}


def test_a_bridge_is_that_of_the_documentation() -> None:
    """A Linux bridge has the NIC as its port and no STP, and is absent when it goes."""
    plan = Plan(BRIDGE, "ns", "ens2f1", None, None)
    [bridge] = plan.desired_state(up=True)["interfaces"]
    assert bridge == {
        "name": "st-ens2f1",
        "type": "linux-bridge",
        "state": "up",
        "bridge": {"options": {"stp": {"enabled": False}}, "port": [{"name": "ens2f1"}]},
    }
    assert plan.desired_state(up=False) == {
        "interfaces": [{"name": "st-ens2f1", "type": "linux-bridge", "state": "absent"}]
    }
    kind, nad = plan.attachment({})
    [plugin] = json.loads(nad["spec"]["config"])["plugins"]
    assert (kind, plugin) == (NAD, {"type": "bridge", "bridge": "st-ens2f1", "disableContainerInterface": True})


def test_a_localnet_is_that_of_the_documentation() -> None:
    """A localnet is an OVS bridge with a mapping, and a network of this namespace without addresses of its own."""
    plan = Plan(LOCALNET, "ns", "ens2f1", None, None)
    policy = plan.desired_state(up=True)
    assert policy["interfaces"][0]["type"] == "ovs-bridge"
    mapping = {"localnet": "stuntime-ovn-localnet", "bridge": "st-ens2f1", "state": "present"}
    assert policy["ovn"]["bridge-mappings"] == [mapping]
    assert plan.desired_state(up=False)["ovn"]["bridge-mappings"] == [{**mapping, "state": "absent"}]
    kind, network = plan.attachment({})
    assert kind == CUDN
    assert network["spec"]["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "ns"}}
    assert network["spec"]["network"]["localnet"] == {
        "role": "Secondary",
        "physicalNetworkName": "stuntime-ovn-localnet",
        "ipam": {"mode": "Disabled"},
    }


def test_vlan_and_mtu_are_everywhere_they_belong() -> None:
    """A VLAN and an MTU reach the NAD, the network and the NIC, which has its own MTU again afterwards.

    An OVS bridge has no MTU of its own.
    """
    bridge, localnet = (Plan(network, "ns", "eno2", 100, 9000) for network in (BRIDGE, LOCALNET))
    nad = json.loads(bridge.attachment({})[1]["spec"]["config"])
    assert nad["plugins"][0].items() >= {"vlan": 100, "mtu": 9000}.items()
    told = localnet.attachment({})[1]["spec"]["network"]["localnet"]
    assert (told["vlan"], told["mtu"]) == ({"mode": "Access", "access": {"id": 100}}, 9000)
    for plan, own in ((bridge, 9000), (localnet, None)):
        made, nic = plan.desired_state(up=True)["interfaces"]
        assert (made.get("mtu"), nic["name"], nic["mtu"]) == (own, "eno2", 9000)
        gone, nic = plan.desired_state(up=False, former_mtu=1500)["interfaces"]
        assert (gone["state"], nic["name"], nic["mtu"]) == ("absent", "eno2", 1500)


def test_an_object_says_how_it_was_planned() -> None:
    """Every object of a network can be asked for its plan, and a policy for the MTU before; others say nothing."""
    node = Node("worker-0", "worker-0.host", {})
    for plan in (Plan(BRIDGE, "ns", "ens2f1", None, None), Plan(LOCALNET, "ns", "ens2f1", 7, 9000)):
        policy, (_, attachment) = plan.policy(node, {}, 1400), plan.attachment({})
        assert Plan.of(policy) == Plan.of(attachment) == plan
        assert (plans.former_mtu(policy), plans.former_mtu(attachment)) == (1400, None)
    for annotations in (None, {}, {"stuntime.io/plan": "?"}, {"stuntime.io/plan": "{}"}):
        assert Plan.of({"metadata": {"annotations": annotations}}) is None


def test_a_policy_is_for_one_node_and_its_name_fits_a_label() -> None:
    """NMState is told of the nodes that are measured on and of no other, in names that a label can hold."""
    nodes = [Node(name, f"{name}.host", {}) for name in ("worker-0", f"{'w' * 60}-1.lab", f"{'w' * 60}-2.lab")]
    policies = [Plan(BRIDGE, "ns", "ens2f1", None, None).policy(node, {"a": "b"}) for node in nodes]
    for node, policy in zip(nodes, policies, strict=True):
        assert policy["spec"]["nodeSelector"] == {"kubernetes.io/hostname": node.hostname}
        assert len(policy["metadata"]["name"]) <= 63
        assert policy["metadata"]["labels"].items() >= {"a": "b", "stuntime.io/network": BRIDGE}.items()
    assert policies[0]["metadata"]["name"] == "stuntime-linux-bridge-worker-0"
    assert len({policy["metadata"]["name"] for policy in policies}) == len(nodes)


def test_a_bridges_name_fits_the_kernel() -> None:
    """An interface's name has at most 15 characters, and two NICs never share a bridge."""
    names = {Plan(BRIDGE, "ns", nic, None, None).bridge for nic in ("eth1", "enp130s0f0np0", "enp130s0f1np1")}
    assert len(names) == 3
    assert all(len(name) <= 15 for name in names)


def test_an_unknown_network_is_not_made() -> None:
    """Only the two networks can be made."""
    with pytest.raises(UsageError, match="no network 'mine' can be made"):
        plans.plan("mine", "ns", NetworkSettings(), "eno2")


def test_a_nad_is_described_by_what_decides_the_value() -> None:
    """The first plugin's settings count; whether a bridge's container interface is disabled is always told."""
    plain = {
        "cniVersion": "0.3.1",
        "name": "x",
        "plugins": [{"type": "bridge", "bridge": "br0", "vlan": 7}, {"type": "tuning"}],
    }
    assert described(plain) == {
        "bridge": "br0", "cniVersion": "0.3.1", "disableContainerInterface": False, "type": "bridge", "vlan": 7,
    }  # fmt: skip
    assert described({"type": "cnv-bridge", "bridge": "br0"}) == {"bridge": "br0", "type": "cnv-bridge"}
    made = {"type": "ovn-k8s-cni-overlay", "name": "x", "netAttachDefName": "ns/x", "topology": "localnet"}
    assert described(made) == {"type": "ovn-k8s-cni-overlay", "topology": "localnet"}


@pytest.mark.parametrize(
    "used",
    [
        _nic("eno2", state="down"),
        _nic("eno2", type="vlan"),
        _nic("eno2", controller="br-ex"),
        _nic("eno2", ipv4={"address": [{"ip": "10.0.0.1"}]}),
        _nic("eno2", ipv6={"address": [{"ip": "2001:db8::1"}]}),
    ],
)
def test_a_nic_in_use_is_not_spare(used: dict[str, Any]) -> None:
    """A NIC that is down, no NIC, held by another interface or has an address is not taken, on whichever node."""
    unused = _nic("eno2", ipv6={"address": [{"ip": "fe80::1"}]})
    assert spare([_state(unused), _state(unused)]) == "eno2"
    assert spare([_state(unused), _state(used)]) is None


def test_ports_and_bases_are_not_spare() -> None:
    """A port of a bridge and what a VLAN lies on are in use; of several spare NICs the last one is taken."""
    bridge = {"name": "br0", "type": "linux-bridge", "state": "up", "bridge": {"port": [{"name": "eno3"}]}}
    vlan = {"name": "eno4.5", "type": "vlan", "state": "up", "vlan": {"base-iface": "eno4"}}
    nics = [_nic(f"eno{number}") for number in range(1, 5)]
    assert spare([_state(bridge, vlan, *nics)]) == "eno2"
    uses = [
        use_of(nic, _state(bridge, vlan, *nics, _nic("eno5", controller="br-ex"))) for nic in ("eno2", "eno3", "eno5")
    ]
    assert uses == ["", "is a port of br0", "is a port of br-ex"]
    assert spare([]) is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Guest(memory="1"),
        lambda: Guest(memory="0Gi"),
        lambda: NetworkSettings(nic="a b"),
        lambda: NetworkSettings(nic="x" * 16),
        lambda: NetworkSettings(vlan=0),
        lambda: NetworkSettings(vlan=4095),
        lambda: NetworkSettings(mtu=1279),
        lambda: NetworkSettings(nads={BRIDGE: "Not_A_Name"}),
        lambda: NetworkSettings(nads={BRIDGE: "ns/nad"}),
        lambda: Addresses(ipv4="10.0.0.0/33"),
        lambda: Addresses(ipv4="10.0.0.1/16"),
        lambda: Addresses(ipv4="10.0.0.0/25"),
        lambda: Addresses(ipv4="fd00::/64"),
        lambda: Addresses(ipv6="10.0.0.0/8"),
        lambda: Settings(run="r", nodes=("a", "b", "a")),
    ],
)
def test_what_cannot_be_is_refused(wrong: Any) -> None:
    """Bad settings are refused before anything is asked of a cluster, with a way out."""
    with pytest.raises(UsageError) as refused:
        wrong()
    assert refused.value.way_out


def test_addresses_stay_in_their_subnet() -> None:
    """Numbers go round inside the subnet, and leave out the network's own address and the last one."""
    addresses = Addresses(ipv4="10.0.0.0/24")
    found = {addresses.of(number)["ipv4"] for number in range(1000)}
    assert len(found) == 254
    assert not {"10.0.0.0", "10.0.0.255"} & found
    assert addresses.with_prefix(addresses.of(0)) == {"ipv4": "10.0.0.1/24", "ipv6": "fd00:200::1/64"}


def test_a_runs_name_fits_a_label() -> None:
    """Whatever a run is called, its name can be a label's value and a part of an object's name."""
    for run in ("20261124T220000Z-ab12", "x" * 90, "Ein Lauf: ä/ö", "-a-"):
        name = Settings(run=run).run_name
        assert name == name.strip("-").lower()
        assert 0 < len(name) <= 40


def _hostnames(term: dict[str, Any]) -> list[str]:
    [fits] = term["matchExpressions"]
    assert (fits["key"], fits["operator"]) == ("kubernetes.io/hostname", "In")
    return list(fits["values"])


def _vm(guest: Guest) -> dict[str, Any]:
    return manifests.virtual_machine(
        "vm",
        guest,
        hostname="node-a",
        hostnames=["node-a", "node-b"],
        nad="ns/nad",
        mac="02:00:00:00:00:01",
        addresses={"ipv4": "10.0.0.1/16", "ipv6": "fd00::1/64"},
        secret="login",  # noqa: S106 - the name of an object
        labels={"stuntime.io/run": "r"},
        owners=[],
    )


def test_a_vm_may_go_to_any_node_that_is_measured_on() -> None:
    """A VM prefers its node and keeps to those measured on, does not start again, and has the one NIC measured."""
    for guest in (Guest(), Guest(boot="kernel")):
        made = _vm(guest)
        instance = made["spec"]["template"]["spec"]
        assert "nodeSelector" not in instance
        affinity = instance["affinity"]["nodeAffinity"]
        [preferred] = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
        [required] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert [_hostnames(term) for term in (preferred["preference"], required)] == [["node-a"], ["node-a", "node-b"]]
        assert (made["spec"]["runStrategy"], instance["terminationGracePeriodSeconds"]) == ("Once", 0)
        [nic] = instance["domain"]["devices"]["interfaces"]
        assert (nic["bridge"], nic["macAddress"]) == ({}, "02:00:00:00:00:01")
        assert instance["networks"] == [{"name": nic["name"], "multus": {"networkName": "ns/nad"}}]
        assert made["spec"]["template"]["metadata"]["labels"]["stuntime.io/run"] == "r"


def test_a_guest_gets_its_addresses() -> None:
    """A disk gets them by cloud-init, matched by the NIC's MAC; a kernel on its command line."""
    disk, kernel = (_vm(guest)["spec"]["template"]["spec"] for guest in (Guest(), Guest(boot="kernel")))
    [volume] = [one["cloudInitNoCloud"] for one in disk["volumes"] if "cloudInitNoCloud" in one]
    assert volume["secretRef"] == {"name": "login"}
    [nic] = json.loads(volume["networkData"])["ethernets"].values()
    assert (nic["match"], nic["addresses"]) == ({"macaddress": "02:00:00:00:00:01"}, ["10.0.0.1/16", "fd00::1/64"])
    boot = kernel["domain"]["firmware"]["kernelBoot"]
    assert "vm_name=vm vm_ipv4=10.0.0.1/16 vm_ipv6=fd00::1/64" in boot["kernelArgs"]
    assert not kernel["volumes"]


def test_the_password_is_in_the_secret_alone() -> None:
    """Root's password is for the console: it is in the secret's user data, and ssh takes none."""
    secret = manifests.login_secret("login", "geheim", labels={}, owners=[])
    told = json.loads(secret["stringData"]["userdata"].removeprefix("#cloud-config\n"))
    assert told["ssh_pwauth"] is False
    assert told["chpasswd"]["users"] == [{"name": "root", "password": "geheim", "type": "text"}]
    assert "geheim" not in json.dumps(_vm(Guest()))
