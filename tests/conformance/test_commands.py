"""The steps of the tasks are commands of the product: its own parser takes them, as Tekton would hand them over."""

import argparse
import re
from typing import Any

import pytest

from stuntime import cli
from stuntime.cli_common import given
from stuntime.kubevirt.settings import Owner
from tests.conformance import shipped

CONTEXT = {
    "context.taskRun.name": "stuntime-x7k2p",
    "context.taskRun.uid": "6a1c4f0e",
    "workspaces.results.path": "",
    "results.verdict.path": "/tekton/results/verdict",
    "results.summary.path": "/tekton/results/summary",
}
STEPS = [(name, step["name"]) for name, task in shipped.tasks().items() for step in task["spec"]["steps"]]


def arguments(task: dict[str, Any], step: str, **params: str | list[str]) -> argparse.Namespace:
    """Return what the product makes of a step's arguments; `params` are those of the TaskRun, _ for -."""
    values = {one["name"]: one.get("default") for one in task["spec"]["params"]}
    values |= {name.replace("_", "-"): value for name, value in params.items()}
    (args,) = (one["args"] for one in task["spec"]["steps"] if one["name"] == step)
    argv: list[str] = []
    for arg in args:
        if whole := re.fullmatch(r"\$\(params\.([\w-]+)\[\*\]\)", arg):
            argv += values[whole[1]]
        else:
            argv.append(substituted(substituted(arg, {f"params.{k}": v for k, v in values.items()}), CONTEXT))
    return cli._parser().parse_args(given(argv))


def substituted(text: str, values: dict[str, Any]) -> str:
    for name, value in values.items():
        text = text.replace(f"$({name})", str(value))
    return text


@pytest.mark.parametrize(("task", "step"), STEPS)
def test_defaults_are_enough(task: str, step: str):
    """With nothing but the defaults of its parameters, each step is a command that the product takes."""
    found = arguments(shipped.task(task), step)
    assert callable(found.command)
    assert "$(" not in " ".join(map(str, vars(found).values()))


@pytest.mark.parametrize("name", sorted(shipped.tasks()))
def test_every_parameter_reaches_the_command(name: str):
    """Each parameter that is set arrives in the product, so none is passed for nothing."""
    task = shipped.task(name)
    steps = [one["name"] for one in task["spec"]["steps"]]
    plain = {step: vars(arguments(task, step)) for step in steps}
    other = {
        "network": "ovn-localnet", "networks": ["ovn-localnet"], "action": "down", "path": "to-static-node",
        "paths": ["to-static-node"], "initiator": "migrated", "initiators": ["migrated"], "ip-family": "ipv6",
        "ip-families": ["ipv4", "ipv6"], "owner": "PipelineRun/a/b", "guest-boot": "kernel", "guest-memory": "2Gi",
        "run": "other", "image": None, "reportportal-secret": None,
    }  # fmt: skip
    for param in (one["name"] for one in task["spec"]["params"]):
        value = other.get(param, "7")
        if value is None:
            continue
        changed = {step: vars(arguments(task, step, **{param: value})) for step in steps}
        differing = [
            key for step in steps for key in plain[step] if key != "plain" and plain[step][key] != changed[step][key]
        ]
        assert differing, param


def test_a_scenario_is_one_of_the_run():
    """A scenario's step measures one scenario under the id of the run, and deposits it for its owner."""
    found = arguments(
        shipped.task("stuntime-scenario"),
        "measure",
        run="stuntime-run-x",
        owner="PipelineRun/stuntime-run-x/b7",
        nad="",
    )
    assert (found.scenario, found.run, found.deposit) == (
        "linux-bridge.from-static-node.static.ipv4",
        "stuntime-run-x",
        True,
    )
    assert Owner.parse(found.owner).kind == "PipelineRun"
    assert found.nad == ["linux-bridge="]


def test_several_words_are_one_list():
    """An array parameter becomes one list of the command's."""
    found = arguments(shipped.task("stuntime-preflight"), "plan", ip_families=["ipv4", "ipv6"])
    assert found.ip_family == ["ipv4", "ipv6"]
    assert found.network == ["linux-bridge", "ovn-localnet"]
