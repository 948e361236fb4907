"""Networks on a cluster's nodes: whose they are, on which NIC, and what is given back."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from stuntime.errors import InvalidError, TestbedError, UnfitError
from stuntime.kubevirt import cleanup, cluster, networks, preflight
from stuntime.kubevirt.cluster import Node
from stuntime.kubevirt.kinds import (
    CUDN,
    LEASE,
    NAD,
    NAMESPACE,
    NAMESPACE_LABEL,
    NNCP,
    NNS,
    RUN_LABEL,
    Object,
    condition,
)
from stuntime.kubevirt.leases import micro_time
from stuntime.kubevirt.manifests import run_labels
from stuntime.kubevirt.plans import Plan
from stuntime.kubevirt.settings import NetworkSettings, Owner
from stuntime.kubevirt.testbed import KubevirtTestbed
from stuntime.kubevirt.window import Window
from stuntime.scenario import NETWORKS, PATHS
from tests.unit.kubeapi.store import Change
from tests.unit.kubevirt_lab import Lab, hurry

BRIDGE, LOCALNET = NETWORKS
NODES = [Node(name, name, {}) for name in ("node-a", "node-b", "node-c")]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as found:
        yield found


def _up(lab: Lab, network: str = BRIDGE, run: str = "mine", nic: str = "eno2", **plan: int | None) -> None:
    made = Plan(network, "ns", nic, **{"vlan": None, "mtu": None, **plan})
    networks.up(lab.api, made, NODES, run_labels(run), networks.hold_nics(lab.api, made, lambda _: None))


def _enacted(lab: Lab, node: str = "node-a") -> list[tuple[str, str]]:
    """Return the interfaces that a node was asked for, and their states, in order."""
    states = [state for name, _, state in lab.nmstate.enacted if name == node]
    return [(one["name"], one["state"]) for state in states for one in state["interfaces"]]


def _nic(lab: Lab, name: str, **fields: object) -> None:
    """Change a NIC of all nodes, as their states tell of it."""

    def changed(state: Object) -> None:
        [nic] = [one for one in state["status"]["currentState"]["interfaces"] if one["name"] == name]
        nic.update(fields)

    for node in NODES:
        lab.server.store.edit(NNS, lab.server.store.get(NNS, "", node.name), changed)


def _is_available(policy: Object | None) -> bool:
    return condition(policy, "Available").get("status") == "True"


def _examined(lab: Lab, *wanted: str, **settings: object) -> preflight.Check:
    """Return what the preflight says of the NIC."""
    asked = replace(lab.settings, networks=NetworkSettings(**settings))
    found = preflight.examine(lab.api, asked, wanted or NETWORKS, PATHS, pull=False)
    return next(check for check in found.checks if check.name == "NIC")


@contextmanager
def _opened(lab: Lab) -> Iterator[KubevirtTestbed]:
    """Hold the testbed whatever the preflight says."""
    nodes = tuple(NODES)
    found = cluster.read(lab.api)
    with KubevirtTestbed(lab.api, lab.settings, found, nodes, None, lambda *_: None).opened() as testbed:
        yield testbed


@pytest.mark.parametrize("network", NETWORKS)
def test_a_run_takes_away_only_its_own(lab: Lab, network: str) -> None:
    """What another run has up stays whole, and is gone when that run takes it away."""
    _up(lab, network, run="theirs")
    before = lab.left()
    networks.down(lab.api, network, run="mine")
    lab.require_left(*before)
    assert networks.makers_of(lab.api, network) == [("ns", "theirs")]
    networks.down(lab.api, network, run="theirs")
    lab.require_left()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("before", "now", "again"),
    [
        ({}, {}, False),
        ({"run": "dead"}, {}, True),
        ({}, {"vlan": 7}, True),
        ({"vlan": 7}, {"vlan": 8}, True),
        ({"nic": "eno1"}, {}, True),
    ],
)
def test_a_network_is_as_it_is_planned_now(lab: Lab, network: str, before: dict, now: dict, again: bool) -> None:
    """A run's network that is as planned stays; one of another run or another plan goes before it is made anew."""
    _up(lab, network, **before)
    _up(lab, network, **now)
    states = [state for _, state in _enacted(lab)]
    assert states == (["up", "absent", "up"] if again else ["up"])
    kind = CUDN if network == LOCALNET else NAD
    [made] = lab.api.find(kind)
    assert Plan.of(made) == Plan(network, "ns", "eno2", now.get("vlan"), None)
    assert made["metadata"]["labels"][RUN_LABEL] == "mine"


