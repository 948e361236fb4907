"""Is a cluster fit? The table, the rights, and the commands that only a cluster has."""

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from stuntime import cli
from stuntime.errors import ExitCode, UnfitError
from stuntime.kubevirt import cleanup, networks, permissions, plans, preflight
from stuntime.kubevirt.cluster import Node
from stuntime.kubevirt.deposit import Depository
from stuntime.kubevirt.kinds import (
    CONFIG_MAP,
    CUDN,
    KUBEVIRT,
    LEASE,
    NAD,
    NAMESPACE,
    NNCP,
    NNS,
    NODE,
    POD,
    RUN_LABEL,
    VM,
    VMIM,
)
from stuntime.kubevirt.manifests import run_labels
from stuntime.kubevirt.permissions import RIGHTS
from stuntime.kubevirt.preflight import Found
from stuntime.kubevirt.settings import Guest, NetworkSettings
from stuntime.kubevirt.window import Window
from stuntime.scenario import NETWORKS, PATHS
from tests.unit.kubevirt_lab import OPTIONS, SCENARIO, Lab, hurry

NODE_A = Node("node-a", "node-a", {})
RBAC = Path(__file__).parents[2] / "tasks" / "rbac"
_VERBS = {"POST": "create", "PUT": "update"}
_PLACES = {"role.yaml": "namespace", "window-role.yaml": "window", "clusterrole.yaml": "cluster"}


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    hurry(monkeypatch)
    monkeypatch.setattr("stuntime.logs.configure", lambda **_: None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _examined(lab: Lab, *wanted: str, pull: bool = False) -> Found:
    return preflight.examine(lab.api, lab.settings, wanted or NETWORKS, PATHS, pull=pull)


def _unfit(found: Found) -> dict[str, str]:
    """Return what is not fit; each has a way out."""
    assert all(check.way_out for check in found.checks if not check.fit)
    return {check.name: check.found for check in found.checks if not check.fit}


# The table.


def test_a_fit_cluster(tmp_path: Path) -> None:
    """On a fit cluster every check is fit, the spare NIC is found, the image is pulled, and nothing is left."""
    with Lab(tmp_path) as lab:
        found = _examined(lab, pull=True)
        assert not _unfit(found)
        assert (found.nic, [node.name for node in found.nodes]) == ("eno2", ["node-a", "node-b", "node-c"])
        assert "guest image" in [check.name for check in found.checks]
        assert found.require() is found
        lab.require_nothing_left()


def _old(lab: Lab) -> None:
    found = lab.server.store.get(KUBEVIRT, "kubevirt", "kubevirt")
    lab.server.store.edit(KUBEVIRT, found, lambda one: one["status"].update(observedKubeVirtVersion="v1.5.2"))


def _node(lab: Lab, name: str, change: Callable[[dict], None]) -> None:
    found = lab.server.store.get(NODE, "", name)
    lab.server.store.edit(NODE, found, change)


def _one_node(lab: Lab) -> None:
    _node(lab, "node-b", lambda one: one["spec"].update(unschedulable=True))
    _node(lab, "node-c", lambda one: one["status"]["conditions"][0].update(status="False"))


def _busy_nic(lab: Lab) -> None:
    for name in ("node-a", "node-b", "node-c"):
        found = lab.server.store.get(NNS, "", name)
        lab.server.store.edit(
            NNS, found, lambda one: [nic.update(controller="br") for nic in one["status"]["currentState"]["interfaces"]]
        )


def _moving(lab: Lab) -> None:
    lab.server.store.admission.clear()
    lab.server.store.listeners[:] = [lab._kubelet]
    moving = {**VMIM.object("theirs", spec={"vmiName": "x"}), "status": {"phase": "Running"}}
    moving["metadata"]["labels"] = {}
    lab.server.seed(VMIM, moving, "default")


def _not_pulled(lab: Lab) -> None:
    lab.pulls = {"state": {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}}}


