"""What is sent to a cluster, before the types and the validation of Tekton, KubeVirt, Multus and Kubernetes."""

import copy
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance import shipped
from tests.conformance.conftest import Judge
from tests.conformance.from_git import from_git
from tests.conformance.manifests import everything
from tests.conformance.references import problems

NIGHTLY = shipped.ROOT / "pipelines" / "samples" / "nightly.yaml"
Change = Callable[[dict[str, Any]], None]


@pytest.mark.parametrize("file", shipped.OBJECTS, ids=lambda file: str(file.relative_to(shipped.ROOT)))
def test_shipped_objects_are_valid(judge: Judge, file: Path):
    """Each object that is shipped decodes strictly into upstream's type, and passes Tekton's validation."""
    assert judge(shipped.documents(file)) == []


def test_the_nightly_run_is_valid(judge: Judge):
    """The PipelineRun that the scheduled job creates is judged as those that stand in files of their own."""
    (found,) = (one for one in shipped.documents(NIGHTLY) if one["kind"] == "ConfigMap")
    assert judge([yaml.safe_load(found["data"]["run.yaml"])]) == []


@pytest.mark.parametrize("file", shipped.OBJECTS, ids=lambda file: str(file.relative_to(shipped.ROOT)))
def test_samples_name_what_the_pipeline_has(file: Path):
    """A PipelineRun that is shipped gives only parameters and workspaces that the pipeline has, of their types."""
    found = shipped.documents(file)
    found += [yaml.safe_load(one["data"]["run.yaml"]) for one in found if "run.yaml" in one.get("data", {})]
    for run in (one for one in found if one["kind"] == "PipelineRun"):
        reference = {one["name"]: one["value"] for one in run["spec"]["pipelineRef"].get("params", [])}
        spec = shipped.pipeline(shipped.ROOT / reference.get("pathInRepo", shipped.PIPELINE))["spec"]
        params = {one["name"]: one.get("type", "string") for one in spec["params"]}
        given = {one["name"] for one in run["spec"].get("params", [])}
        assert {one["name"] for one in spec["params"] if "default" not in one} <= given
        for one in run["spec"].get("params", []):
            assert params[one["name"]] == ("array" if isinstance(one["value"], list) else "string")
        spaces = {one["name"] for one in run["spec"].get("workspaces", [])}
        assert not spaces or (spaces == {"results"} and shipped.WORKSPACE.name in file.read_text())
        timeouts = run["spec"]["timeouts"]
        assert timeouts.keys() == {"pipeline", "tasks", "finally"}, "the report runs also when the tasks take too long"
        assert run["spec"]["taskRunTemplate"]["serviceAccountName"] == "stuntime"


def test_the_pipeline_from_git_is_the_one_that_is_installed():
    """`make git-pipeline` was run after the last change, and each task is one of ours, at its place."""
    assert shipped.FROM_GIT.read_text() == from_git(shipped.PIPELINE.read_text())
    spec = shipped.pipeline(shipped.FROM_GIT)["spec"]
    steps = [*spec["tasks"], *spec["finally"]]
    places = [{one["name"]: one["value"] for one in step["taskRef"]["params"]}["pathInRepo"] for step in steps]
    assert {shipped.ROOT / place for place in places} == set(shipped.TASKS)


def test_made_objects_are_valid(judge: Judge):
    """Each object that the product makes decodes strictly into upstream's type."""
    found = list(everything())
    kinds = {one["kind"] for one in found}
    assert len(kinds) == 8
    assert judge(found) == []