def test_a_network_that_nodes_did_not_take_is_made_anew(lab: Lab) -> None:
    """Up once more after a node refused tries again, also where nothing else has changed."""
    lab.nmstate.refusals["node-c"] = "NmstateError: busy"
    with pytest.raises(UnfitError, match="node-c could not be configured by the policy stuntime-linux-bridge-node-c"):
        _up(lab)
    lab.nmstate.refusals.clear()
    _up(lab)
    assert _enacted(lab, "node-c")[-1] == ("st-eno2", "up")


def test_a_node_that_gives_nothing_back_does_not_keep_the_others(lab: Lab) -> None:
    """Down has all other nodes' NIC given back, and says which one's was not; the NIC stays known for the next try."""
    _up(lab)
    lab.nmstate.refusals["node-b"] = "NmstateError: device is busy"
    with pytest.raises(TestbedError, match=r"node-b could not be .*: NmstateError: device is busy") as failed:
        networks.down(lab.api, BRIDGE, run="mine", timeout_s=5.0)
    assert failed.value.reason == "network-left"
    assert [one["metadata"]["name"] for one in lab.api.find(NNCP)] == ["stuntime-linux-bridge-node-b"]
    assert networks.nics_of(lab.api) == {BRIDGE: {"eno2"}}
    lab.nmstate.refusals.clear()
    networks.down(lab.api, BRIDGE, run="mine")
    lab.require_left()


def test_a_policy_that_nodes_are_at_is_waited_for(lab: Lab) -> None:
    """A policy cannot be changed while a node is at it: down waits for that, and no longer than it may."""
    _up(lab)
    name = "stuntime-linux-bridge-node-a"
    policy = lab.api.wait(NNCP, name, _is_available, timeout_s=5.0, what="its end")
    progressing = [{"type": "Available", "status": "Unknown", "reason": "ConfigurationProgressing"}]
    settled = policy["status"]["conditions"]
    lab.server.store.edit(NNCP, policy, lambda one: one["status"].update(conditions=progressing))
    with pytest.raises(TestbedError, match=f"policy {name} is still in progress"):
        networks.down(lab.api, BRIDGE, timeout_s=1.0)
    assert lab.api.get(NNCP, name) is not None
    lab.server.worker.later(
        0.3, lambda: lab.server.store.edit(NNCP, policy, lambda one: one["status"].update(conditions=settled))
    )
    networks.down(lab.api, BRIDGE)
    lab.require_left()


def test_a_nic_has_its_own_mtu_again(lab: Lab) -> None:
    """Down gives the NIC the MTU that it had before the first of ours, also where a killed run's was between."""

    def mtus() -> list[int]:
        states = [state for name, _, state in lab.nmstate.enacted if name == "node-a"]
        return [one["mtu"] for state in states for one in state["interfaces"] if one["name"] == "eno2"]

    _up(lab, run="dead", mtu=9000)
    _nic(lab, "eno2", mtu=9000)  # which is what the nodes tell of, perhaps for a while longer than it is so
    _up(lab, mtu=8000)
    networks.down(lab.api, BRIDGE)
    assert mtus() == [9000, 1500, 8000, 1500]


@pytest.mark.parametrize(
    ("use", "told"),
    [
        ({"ipv4": {"address": [{"ip": "192.0.2.7"}]}}, "has the address 192.0.2.7"),
        ({"controller": "br-ex"}, "is a port of br-ex"),
    ],
)
def test_a_nic_that_is_in_use_is_not_taken(lab: Lab, use: dict, told: str) -> None:
    """A NIC that is named and serves something else is refused, with what it serves; that of our own network is not."""
    _nic(lab, "eno1", **use)
    check = _examined(lab, nic="eno1")
    assert not check.fit
    assert f"eno1 is in use: on node-a it {told}" in check.found
    _up(lab, run="dead")
    _nic(lab, "eno2", controller="st-eno2")
    assert _examined(lab, nic="eno2").fit
    _nic(lab, "eno2", **use)
    assert f"eno2 is in use: on node-a it {told}" in _examined(lab).found


def test_nodes_that_tell_nothing_of_their_nics_are_not_fit(lab: Lab) -> None:
    """A node without a NodeNetworkState is named, whether a NIC is asked for or looked for."""
    lab.server.store.delete(NNS, "", "node-b")
    for asked in ({}, {"nic": "eno2"}):
        check = _examined(lab, **asked)
        assert not check.fit
        assert check.found == "unknown: there is no NodeNetworkState of node-b"