@pytest.mark.parametrize(
    ("spoil", "name", "told"),
    [
        (_old, "KubeVirt", "v1.5.2"),
        (_one_node, "nodes for VMs", "node-a of 1"),
        (_busy_nic, "NIC", "none"),
        (_moving, "idle", "default/theirs"),
        (_not_pulled, "guest image", "ErrImagePull: manifest unknown"),
        (lambda lab: lab.server.unknown(NAD), "Multus", "not there"),
        (lambda lab: lab.server.unknown(NNCP) or lab.server.unknown(NNS), "NMState", "not there"),
        (lambda lab: lab.server.unknown(CUDN), "OVN-Kubernetes", "not there"),
        (lambda lab: lab.server.forbid("create", VM.resource), "permissions", f"create {VM.resource} in ns"),
    ],
)
def test_a_cluster_that_is_not_fit(tmp_path: Path, spoil: Callable[[Lab], object], name: str, told: str) -> None:
    """What is not fit is a line of its own, with what was found and a way out; nothing is left by looking."""
    with Lab(tmp_path) as lab:
        spoil(lab)
        found = _examined(lab, pull=True)
        unfit = _unfit(found)
        assert set(unfit) == {name}
        assert told in unfit[name]
        with pytest.raises(UnfitError, match="the cluster is not fit"):
            found.require()
        lab.api.pause(0.05)
        assert not [one for one in lab.left() if one.startswith("Pod")]


def test_an_old_kubevirt_is_told_what_it_lacks(tmp_path: Path) -> None:
    """KubeVirt before 1.6 cannot be told the node to migrate to, and the way out says so."""
    with Lab(tmp_path, version="v1.5.2") as lab:
        [check] = [check for check in _examined(lab).checks if not check.fit]
        assert (check.name, check.found, check.needed) == ("KubeVirt", "v1.5.2", "1.6 or newer")
        assert "cannot be told the target node" in check.way_out
    assert preflight.new_enough("v1.6.0-beta.0")
    assert preflight.new_enough("2.0")
    assert not preflight.new_enough("unknown")


def test_nodes_and_nics_that_are_named(tmp_path: Path) -> None:
    """Nodes and a NIC by name are used in that order, and what a node has not is said."""
    with Lab(tmp_path) as lab:
        plain = lab.settings
        lab.settings = replace(plain, nodes=("node-c", "node-a", "node-b"), networks=NetworkSettings(nic="eno1"))
        found = _examined(lab)
        assert (found.nic, [node.name for node in found.nodes]) == ("eno1", ["node-c", "node-a", "node-b"])
        lab.settings = replace(plain, nodes=("node-a", "node-b", "node-z"), networks=NetworkSettings(nic="eno9"))
        unfit = _unfit(_examined(lab))
        assert "not fit: node-z" in unfit["nodes for VMs"]
        assert "node-a, node-b has not" in unfit["NIC"]


def test_a_network_that_is_up_keeps_its_nic(tmp_path: Path) -> None:
    """Where a network of ours is up already its NIC is used again, though a port of its bridge is no spare one."""
    with Lab(tmp_path) as lab:
        networks.up(lab.api, plans.Plan(NETWORKS[0], "ns", "eno2", None, None), [NODE_A], run_labels("dead"), ["eno2"])
        for name in ("node-a", "node-b", "node-c"):
            found = lab.server.store.get(NNS, "", name)
            port = {"name": "st-eno2", "type": "linux-bridge", "bridge": {"port": [{"name": "eno2"}]}}
            lab.server.store.edit(
                NNS, found, lambda one, port=port: one["status"]["currentState"]["interfaces"].append(port)
            )
        assert _examined(lab, NETWORKS[0]).nic == "eno2"
        [result] = lab.measured()
        assert result.error is None
        lab.require_nothing_left()


