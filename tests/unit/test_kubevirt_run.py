"""Whole measurements on a fake cluster: the order, what is asked of the API, and that nothing is left."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from stuntime.kubevirt import cluster, preflight
from stuntime.kubevirt.kinds import NAD, NNCP, NODE, VM, VMIM
from stuntime.kubevirt.settings import Guest, NetworkSettings
from stuntime.result import to_json
from stuntime.scenario import PATHS
from stuntime.suite import run_plan
from stuntime.threshold import Verdict, judge
from tests.unit.kubeapi.kubevirt import Times
from tests.unit.kubevirt_lab import OPTIONS, SCENARIO, Lab, hurry

_KVM = "devices.kubevirt.io/kvm"


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def test_nodes_say_amounts_with_units(tmp_path: Path) -> None:
    """KubeVirt's device plugin gives a node `1k` of KVM, and one without has none."""
    with Lab(tmp_path) as lab:
        assert cluster.read(lab.api).kvm
        for one in lab.api.find(NODE):
            lab.server.store.edit(NODE, one, lambda node: node["status"]["allocatable"].update({_KVM: "0"}))
        assert not cluster.read(lab.api).kvm


def test_both_networks_are_measured(tmp_path: Path) -> None:
    """Both waves, both initiators and both families give numbers, and nothing is left of them."""
    asked = (
        SCENARIO,
        "linux-bridge.between-other-nodes.migrated.ipv6",
        "ovn-localnet.to-static-node.static.ipv4",
        "ovn-localnet.from-static-node.migrated.ipv6",
    )
    with Lab(tmp_path) as lab:
        results = {result.scenario: result for result in lab.measured(*asked)}
        assert set(results) == set(asked)
        for result in results.values():
            assert result.error is None
            assert result.measurement.stuntime_s == 0.0
            assert judge(result).verdict is Verdict.PASS
            assert lab.evidence(result) == {"ping.log", "observer.log"}
        moved = [results[scenario].migration for scenario in asked]
        assert [(one.source, one.target) for one in moved] == [
            ("node-a", "node-b"),
            ("node-b", "node-c"),
            ("node-c", "node-a"),
            ("node-a", "node-b"),
        ]
        assert moved[0].mode == "pre-copy"
        assert list(moved[0].phases)[-1] == "Succeeded"
        assert moved[0].configuration["allowPostCopy"] is False
        bridge, localnet = (results[asked[place]].environment for place in (0, 2))
        assert bridge.network["disableContainerInterface"] is True
        assert (bridge.nic, bridge.accelerator) == ("eno2", "kvm")
        assert localnet.network["physicalNetworkName"] == "stuntime-ovn-localnet"
        lab.require_nothing_left()


def test_an_outage_is_seen_through_the_api(tmp_path: Path) -> None:
    """An outage at the switch-over is in the result, in its phase."""
    with Lab(tmp_path, times=Times(boot_s=0.02, step_s=0.01, move_s=0.5, delete_s=0.01)) as lab:
        cut = lab.cut()
        lab.at("migration.phase", cut.__enter__, phase="Running")
        lab.at("migration.phase", lambda: cut.__exit__(None, None, None), phase="Succeeded")
        [result] = lab.measured()
        assert result.error is None
        assert 0.3 < result.measurement.stuntime_s < 3
        assert result.measurement.outages[0].phase == "switch-over"


def test_one_wave_is_one_boot(tmp_path: Path) -> None:
    """All of a network's VMs are asked for before the first migration, and each repetition uses them again."""
    asked = (SCENARIO, "linux-bridge.to-static-node.static.ipv4", "linux-bridge.between-other-nodes.static.ipv4")
    with Lab(tmp_path) as lab:
        results = lab.measured(*asked, repeat=2)
        assert [result.error for result in results] == [None] * 6
        log = lab.server.asked()
        made = [place for place, one in enumerate(log) if (one.verb, one.resource) == ("POST", VM.resource)]
        moved = [place for place, one in enumerate(log) if (one.verb, one.resource) == ("POST", VMIM.resource)]
        assert len(made) == 6
        assert made[-1] < moved[0]
        ordinals = Counter(result.migration.ordinal for result in results)
        assert max(ordinals) >= 3  # a second repetition brings the VM back first


def test_a_migration_is_watched(tmp_path: Path) -> None:
    """However long a migration takes, it costs the API no more requests: it is watched, not polled."""
    counts = []
    for folder, move_s in (("short", 0.05), ("long", 1.0)):
        with Lab(tmp_path / folder, times=Times(boot_s=0.02, step_s=0.01, move_s=move_s, delete_s=0.01)) as lab:
            begun: list[int] = []
            lab.at("measure.migrating", lambda lab=lab, begun=begun: begun.append(len(lab.server.log)))
            lab.at("measure.recovering", lambda lab=lab, begun=begun: begun.append(len(lab.server.log)))
            lab.measured()
            counts.append(begun[1] - begun[0])
    assert counts[0] == counts[1]
    # The VMIM made, listed and watched; the VMI listed, and the node asked for. A watch of 60 s is asked for anew once.
    assert counts[1] <= 8