def test_the_other_networks_nic_is_the_one_to_wait_for(lab: Lab) -> None:
    """Where the only spare NIC has our other network on it, that NIC is found: its holder can be waited for."""
    _nic(lab, "eno1", controller="br-ex")
    _up(lab, LOCALNET, run="theirs")
    _nic(lab, "eno2", controller="st-eno2")
    assert _examined(lab, BRIDGE).found == "eno2, which ovn-localnet is on already"
    assert _examined(lab, LOCALNET).found == "eno2, which ovn-localnet is on already"
    _nic(lab, "eno1", controller=None)
    assert _examined(lab, BRIDGE).found == "eno1"


def test_a_bridge_takes_no_right_on_a_localnet(lab: Lab) -> None:
    """Making a Linux bridge and taking it away asks nothing of OVN-Kubernetes."""
    for verb in ("create", "delete", "get", "list", "patch", "watch"):
        lab.server.forbid(verb, CUDN.resource)
    _up(lab)
    _up(lab, run="another")
    networks.down(lab.api, BRIDGE)
    lab.require_left()


def test_the_other_network_gives_the_nic_up(lab: Lab) -> None:
    """What a dead run left of the other network on the NIC goes first: two bridges cannot have one port."""
    _up(lab, LOCALNET, run="dead")
    _up(lab, BRIDGE)
    assert networks.nics_of(lab.api) == {BRIDGE: {"eno2"}}
    assert not lab.api.find(CUDN)


def test_a_network_that_is_going_is_made_anew(lab: Lab) -> None:
    """What is deleted and still there, held by its finalizer, is waited for and made again."""
    _up(lab, LOCALNET)
    network = lab.api.get(CUDN, "stuntime-ovn-localnet")
    lab.server.store.edit(CUDN, network, lambda one: one["metadata"].update(finalizers=["k8s.ovn.org/it"]))
    lab.api.delete(CUDN, "stuntime-ovn-localnet")
    lab.server.worker.later(
        0.2, lambda: lab.server.store.edit(CUDN, network, lambda one: one["metadata"].pop("finalizers"))
    )
    _up(lab, LOCALNET)
    [made] = lab.api.find(CUDN)
    assert made["metadata"]["uid"] != network["metadata"]["uid"]


def test_no_policy_is_deleted_before_its_node_has_done_it(lab: Lab) -> None:
    """Where the time is over before anybody has looked at the nodes, their policies stay for the next try."""
    _up(lab, LOCALNET)
    network = lab.api.get(CUDN, "stuntime-ovn-localnet")
    lab.server.store.edit(CUDN, network, lambda one: one["metadata"].update(finalizers=["k8s.ovn.org/in-use"]))
    lab.nmstate.step_s = 2.0
    with pytest.raises(TestbedError, match="not gone everywhere") as failed:
        networks.down(lab.api, LOCALNET, run="mine", timeout_s=0.6)
    assert "--namespace ns --run mine" in failed.value.way_out
    assert len(lab.api.find(NNCP)) == len(NODES)
    lab.nmstate.step_s = 0.001
    lab.server.store.edit(CUDN, network, lambda one: one["metadata"].pop("finalizers"))
    networks.down(lab.api, LOCALNET, run="mine")
    lab.require_left()


def test_what_is_left_on_other_nodes_does_not_matter(lab: Lab) -> None:
    """A dead node with a policy of a dead run keeps no run from the others; its policy is left to `cleanup`."""
    _up(lab, run="dead")
    lab.nmstate.refusals["node-c"] = "NmstateError: unreachable"
    made = Plan(BRIDGE, "ns", "eno2", None, None)
    for _ in range(2):
        networks.up(lab.api, made, NODES[:2], run_labels("mine"), ["eno2"])
    assert [state for _, state in _enacted(lab)] == ["up", "absent", "up"]
    networks.down(lab.api, BRIDGE, run="mine")
    assert networks.makers_of(lab.api, BRIDGE) == [("ns", "dead")]
    assert [one["metadata"]["name"] for one in lab.api.find(NNCP)] == ["stuntime-linux-bridge-node-c"]


def test_a_nic_that_was_lost_is_not_worked_on(lab: Lab) -> None:
    """Who was taken for dead while it waited, and whose NIC another run has by now, takes nothing away."""
    api = lab.server.api("ns")
    window = Window(api, namespace="stuntime", run="mine")
    window.take_nic("eno2", "run mine", duration_s=60)
    window.require_nics(["eno2"], "run mine")
    lease = lab.api.get(LEASE, "stuntime-nic-eno2", "stuntime")
    lab.server.store.edit(LEASE, lease, lambda one: one["spec"].update(holderIdentity="run theirs"))
    with pytest.raises(UnfitError, match=r"NIC eno2 was lost .*: run theirs has it now") as lost:
        window.require_nics(["eno2"], "run mine")
    assert lost.value.reason == "nic-lost"