def test_a_network_that_is_left_on_another_nic_is_taken_away(tmp_path: Path) -> None:
    """Where a killed run left the network on another NIC, the nodes get that one back before the new one is taken."""
    with Lab(tmp_path) as lab:
        networks.up(lab.api, plans.Plan(NETWORKS[0], "ns", "eno2", None, None), [NODE_A], run_labels("dead"), ["eno2"])
        wanted = plans.Plan(NETWORKS[0], "ns", "eno1", None, None)
        with pytest.raises(UnfitError, match="is on NIC eno2 by now, for run dead of namespace ns") as refused:
            networks.up(lab.api, wanted, [NODE_A], run_labels("new"), ["eno1"])
        assert refused.value.reason == "nic-taken"
        assert networks.hold_nics(lab.api, wanted, lambda _: None) == ["eno1", "eno2"]
        networks.up(lab.api, wanted, [NODE_A], run_labels("new"), ["eno1", "eno2"])
        states = [(one["name"], one["state"]) for _, _, state in lab.nmstate.enacted for one in state["interfaces"]]
        assert states == [("st-eno2", "up"), ("st-eno2", "absent"), ("st-eno1", "up")]


def test_nodes_that_are_not_measured_on_are_left_alone(tmp_path: Path) -> None:
    """A network is made on the nodes that the run measures on; one that has not the NIC does not matter."""
    with Lab(tmp_path, nodes=("node-a", "node-b", "node-c", "node-d")) as lab:
        lab.nmstate.refusals["node-b"] = "NmstateError: no such NIC"
        lab.settings = replace(lab.settings, nodes=("node-a", "node-d", "node-c"))
        [result] = lab.measured()
        assert result.error is None
        assert {node for node, _, _ in lab.nmstate.enacted} == {"node-a", "node-c", "node-d"}
        lab.require_nothing_left()


def test_a_network_on_another_nic_is_not_taken_away(tmp_path: Path) -> None:
    """A run with a NIC of its own does not take over a network that another run has up on another NIC."""
    with Lab(tmp_path) as lab, lab.testbed(NETWORKS[0]) as theirs, theirs.network(NETWORKS[0], tmp_path):
        lab.settings = replace(lab.settings, run="another", networks=NetworkSettings(nic="eno1"))
        [result] = lab.measured()
        assert result.error.reason == "nic-taken"
        assert "NIC eno2 is taken by run 2026" in result.error.message
        assert networks.nics_of(lab.api) == {NETWORKS[0]: {"eno2"}}


# Rights.


def _asked(lab: Lab) -> set[tuple[str, str, str]]:
    """Return the rights that requests took: verb, resource, and where."""
    found = set()
    for one in lab.server.asked():
        if one.resource == one.path or "authorization.k8s.io" in one.path:
            continue
        where = "cluster"
        if "/namespaces/" in one.path and one.resource != "namespaces":
            where = "window" if one.path.split("/namespaces/")[1].startswith("stuntime/") else "namespace"
        found.add((_VERBS.get(one.verb, one.verb.lower()), one.resource, where))
    return found


def _let_ovn_be_slow(lab: Lab) -> None:
    """Have ClusterUserDefinedNetworks waited for, and the NAD of the next one made a while after it says so."""
    lab.ovn.step_s = 1.0
    selected = lab.ovn._selected

    def none_yet(network) -> list[str]:
        lab.ovn._selected = selected
        config = json.dumps(lab.ovn._configuration(network, "ns"))
        nad = NAD.object(
            network["metadata"]["name"], spec={"config": config}, owners=[{"uid": network["metadata"]["uid"]}]
        )
        lab.server.worker.later(0.3, lambda: lab.server.seed(NAD, nad))
        return []

    lab.ovn._selected = none_yet


def _granted() -> set[tuple[str, str, str]]:
    return {
        (verb, f"{right.resource}.{right.group}" if right.group else right.resource, right.where)
        for right in RIGHTS
        for verb in right.verbs
    }


