"""What Tekton lets through and a run then stumbles over: names in a pipeline that its tasks do not have."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

Named = Mapping[str, Any]

_RESULT = re.compile(r"\$\(tasks\.([\w-]+)\.results\.([\w-]+)(\[\*\])?")
_OWN = re.compile(r"\$\((workspaces|results)\.([\w-]+)\.")
_WHOLE_ARRAY = re.compile(r"\$\(params\.([\w-]+)\[\*\]\)")


def problems(pipeline: Named, tasks: Mapping[str, Named]) -> list[str]:
    """Return what is wrong between a pipeline and the tasks it names, and inside these tasks."""
    spec = pipeline["spec"]
    declared = {one["name"]: one for one in spec.get("params", [])}
    volumes = {one["name"] for one in spec.get("workspaces", [])}
    steps = [*spec["tasks"], *spec.get("finally", [])]
    known = {step["name"]: step for step in steps}
    found = [problem for step in steps for problem in _of_step(step, tasks, declared, volumes)]
    found += [problem for step in steps for problem in _of_results(step, known, tasks)]
    found += [problem for name, task in tasks.items() for problem in _of_task(name, task)]
    return found


def _of_step(step: Named, tasks: Mapping[str, Named], declared: Named, volumes: set[str]) -> Iterator[str]:
    name = step["name"]
    task = tasks.get(step["taskRef"]["name"])
    if task is None:
        yield f"{name}: there is no task {step['taskRef']['name']}"
        return
    yield from _of_params(step, task, declared)
    yield from _of_workspaces(step, task, volumes)


def _of_params(step: Named, task: Named, declared: Named) -> Iterator[str]:
    name = step["name"]
    params = {one["name"]: one for one in task["spec"].get("params", [])}
    matrix = (step.get("matrix") or {}).get("params", [])
    passed = [*step.get("params", []), *matrix]
    names = [one["name"] for one in passed]
    for one in passed:
        if one["name"] not in params:
            yield f"{name}: the task has no parameter {one['name']}"
            continue
        wanted = params[one["name"]].get(
            "type", "array" if isinstance(params[one["name"]].get("default"), list) else "string"
        )
        given = "string" if one in matrix else "array" if isinstance(one["value"], list) else "string"
        if wanted != given:
            yield f"{name}: parameter {one['name']} is of type {wanted}, and given a {given}"
    yield from (f"{name}: parameter {one} is passed twice" for one in sorted({n for n in names if names.count(n) > 1}))
    for one in params.values():
        if "default" not in one and one["name"] not in names:
            yield f"{name}: the task needs the parameter {one['name']}"
    for array in _WHOLE_ARRAY.findall(json.dumps([step.get("params"), matrix, step.get("when")])):
        if declared.get(array, {}).get("type") != "array":
            yield f"{name}: parameter {array} of the pipeline is no array"


def _of_workspaces(step: Named, task: Named, volumes: set[str]) -> Iterator[str]:
    name = step["name"]
    spaces = {one["name"]: one for one in task["spec"].get("workspaces", [])}
    bound = {one["name"]: one["workspace"] for one in step.get("workspaces", [])}
    yield from (f"{name}: the task has no workspace {one}" for one in bound if one not in spaces)
    yield from (f"{name}: the pipeline has no workspace {one}" for one in bound.values() if one not in volumes)
    for one in spaces.values():
        if not one.get("optional") and one["name"] not in bound:
            yield f"{name}: the task needs the workspace {one['name']}"


def _of_results(step: Named, known: Mapping[str, Named], tasks: Mapping[str, Named]) -> Iterator[str]:
    for other, result, star in _RESULT.findall(json.dumps(step)):
        source = known.get(other)
        task = tasks.get(source["taskRef"]["name"]) if source else None
        if source is None or task is None:
            yield f"{step['name']}: there is no task {other} in the pipeline"
        elif result not in {one["name"] for one in task["spec"].get("results", [])}:
            yield f"{step['name']}: {other} has no result {result}"
        elif "matrix" in source and not star:
            yield f"{step['name']}: {other} is a matrix, and its result {result} is no single one"


def _of_task(name: str, task: Named) -> Iterator[str]:
    spec = task["spec"]
    known = {kind: {one["name"] for one in spec.get(kind, [])} for kind in ("workspaces", "results")}
    for kind, used in _OWN.findall(json.dumps([spec["steps"], spec.get("stepTemplate")])):
        if used not in known[kind]:
            yield f"{name}: it has no {kind.removesuffix('s')} {used}"
    declared = {one["name"] for one in spec.get("params", [])}
    unused = declared - set(re.findall(r"\$\(params\.([\w-]+)", json.dumps(spec)))
    yield from (f"{name}: parameter {one} is used nowhere" for one in sorted(unused))