def test_two_that_make_one_network_at_a_time_do_not_meet(lab: Lab) -> None:
    """Who comes second is told who is at it, and not to remove it."""
    _up(lab, run="theirs", nic="eno1")
    find = lab.api.find
    lab.api.find = lambda kind, **asked: find(kind, **asked) if lab.server.asked("POST", NNCP.resource)[3:] else []
    with pytest.raises(UnfitError, match="made by somebody else at this time: run theirs of namespace ns") as met:
        _up(lab)
    del lab.api.find
    assert met.value.reason == "nic-taken"


def test_a_run_of_another_namespace_is_another_run(lab: Lab) -> None:
    """Runs of the same name in two namespaces take nothing from each other, and cleaning up one leaves the other's."""
    _up(lab, run="by-hand")
    before = lab.left()
    lab.server.seed(NAMESPACE, NAMESPACE.object("theirs"))
    theirs = lab.server.api("theirs")
    networks.down(theirs, BRIDGE, run="by-hand")
    found, _ = cleanup.leftovers(theirs, run=None, older_than_s=0, now=time.time(), window_namespace="stuntime")
    assert not found
    assert [one for one in lab.left() if one not in before] == ["Namespace theirs"]
    settings = lab.settings
    assert settings.holder("ns") != settings.holder("theirs")


@pytest.mark.parametrize("network", NETWORKS)
def test_what_was_made_anew_is_not_taken_away(lab: Lab, network: str) -> None:
    """Objects that somebody has made again since they were listed stay: each is changed and deleted by its uid."""
    _up(lab, network, run="mine")
    listed = {kind: lab.api.find(kind) for kind in (NNCP, NAD if network == BRIDGE else CUDN)}
    networks.down(lab.api, network, run="mine")
    lab.require_left()
    _up(lab, network, run="theirs")
    before = lab.left()
    find = lab.api.find
    lab.api.find = lambda kind, **asked: listed.get(kind) or find(kind, **asked)
    networks.down(lab.api, network, run="mine")
    del lab.api.find
    lab.require_left(*before)
    assert _enacted(lab)[-1] == ("st-eno2", "up")


@pytest.mark.parametrize(("made_by", "told"), [(None, "it is not there"), ("another", "it was made by run another")])
def test_a_pipeline_measures_on_no_network_but_its_own(lab: Lab, made_by: str | None, told: str) -> None:
    """Where a task of the same PipelineRun makes the network, one that is missing or another run's is an error."""
    if made_by:
        _up(lab, run=made_by)
    nads = NetworkSettings(nads={BRIDGE: "stuntime-linux-bridge"})
    lab.settings = replace(lab.settings, networks=nads, owner=Owner("PipelineRun", "run", "uid"))
    with (
        pytest.raises(UnfitError, match=told) as refused,
        _opened(lab) as testbed,
        testbed.network(BRIDGE, lab.folder),
    ):
        pytest.fail("it must not be measured on")
    assert refused.value.reason == "network-not-made"
    _up(lab, run=lab.settings.run_name)
    with _opened(lab) as testbed, testbed.network(BRIDGE, lab.folder):
        pass


@pytest.mark.parametrize("network", NETWORKS)
def test_what_somebody_else_has_under_our_name_stays(lab: Lab, network: str) -> None:
    """An object of our name that is not ours is neither changed nor removed, and the error says how to go on."""
    kind = CUDN if network == LOCALNET else NAD
    theirs = {**kind.object(f"stuntime-{network}", spec={"namespaceSelector": {}, "network": {}, "config": "{}"})}
    theirs["metadata"]["labels"] = {}
    if kind is CUDN:
        theirs["spec"]["network"] = {"localnet": {"physicalNetworkName": "x"}}
    lab.server.seed(kind, theirs)
    with pytest.raises(UnfitError, match="that no run has made") as refused:
        _up(lab, network)
    assert (refused.value.reason, "kubectl delete" in refused.value.way_out) == ("network-foreign", True)
    networks.down(lab.api, network)
    assert lab.api.get(kind, f"stuntime-{network}") is not None


def _leftovers(lab: Lab, run: str | None = None) -> list[cleanup.Leftover]:
    return cleanup.leftovers(lab.api, run=run, older_than_s=0, now=time.time(), window_namespace="stuntime")[0]


def _seed_nic_lease(lab: Lab, nic: str, run: str) -> None:
    labels = {RUN_LABEL: run, NAMESPACE_LABEL: "ns"}
    lab.server.seed(LEASE, LEASE.object(f"stuntime-nic-{nic}", labels=labels), "stuntime")