def test_what_is_asked_of_the_api_is_what_is_granted(tmp_path: Path) -> None:
    """Every request of whole runs, with failures, is covered by a right, and every right is used by a request."""
    with Lab(tmp_path) as lab:
        _examined(lab, pull=True)
        labels = run_labels("dead")
        _let_ovn_be_slow(lab)
        for network in NETWORKS:  # a run that was killed left its networks
            networks.up(lab.api, plans.Plan(network, "ns", "eno1", None, None), [NODE_A], labels, ["eno1"])
        lab.server.seed(POD, POD.object("stuntime-dead-pull", labels=labels))
        with lab.testbed():  # another process of the same run is there
            lab.settings = replace(lab.settings, guest=Guest(image="guest"), boot_timeout_s=3.0)
            lab.kubevirt.next_migration(lab.vm(), "hangs")
            lab.kubevirt.place(lab.vm(number=8), "")
            asked = [SCENARIO, SCENARIO.replace("from-static", "to-static"), SCENARIO.replace(*NETWORKS)]
            results = lab.measured(*asked, options=replace(OPTIONS, migration_timeout_s=0.5))
            reasons = {result.error and result.error.reason for result in results}
            assert reasons == {None, "migration-timeout", "vm-not-running"}
        output = lab.output()
        for _ in range(2):  # the first time its answer was lost, say
            Depository(lab.api, output.plan.run, None).put_plan(output.plan, {})
        found, _ = cleanup.leftovers(lab.api, run=None, older_than_s=0, now=time.time(), window_namespace="stuntime")
        cleanup.remove(lab.api, found, Window(lab.api, namespace="stuntime", run="cleanup"))
        asked_for = {one for one in _asked(lab) if one[1] != "clusterversions.config.openshift.io"}  # read if it may be
        assert asked_for - _granted() == set()
        assert _granted() - asked_for == set()


def test_the_roles_that_are_shipped_are_the_rights() -> None:
    """tasks/rbac grants exactly what is asked for, place by place."""
    shipped = set()
    for name, where in _PLACES.items():
        role = yaml.safe_load((RBAC / name).read_text())
        assert role["kind"] == ("ClusterRole" if where == "cluster" else "Role")
        for rule in role["rules"]:
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            shipped |= {
                (verb, f"{resource}.{group}" if group else resource, where)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
    assert shipped == _granted()


def test_only_what_is_needed_is_asked_for(tmp_path: Path) -> None:
    """Rights to make networks are not asked for where existing NADs are used, those of OVN only for a localnet."""

    def groups(*made: str) -> set[str]:
        return {right.group for right in permissions.needed(made)}

    assert not {"nmstate.io", "k8s.ovn.org"} & groups()
    assert groups(NETWORKS[0]) - groups() == {"nmstate.io"}
    assert groups(*NETWORKS) - groups() == {"nmstate.io", "k8s.ovn.org"}
    with Lab(tmp_path) as lab:
        config = json.dumps({"plugins": [{"type": "bridge", "bridge": "br0"}]})
        lab.server.seed(NAD, {**NAD.object("theirs"), "spec": {"config": config}})
        lab.settings = replace(lab.settings, networks=NetworkSettings(nads={NETWORKS[0]: "theirs"}))
        for kind in (NNS, NNCP, CUDN):
            for verb in ("create", "delete", "get", "list", "patch", "watch"):
                lab.server.forbid(verb, kind.resource)
        assert not _unfit(_examined(lab, NETWORKS[0]))
        [result] = lab.measured()
        assert result.error is None


def test_each_right_that_is_missing_is_a_line(tmp_path: Path) -> None:
    """A right that the preflight itself uses and has not is told in the table, which is there all the same."""
    with Lab(tmp_path) as lab:
        for right in (
            ("list", NODE.resource),
            ("list", "kubevirts.kubevirt.io"),
            ("get", "namespaces"),
            ("list", VMIM.resource),
            ("list", NNS.resource),
            ("list", NNCP.resource),
            ("list", VM.resource),
            ("list", CONFIG_MAP.resource),
            ("create", POD.resource),
        ):
            lab.server.forbid(*right)
            assert f"{right[0]} {right[1]}" in _unfit(_examined(lab, pull=True))["permissions"].replace(",", " "), right
            lab.server.forbidden.clear()


# Commands.


def _run(lab: Lab, *words: str) -> int:
    """Run a command with a kubeconfig for the lab's cluster."""
    file = lab.folder / "kubeconfig"
    lab.folder.mkdir(exist_ok=True)
    file.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "lab",
                "clusters": [{"name": "lab", "cluster": {"server": lab.server.host}}],
                "users": [{"name": "lab", "user": {"token": lab.server.token}}],
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": "ns"}}],
            }
        )
    )
    return cli.main([*words, "--kubeconfig", str(file)])