def built(program: Path, directory: Path) -> list[dict[str, Any]]:
    argv = [str(program), "-kustomize", str(directory), "-print"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def test_the_kustomization_is_all_that_is_needed(program: Path):
    """The kustomization builds every task, the pipeline, the account and its rights, and nothing else."""
    found = built(program, shipped.ROOT)
    names = sorted((one["kind"], one["metadata"]["name"]) for one in found)
    assert names == sorted(
        [
            *(("Task", name) for name in shipped.tasks()),
            ("Pipeline", "stuntime"),
            ("Namespace", "stuntime"),
            ("ServiceAccount", "stuntime"),
            ("Role", "stuntime"),
            ("RoleBinding", "stuntime"),
            ("ClusterRole", "stuntime"),
            ("ClusterRoleBinding", "stuntime"),
            ("Role", "stuntime-window"),
            ("RoleBinding", "stuntime-window"),
        ]
    )


def test_the_report_may_have_a_volume(program: Path, judge: Judge, tmp_path: Path):
    """The pipeline that is patched has an optional workspace, which its report has, too; the one shipped has none.

    For tkn asks about an optional one, and a job has nobody to answer.
    """
    for file in (shipped.PIPELINE, shipped.WORKSPACE):
        _copy(file, tmp_path / file.name)
    patches = [{"target": {"kind": "Pipeline"}, "path": shipped.WORKSPACE.name}]
    wanted = {"resources": [shipped.PIPELINE.name], "patches": patches}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
    (found,) = built(program, tmp_path)
    assert judge([found]) == []
    assert problems(found, shipped.tasks()) == []
    (workspace,) = found["spec"].pop("workspaces")
    assert (workspace["name"], workspace["optional"]) == ("results", True)
    assert found["spec"]["finally"][0].pop("workspaces") == [{"name": "results", "workspace": "results"}]
    assert found == shipped.pipeline()
    assert "workspaces" not in found["spec"]


def test_only_the_leases_stay_where_they_are(program: Path, tmp_path: Path):
    """With another namespace all goes there, and the Leases' rights stay, for the account that is there."""
    for name in ("tasks", "pipelines", "kustomization.yaml"):
        _copy(shipped.ROOT / name, tmp_path / name)
    text = (shipped.ROOT / "namespace.yaml").read_text()
    (tmp_path / "namespace.yaml").write_text(text.replace("namespace: stuntime", "namespace: my-lab"))
    found = built(program, tmp_path)
    placed = {(one["kind"], one["metadata"]["name"]): one["metadata"].get("namespace") for one in found}
    stays = {key for key, namespace in placed.items() if namespace == "stuntime"}
    assert stays == {("Role", "stuntime-window"), ("RoleBinding", "stuntime-window")}
    subjects = [subject for one in found for subject in one.get("subjects", [])]
    assert Counter(subject["name"] for subject in subjects) == {"stuntime": 3, "pipeline": 3}
    assert {subject["namespace"] for subject in subjects} == {"my-lab"}


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def unknown_field(task: dict[str, Any]) -> None:
    task["spec"]["steps"][0]["resources"] = {}


def unknown_parameter(task: dict[str, Any]) -> None:
    task["spec"]["steps"][0]["args"][0] = "$(params.nobody)"


def part_of_an_array(task: dict[str, Any]) -> None:
    task["spec"]["steps"][0]["args"][0] = "--network=$(params.networks[*])"


def enumerated(task: dict[str, Any]) -> None:
    task["spec"]["params"][0]["enum"] = ["a"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (unknown_field, 'unknown field "resources"'),
        (unknown_parameter, "non-existent variable"),
        (part_of_an_array, "variable is not properly isolated"),
        (enumerated, "enable-param-enum"),
    ],
)
def test_a_wrong_task_is_refused(judge: Judge, change: Change, told: str):
    """A task that Tekton would refuse is refused here, with Tekton's words."""
    wrong = copy.deepcopy(shipped.task("stuntime-preflight"))
    change(wrong)
    assert any(told in problem for problem in judge([wrong]))


def test_a_wrong_pipeline_is_refused(judge: Judge):
    """A pipeline that both goes on after an error and tries again is refused, as Tekton does."""
    wrong = shipped.pipeline()
    wrong["spec"]["tasks"][2]["retries"] = 1
    assert judge([wrong])


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("VirtualMachine", ["spec", "template", "spec", "domain", "devices", "interfaces", 0, "bridge"]),
        ("VirtualMachineInstanceMigration", ["spec"]),
        ("NetworkAttachmentDefinition", ["spec"]),
        ("NodeNetworkConfigurationPolicy", ["spec", "desiredState", "interfaces", 0, "bridge"]),
        ("ClusterUserDefinedNetwork", ["spec", "network", "localnet", "ipam"]),
        ("ConfigMap", ["metadata", "ownerReferences", 0]),
    ],
)
def test_a_wrong_manifest_is_refused(judge: Judge, kind: str, place: list[str | int]):
    """A field that upstream's type does not have is refused, however deep it is."""
    wrong = copy.deepcopy(next(found for found in everything() if found["kind"] == kind))
    inner: Any = wrong
    for key in place:
        inner = inner[key]
    inner["nobodysField"] = True
    assert any("nobodysField" in problem for problem in judge([wrong]))


def test_a_bridge_mapping_of_no_bridge_is_refused(judge: Judge):
    """A policy that maps a localnet to a bridge that it does not make is refused."""
    policies = (found for found in everything() if found["kind"] == "NodeNetworkConfigurationPolicy")
    wrong = copy.deepcopy(next(found for found in policies if "ovn" in found["spec"]["desiredState"]))
    wrong["spec"]["desiredState"]["ovn"]["bridge-mappings"][0]["bridge"] = "br-nobody"
    assert any("br-nobody" in problem for problem in judge([wrong]))
