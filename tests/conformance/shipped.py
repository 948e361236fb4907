"""The YAML that is shipped, read: tasks, the pipeline, and samples."""

import copy
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TASKS = sorted((ROOT / "tasks").glob("stuntime-*/*.yaml"))
PIPELINE = ROOT / "pipelines" / "stuntime.yaml"
#: The same with tasks from git, made of it.
FROM_GIT = ROOT / "pipelines" / "stuntime-git.yaml"
#: What gives the pipeline a workspace.
WORKSPACE = ROOT / "pipelines" / "results-workspace.yaml"
#: What is no object: what `tkn --pod-template` reads, and a patch.
PARTS = ("pod-template.yaml", WORKSPACE.name)
OBJECTS = sorted(
    file
    for folder in ("tasks", "pipelines")
    for file in (ROOT / folder).rglob("*.yaml")
    if file.name not in ("kustomization.yaml", "namespace.yaml", *PARTS) or file.parent.name == "rbac"
)


def documents(file: Path) -> list[dict[str, Any]]:
    """Return the objects in a file."""
    return [found for found in yaml.safe_load_all(file.read_text()) if found]


def task(name: str) -> dict[str, Any]:
    """Return a task by its name."""
    return documents(ROOT / "tasks" / name / f"{name}.yaml")[0]


def tasks() -> dict[str, dict[str, Any]]:
    """Return all tasks by name."""
    return {file.stem: documents(file)[0] for file in TASKS}


def pipeline(file: Path = PIPELINE) -> dict[str, Any]:
    """Return a pipeline, to be changed as a test likes."""
    return copy.deepcopy(documents(file)[0])