def test_cleanup_takes_networks_by_their_run_and_leases_last(lab: Lab) -> None:
    """Cleaning up one run leaves the other's network; a NIC's Lease is given up when the nodes have their NIC."""
    _up(lab, BRIDGE, run="dead")
    _up(lab, LOCALNET, run="alive", nic="eno1")
    for nic, run in (("eno2", "dead"), ("eno1", "alive")):
        _seed_nic_lease(lab, nic, run)
    cleanup.remove(lab.api, _leftovers(lab, run="dead"), Window(lab.api, namespace="stuntime", run="cleanup"))
    assert networks.makers_of(lab.api, BRIDGE) == []
    assert networks.makers_of(lab.api, LOCALNET) == [("ns", "alive")]
    assert [one for one in lab.left() if one.startswith(LEASE.name)] == [f"{LEASE.name} stuntime-nic-eno1"]
    removed = [one.resource for one in lab.server.asked("DELETE") if "stuntime-window" not in one.path]
    assert removed[-1] == LEASE.resource


def test_cleanup_keeps_the_nic_of_a_network_that_does_not_go(lab: Lab) -> None:
    """A node that does not give its NIC back still has it: the Lease stays, and the next cleaning up takes both."""
    _up(lab, run="dead")
    _seed_nic_lease(lab, "eno2", "dead")
    lab.nmstate.refusals["node-b"] = "NmstateError: device is busy"
    window = Window(lab.api, namespace="stuntime", run="cleanup")
    with pytest.raises(TestbedError, match="not all could be removed"):
        cleanup.remove(lab.api, _leftovers(lab), window)
    assert f"{LEASE.name} stuntime-nic-eno2" in lab.left()
    lab.nmstate.refusals.clear()
    cleanup.remove(lab.api, _leftovers(lab), window)
    lab.require_left()


def test_a_lease_is_as_old_as_its_holder(lab: Lab) -> None:
    """A NIC that was taken over just now is not old, however long ago its Lease was made."""
    _seed_nic_lease(lab, "eno2", "alive")
    lease = lab.api.get(LEASE, "stuntime-nic-eno2", "stuntime")

    def taken_over(one: Object) -> None:
        one["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
        one["spec"] = {"acquireTime": micro_time(), "holderIdentity": "run alive"}

    lab.server.store.edit(LEASE, lease, taken_over)
    [found] = _leftovers(lab)
    assert found.age_s < 60


def test_cleanup_leaves_a_nic_that_another_run_has_by_now(lab: Lab) -> None:
    """A Lease that was taken over since it was listed is its new holder's."""
    _seed_nic_lease(lab, "eno2", "dead")
    found = _leftovers(lab)
    Window(lab.api, namespace="stuntime", run="alive").take_nic("eno2", "run alive", duration_s=60)
    lab.require_left(f"{LEASE.name} stuntime-nic-eno2")
    cleanup.remove(lab.api, found, Window(lab.api, namespace="stuntime", run="cleanup"))
    lab.require_left(f"{LEASE.name} stuntime-nic-eno2")


def test_cleanup_waits_for_a_measurement_only_so_long(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement that does not end is marked, and what is left is removed all the same."""
    monkeypatch.setattr(cleanup, "PATIENCE_S", 0.2)
    _up(lab, run="dead")
    with (
        pytest.raises(InvalidError, match="cleanup") as disturbed,
        Window(lab.api, namespace="stuntime", run="theirs").measuring("it"),
    ):
        cleanup.remove(lab.api, _leftovers(lab, run="dead"), Window(lab.api, namespace="stuntime", run="cleanup"))
    assert disturbed.value.reason == "window-disturbed"
    lab.require_left()


@pytest.mark.parametrize("announced", [True, False])
def test_cleanup_holds_measurements_off(lab: Lab, announced: bool) -> None:
    """What cleaning up does to nodes is announced in the quiet window; where that cannot be, it is done and said."""
    _up(lab, run="dead")
    if not announced:
        lab.server.forbid("create", LEASE.resource)
    lines: list[bool] = []

    def look(change: Change) -> None:
        if change.kind == NNCP and change.type == "MODIFIED":
            lines.append(any("'cleanup'" in one for one in lab.left() if one.startswith(LEASE.name)))

    found = _leftovers(lab)
    lab.server.store.listeners.append(look)
    cleanup.remove(lab.api, found, Window(lab.api, namespace="stuntime", run="cleanup"))
    assert set(lines) == {announced}
    assert bool(lab.said("cleanup.not-announced")) == (not announced)
    lab.require_left()