def test_a_scenario_is_cheap(tmp_path: Path) -> None:
    """A scenario costs a bounded number of requests of each verb, its boot, measurement and removal included."""
    one, three = [], []
    asked = (SCENARIO, "linux-bridge.to-static-node.static.ipv4", "linux-bridge.between-other-nodes.static.ipv4")
    for scenarios, count in (((SCENARIO,), one), (asked, three)):
        with Lab(tmp_path / str(len(scenarios))) as lab:
            lab.measured(*scenarios, together=1)
            count.append(Counter(request.verb for request in lab.server.log if not request.path.endswith("/console")))
    each = {verb: (number - one[0][verb]) / 2 for verb, number in three[0].items()}
    assert each["POST"] <= 3  # two VMs, one migration
    assert each["DELETE"] <= 4  # two VMs, two VMIs
    assert each["PUT"] <= 8  # into the window's line and out of it: boot, measurement, removal
    assert each["GET"] + each["LIST"] + each["WATCH"] <= 28


def test_no_secret_is_told(tmp_path: Path) -> None:
    """The guests' password is in the secret alone: not in logs, results or evidence, also after a failure."""
    with Lab(tmp_path) as lab:
        lab.settings = replace(lab.settings, guest=Guest(image="guest"))
        lab.kubevirt.next_migration(lab.vm(), "succeeds", "target-killed")
        output = lab.output(repeat=2)
        with lab.testbed("linux-bridge") as testbed:
            password = testbed._password
            run_plan(testbed, output, OPTIONS, lab.progress, together=1)
        assert [result.error and result.error.reason for result in lab.results] == [None, "migration-failed"]
        assert any(password in str(one.body) for one in lab.server.asked("POST", "secrets"))
        told = [str(lab.heard.events), *(to_json(result).decode() for result in lab.results)]
        told += [path.read_text(errors="replace") for path in output.root.rglob("*") if path.is_file()]
        told += [str(one.body) for one in lab.server.asked() if one.resource != "secrets"]
        assert "virtualmachines.json" in {path.name for path in output.root.rglob("*")}
        assert not any(password in text for text in told)
        assert password not in repr(testbed.__dict__["_held"]) + repr(vars(testbed)["_machines"])
        lab.require_nothing_left()


def test_existing_nads_are_used_and_left_alone(tmp_path: Path) -> None:
    """With --nad nothing is made on the nodes, no NIC is taken, and the NAD is still there afterwards."""
    with Lab(tmp_path) as lab:
        config = {"cniVersion": "0.3.1", "plugins": [{"type": "bridge", "bridge": "br0"}]}
        lab.server.seed(NAD, {**NAD.object("theirs"), "spec": {"config": json.dumps(config)}})
        lab.settings = replace(lab.settings, networks=NetworkSettings(nads={"linux-bridge": "theirs"}))
        [result] = lab.measured()
        assert result.error is None
        assert result.environment.network == {
            "bridge": "br0",
            "cniVersion": "0.3.1",
            "disableContainerInterface": False,
            "type": "bridge",
        }
        assert not lab.server.asked("*", NNCP.resource)
        lab.require_left("NetworkAttachmentDefinition theirs")


def test_two_nodes_measure_two_paths(tmp_path: Path) -> None:
    """Without a third node between-other-nodes falls away, which preflight says; the other paths are measured."""
    asked = [f"linux-bridge.{path}.static.ipv4" for path in PATHS]
    with Lab(tmp_path, nodes=("node-a", "node-b")) as lab:
        found = preflight.examine(lab.api, lab.settings, ["linux-bridge"], ("between-other-nodes", "to-static-node"))
        assert found.fit, found.checks
        assert "the scenarios between-other-nodes fall away" in [check.note for check in found.checks]
        only = preflight.examine(lab.api, lab.settings, ["linux-bridge"], ("between-other-nodes",), pull=False)
        assert [check.name for check in only.checks if not check.fit] == ["nodes for VMs"]
        results = {result.scenario: result for result in lab.measured(*asked)}
        told = [results[scenario].error and results[scenario].error.reason for scenario in asked]
        assert told == [None, "node-missing", None]
        assert not [one for one in lab.server.asked("POST", VM.resource) if "-04-" in str(one.body)]
        lab.require_nothing_left()


def test_a_repetition_after_a_failure_has_new_vms(tmp_path: Path) -> None:
    """VMs of a measurement that failed are not used again, and the new ones of the same name are migrated, too."""
    with Lab(tmp_path) as lab:
        lab.kubevirt.next_migration(lab.vm(), "target-killed")
        results = lab.measured(repeat=3)
        assert [result.error and result.error.reason for result in results] == ["migration-failed", None, None]
        assert len(lab.server.asked("POST", VM.resource)) == 4
        assert [result.migration.ordinal for result in results[1:]] == [1, 3]
        lab.require_nothing_left()


def test_a_run_goes_on_where_its_first_process_ended(tmp_path: Path) -> None:
    """A second process of the same run has an owner for its objects of its own, and leaves the first one's there."""
    with Lab(tmp_path) as lab, lab.testbed("linux-bridge"):
        [first] = [one for one in lab.left() if one.startswith("ConfigMap")]
        [result] = lab.measured()
        assert result.error is None
        lab.require_left(first)
    lab.require_left()
