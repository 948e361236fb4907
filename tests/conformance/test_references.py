"""The pipeline and its tasks name each other's parameters, workspaces and results as they are."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance import shipped
from tests.conformance.references import problems

Change = Callable[[dict[str, Any], dict[str, Any]], None]


def step(pipeline: dict[str, Any], name: str) -> dict[str, Any]:
    found = [*pipeline["spec"]["tasks"], *pipeline["spec"]["finally"]]
    return next(one for one in found if one["name"] == name)


def renamed(pipeline: dict[str, Any], _tasks: dict[str, Any]) -> None:
    step(pipeline, "report")["params"][0]["name"] = "ran"


def unheard_of(pipeline: dict[str, Any], _tasks: dict[str, Any]) -> None:
    step(pipeline, "cleanup")["taskRef"]["name"] = "stuntime-sweep"


def needed(_pipeline: dict[str, Any], tasks: dict[str, Any]) -> None:
    tasks["stuntime-cleanup"]["spec"]["params"].append({"name": "why"})


def of_another_type(pipeline: dict[str, Any], _tasks: dict[str, Any]) -> None:
    next(one for one in step(pipeline, "preflight")["params"] if one["name"] == "networks")["value"] = "linux-bridge"


def twice(pipeline: dict[str, Any], _tasks: dict[str, Any]) -> None:
    step(pipeline, "linux-bridge")["params"].append({"name": "path", "value": "to-static-node"})


def no_array(pipeline: dict[str, Any], _tasks: dict[str, Any]) -> None:
    next(one for one in pipeline["spec"]["params"] if one["name"] == "paths")["type"] = "string"


def no_such_workspace(pipeline: dict[str, Any], _tasks: dict[str, Any]) -> None:
    step(pipeline, "report")["workspaces"] = [{"name": "results", "workspace": "outcome"}]


def workspace_needed(pipeline: dict[str, Any], _tasks: dict[str, Any]) -> None:
    _tasks["stuntime-scenario"]["spec"]["workspaces"] = [{"name": "results"}]
    assert step(pipeline, "linux-bridge")


def undeclared_result(_pipeline: dict[str, Any], tasks: dict[str, Any]) -> None:
    tasks["stuntime-report"]["spec"].pop("results")


def undeclared_workspace(_pipeline: dict[str, Any], tasks: dict[str, Any]) -> None:
    tasks["stuntime-report"]["spec"].pop("workspaces")


def matrix_as_one(pipeline: dict[str, Any], _tasks: dict[str, Any]) -> None:
    step(pipeline, "report")["params"].append({"name": "settle", "value": "$(tasks.linux-bridge.results.verdict)"})


def no_such_result(pipeline: dict[str, Any], _tasks: dict[str, Any]) -> None:
    step(pipeline, "report")["params"].append({"name": "settle", "value": "$(tasks.linux-bridge.results.number[*])"})


def unused(_pipeline: dict[str, Any], tasks: dict[str, Any]) -> None:
    tasks["stuntime-cleanup"]["spec"]["params"].append({"name": "why", "default": ""})


def test_what_is_shipped_fits_together():
    """Pipeline and tasks name nothing that the other does not have."""
    assert problems(shipped.pipeline(), shipped.tasks()) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (renamed, "report: the task has no parameter ran"),
        (unheard_of, "cleanup: there is no task stuntime-sweep"),
        (needed, "cleanup: the task needs the parameter why"),
        (of_another_type, "preflight: parameter networks is of type array, and given a string"),
        (twice, "linux-bridge: parameter path is passed twice"),
        (no_array, "linux-bridge: parameter paths of the pipeline is no array"),
        (no_such_workspace, "report: the pipeline has no workspace outcome"),
        (workspace_needed, "linux-bridge: the task needs the workspace results"),
        (undeclared_result, "stuntime-report: it has no result summary"),
        (undeclared_workspace, "stuntime-report: it has no workspace results"),
        (matrix_as_one, "report: linux-bridge is a matrix, and its result verdict is no single one"),
        (no_such_result, "report: linux-bridge has no result number"),
        (unused, "stuntime-cleanup: parameter why is used nowhere"),
    ],
)
def test_a_wrong_name_is_found(change: Change, told: str):
    """Each kind of mistake that Tekton accepts is told."""
    pipeline, tasks = shipped.pipeline(), copy.deepcopy(shipped.tasks())
    change(pipeline, tasks)
    assert told in problems(pipeline, tasks)