def test_preflight_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints a line per check and ends with 0 or 3; --json is the same for a machine."""
    with Lab(tmp_path) as lab:
        assert _run(lab, "preflight", "--testbed", "kubevirt") == ExitCode.OK
        assert re.search(r"\nfit: \d+ checks passed\n", capsys.readouterr().out)
        lab.server.unknown(CUDN)
        assert _run(lab, "preflight", "--testbed", "kubevirt") == ExitCode.UNFIT
        assert "-> measure only" in capsys.readouterr().out
        assert _run(lab, "preflight", "--testbed", "kubevirt", "--json") == ExitCode.UNFIT
        told = json.loads(capsys.readouterr().out)
        assert told["fit"] is False
        assert [one["name"] for one in told["checks"] if not one["fit"]] == ["OVN-Kubernetes"]
        assert _run(lab, "preflight", "--testbed", "kubevirt", "--network", "linux-bridge") == ExitCode.OK


def test_preflight_boots_a_guest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --boot a guest's ping and observer are tried, too; an unfit guest is a line and leaves nothing."""
    words = ("preflight", "--testbed", "kubevirt", "--boot", "--guest-boot", "kernel", "--network", "linux-bridge")
    with Lab(tmp_path / "fit") as lab:
        assert _run(lab, *words) == ExitCode.OK
        told = " ".join(capsys.readouterr().out.split())
        assert "ping from iputils 20221126" in told
        lab.require_nothing_left(but="window-renewal")
    with Lab(tmp_path / "unfit", programs={"ping": "exit 127\n"}) as lab:
        assert _run(lab, *words, "--json") == ExitCode.UNFIT
        [check] = [one for one in json.loads(capsys.readouterr().out)["checks"] if not one["fit"]]
        assert (check["name"], check["way_out"]) == ("guest", "use a guest image that has the package iputils")
        assert "has no iputils ping" in check["found"]
        lab.require_nothing_left(but="window-renewal")


def test_preflight_boots_a_guest_on_the_network_that_is_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A guest is tried on the network that `network up` made, which holds the NIC that another one would need."""
    words = ("--testbed", "kubevirt", "--boot", "--guest-boot", "kernel", "--network", "linux-bridge")
    with Lab(tmp_path) as lab:
        assert _run(lab, "network", "up", "linux-bridge", "--nic", "eno2") == ExitCode.OK
        code = _run(lab, "preflight", *words, "--nad", "linux-bridge=stuntime-linux-bridge")
        assert code == ExitCode.OK, capsys.readouterr().out


def test_networks_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`network up` and `down` may be repeated; up once more is the same network, down without one is no error."""
    with Lab(tmp_path) as lab:
        for network in NETWORKS:
            for _ in range(2):
                assert _run(lab, "network", "up", network) == ExitCode.OK
                assert f"measure with --nad {network}=stuntime-{network}" in capsys.readouterr().out
            assert any(one.startswith(LEASE.name) for one in lab.left())
            for _ in range(2):
                assert _run(lab, "network", "down", network) == ExitCode.OK
            lab.require_nothing_left(but="window-renewal")
        assert _run(lab, "network", "up", NETWORKS[0], "--nad", f"{NETWORKS[0]}=x") == ExitCode.USAGE
        assert _run(lab, "network", "up", NETWORKS[0], "--nad", NETWORKS[0]) == ExitCode.USAGE


