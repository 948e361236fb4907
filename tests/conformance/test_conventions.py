"""The tasks and the pipeline keep to the conventions of Tekton's catalog, and may run where pods are restricted."""

import re
from itertools import pairwise
from typing import Any

import pytest
import yaml

from stuntime import __version__
from stuntime.kubevirt.permissions import RIGHTS
from tests.conformance import shipped

TASKS = sorted(shipped.tasks())


def step_of(task: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    """Return a step with what it takes from the template."""
    return {**task["spec"]["stepTemplate"], **step}


@pytest.mark.parametrize("found", [*shipped.tasks().values(), shipped.pipeline()], ids=lambda f: f["metadata"]["name"])
def test_metadata_is_complete(found: dict[str, Any]):
    """Each has the labels and annotations of the catalog, a summary as the first line, and says what it is."""
    metadata = found["metadata"]
    assert metadata["labels"]["app.kubernetes.io/version"] == __version__
    wanted = {"pipelines.minVersion", "categories", "tags", "displayName", "platforms"}
    assert {f"tekton.dev/{name}" for name in wanted} <= metadata["annotations"].keys()
    assert metadata["annotations"]["tekton.dev/pipelines.minVersion"] == "0.62.0"
    summary, _, more = found["spec"]["description"].partition("\n")
    assert summary.endswith(".")
    assert more.strip()
    for param in found["spec"]["params"]:
        assert param["description"].endswith(".")
        assert param["default"] is not None, "every parameter has a safe default"
        assert isinstance(param["default"], list) == (param.get("type") == "array")
        assert param["default"] != [], "an empty array hangs a run"
    for workspace in found["spec"].get("workspaces", []):
        assert workspace["optional"]


@pytest.mark.parametrize("name", TASKS)
def test_steps_are_commands(name: str):
    """A step has a command, no script, an image by version, and says what it needs."""
    task = shipped.task(name)
    for step in (step_of(task, one) for one in task["spec"]["steps"]):
        assert step["command"] == ["stuntime"]
        assert "script" not in step
        assert step["image"] == "$(params.image)"
        assert {"cpu", "memory"} <= step["computeResources"]["requests"].keys()
        assert "memory" in step["computeResources"]["limits"]
    (image,) = (one["default"] for one in task["spec"]["params"] if one["name"] == "image")
    assert image.endswith(f":{__version__}")


@pytest.mark.parametrize("name", TASKS)
def test_steps_may_run_where_pods_are_restricted(name: str):
    """A step takes no right and no user of its own, writes only to a volume, and leaves seccomp to the pod."""
    task = shipped.task(name)
    for step in (step_of(task, one) for one in task["spec"]["steps"]):
        assert step["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        }
        assert step["workingDir"] == "/tmp"
        assert step["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
        assert {"name": "HOME", "value": "/tmp"} in task["spec"]["stepTemplate"]["env"]
    assert {"name": "tmp", "emptyDir": {}} in task["spec"]["volumes"]


@pytest.mark.parametrize("name", TASKS)
def test_the_readme_says_all_of_a_task(name: str):
    """A task's README has each parameter with its default, each workspace and result, its rights and a sample."""
    task = shipped.task(name)
    text = (shipped.ROOT / "tasks" / name / "README.md").read_text()
    for param in task["spec"]["params"]:
        default = param["default"]
        told = ", ".join(default) if isinstance(default, list) else default
        assert re.search(
            rf"^\| `{param['name']}` \|.*\| {re.escape(f'`{told}`' if told else 'empty')} \|$", text, re.MULTILINE
        ), param
    for kind in ("workspaces", "results"):
        for one in task["spec"].get(kind, []):
            assert f"| `{one['name']}` |" in text
    assert "## Rights" in text
    assert f"tkn task start {name}" in text


def test_the_roles_are_what_the_product_uses():
    """The roles that are shipped give exactly the rights that the product asks for, and no others."""
    files = {"namespace": "role.yaml", "window": "window-role.yaml", "cluster": "clusterrole.yaml"}
    for where, file in files.items():
        rules = yaml.safe_load((shipped.ROOT / "tasks" / "rbac" / file).read_text())["rules"]
        given = {
            (group, resource, verb)
            for rule in rules
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        used = {(right.group, right.resource, verb) for right in RIGHTS if right.where == where for verb in right.verbs}
        assert given == used, where


def test_waves_follow_one_another():
    """The networks are made, measured and taken away one after the other, since they may share a NIC."""
    tasks = {one["name"]: one for one in shipped.pipeline()["spec"]["tasks"]}
    order = ["preflight"]
    for network in ("linux-bridge", "ovn-localnet"):
        order += [f"{network}-up", network, f"{network}-down"]
    assert list(tasks) == order
    for before, after in pairwise(order):
        assert tasks[after]["runAfter"] == [before]
        assert tasks[after]["onError"] == "continue"
        assert tasks[after]["when"][0]["values"] == ["$(params.networks[*])"]


def test_every_task_has_a_timeout():
    """Each task before the report has a timeout of its own, and the report is of `finally`.

    A pod that never starts takes the report along only where the PipelineRun gives `finally` no time of its own.
    """
    spec = shipped.pipeline()["spec"]
    assert all("timeout" in one for one in spec["tasks"])
    assert [one["name"] for one in spec["finally"]] == ["report", "cleanup"]