def test_cleanup_lists_and_removes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`cleanup` lists what runs left; it removes what is old enough, of the run that is named, and not in a dry run."""
    with Lab(tmp_path) as lab:
        for run in ("a-run", "another"):
            lab.server.seed(CONFIG_MAP, CONFIG_MAP.object(f"stuntime-{run}", labels={RUN_LABEL: run}))
        assert _run(lab, "cleanup", "--dry-run", "--window-namespace", "nowhere") == ExitCode.OK
        assert lab.api.get(NAMESPACE, "nowhere") is None
        assert "ConfigMap ns/stuntime-a-run of run a-run, 0 min old" in capsys.readouterr().out
        assert _run(lab, "cleanup", "--yes", "--older-than", "3600") == ExitCode.OK
        assert len(lab.left()) == 2
        assert _run(lab, "cleanup", "--yes", "--run", "A-Run") == ExitCode.OK
        lab.require_left("ConfigMap stuntime-another")
        assert _run(lab, "cleanup", "--yes") == ExitCode.OK
        lab.require_left()
        assert _run(lab, "cleanup", "--yes") == ExitCode.OK
        assert "nothing of ours is there" in capsys.readouterr().out
        lab.server.forbid("list", VMIM.resource)
        assert _run(lab, "cleanup", "--yes") == ExitCode.TESTBED


def test_a_resumed_run_has_its_settings_again(tmp_path: Path) -> None:
    """`--resume` goes on with the guest and the NIC that the run began with, unless another one is named."""
    words = ["suite", SCENARIO, "--testbed", "kubevirt", "--interval", "0.01", "--recovery-probes", "10"]
    with Lab(tmp_path) as lab:
        own = ("--guest-boot", "kernel", "--guest-image", "ours", "--nic", "eno1", "--output", str(tmp_path / "out"))
        assert _run(lab, *words, *own) == ExitCode.OK
        result = tmp_path / "out" / "results" / f"{SCENARIO}.json"
        for more, nic in ((), "eno1"), (("--nic", "eno2"), "eno2"):
            result.unlink()
            assert _run(lab, "suite", "--resume", str(tmp_path / "out"), *more) == ExitCode.OK
            environment = json.loads(result.read_text())["environment"]
            assert (environment["guest_image"], environment["nic"]) == ("ours", nic)


def test_a_resumed_run_removes_its_own_vms_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a process of the run that was killed has left is gone before its scenarios are measured again."""
    out = tmp_path / "out"
    words = ["suite", SCENARIO, "--testbed", "kubevirt", "--guest-boot", "kernel", "--output", str(out)]
    with Lab(tmp_path) as lab:
        words += ["--run", lab.settings.run, "--interval", "0.01", "--recovery-probes", "10"]
        assert _run(lab, *words) == ExitCode.OK
        (out / "results" / f"{SCENARIO}.json").unlink()
        left = {"runStrategy": "Halted", "template": {}}
        lab.server.seed(VM, VM.object(lab.vm(), labels={RUN_LABEL: lab.settings.run_name}, spec=left))
        assert _run(lab, "suite", "--resume", str(out)) == ExitCode.OK
        assert f"removed {VM.name} ns/{lab.vm()}" in capsys.readouterr().out


def test_a_network_that_stays_is_told_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network that cannot be taken away leaves the results and their judgement, and the command says what stays."""
    out = tmp_path / "out"
    words = ["suite", SCENARIO, "--testbed", "kubevirt", "--guest-boot", "kernel", "--output", str(out)]
    with Lab(tmp_path) as lab:
        lab.at("measure.collecting", lambda: lab.nmstate.refusals.update({"node-b": "NmstateError: busy"}))
        assert _run(lab, *words, "--interval", "0.01", "--recovery-probes", "10") == ExitCode.TESTBED
        assert "node-b could not be configured" in capsys.readouterr().err
        assert json.loads((out / "results" / f"{SCENARIO}.json").read_text())["error"] is None
        assert (out / "junit.xml").exists()


def test_a_network_of_another_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that could not have the NIC takes nothing away when it ends, and is told whose the network is."""
    with Lab(tmp_path) as lab:
        assert _run(lab, "network", "up", NETWORKS[0], "--run", "theirs") == ExitCode.OK
        before = lab.left()
        assert _run(lab, "network", "up", NETWORKS[0], "--run", "ours") == ExitCode.UNFIT
        assert "is taken by run theirs" in capsys.readouterr().err
        assert _run(lab, "network", "down", NETWORKS[0], "--run", "ours") == ExitCode.OK
        assert "stuntime cleanup --testbed kubevirt --namespace ns --run theirs`" in capsys.readouterr().err
        lab.require_left(*before)
        assert _run(lab, "network", "down", NETWORKS[0], "--run", "theirs") == ExitCode.OK
        lab.require_nothing_left(but="window-renewal")


@pytest.mark.parametrize("asked", [False, True])
def test_two_nodes_leave_a_path_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: bool) -> None:
    """Where no third node is, `suite` says which path falls away; one that was asked for by name is an error."""
    words = ["suite", "--testbed", "kubevirt", "--guest-boot", "kernel", "--output", str(tmp_path / "out")]
    words += ["--network", NETWORKS[0], "--initiator", "static", "--interval", "0.01", "--recovery-probes", "10"]
    words += ["--path", ",".join(PATHS)] if asked else []
    with Lab(tmp_path, nodes=("node-a", "node-b")) as lab:
        assert _run(lab, *words) == (ExitCode.INVALID if asked else ExitCode.OK)
        assert "the scenarios between-other-nodes fall away" in capsys.readouterr().err
        results = {
            file.name.split(".")[1]: json.loads(file.read_text()) for file in tmp_path.glob("out/results/*.json")
        }
        reasons = {path: (result["error"] or {}).get("reason") for path, result in results.items()}
        missing = {"between-other-nodes": "node-missing"} if asked else {}
        assert reasons == {"from-static-node": None, "to-static-node": None, **missing}


def test_a_run_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`run` measures on the cluster, and refuses what this testbed cannot do before anything is made."""
    words = ["run", SCENARIO, "--testbed", "kubevirt", "--guest-boot", "kernel", "--output", str(tmp_path / "out")]
    with Lab(tmp_path) as lab:
        assert _run(lab, *words, "--capture") == ExitCode.UNFIT
        assert _run(lab, *words, "--vlan", "5000") == ExitCode.USAGE
        assert _run(lab, *words, "--ipv4-subnet", "10.0.0.0/30") == ExitCode.USAGE
        assert not (tmp_path / "out").exists()
        assert not lab.server.asked("POST", CONFIG_MAP.resource)
        assert _run(lab, *words, "--interval", "0.01", "--recovery-probes", "10") == ExitCode.OK
        assert json.loads((tmp_path / "out" / "results" / f"{SCENARIO}.json").read_text())["error"] is None
        lab.require_nothing_left(but="window-renewal")
    with Lab(tmp_path / "old", version="v1.5.2") as lab:
        words[-1] = str(tmp_path / "not")
        assert _run(lab, *words) == ExitCode.UNFIT
        assert "KubeVirt: v1.5.2" in capsys.readouterr().err
        assert not (tmp_path / "not").exists()
