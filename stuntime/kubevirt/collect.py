"""A run's deposits, brought into an output directory that looks as if all had been measured from here."""

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from stuntime.errors import InvalidError, UsageError
from stuntime.kubevirt import deposit
from stuntime.kubevirt.api import Api
from stuntime.kubevirt.deposit import Deposits
from stuntime.kubevirt.kinds import POD
from stuntime.scenario import Scenario, measuring_order
from stuntime.store import SUMMARY, OutputDirectory, Plan, read_plan

_log = structlog.get_logger()

_PIPELINE_RUN = "tekton.dev/pipelineRun"
_MEASURES = "stuntime.io/measures=true"
_OVER = ("Succeeded", "Failed")


def settle(api: Api, run: str, timeout_s: float) -> tuple[str, ...]:
    """Wait until no pod of a PipelineRun measures any more; return those that still do after `timeout_s`."""
    going: tuple[str, ...] = ()
    for state in api.states(POD, time.monotonic() + timeout_s, labels=f"{_PIPELINE_RUN}={run},{_MEASURES}"):
        going = tuple(
            sorted(name for name, pod in state.items() if (pod.get("status") or {}).get("phase") not in _OVER)
        )
        if not going:
            break
        _log.info("collect.waiting", pods=going)
    return going


def bring(found: Deposits, run: str, root: Path) -> tuple[OutputDirectory, list[InvalidError]]:
    """Write a run's deposits into the output directory `root`; return it, and what is wrong with those that are torn.

    Raise UsageError when there are none, or the directory holds another run.
    """
    if not found.kept and found.plan is None:
        raise UsageError(
            f"the cluster keeps nothing of run {run}",
            "name a PipelineRun of this namespace; what it measured is deleted with it",
        )
    output = _opened(root, found.plan or _united([kept.plan for kept in found.kept]))
    wrong = deposit.unpack(found.kept, root)
    output.refresh()
    return output, wrong


def _opened(root: Path, plan: Plan) -> OutputDirectory:
    """Return the output directory, made now, or gone on with if it holds this very run."""
    if (root / SUMMARY).exists() and read_plan(root).run == plan.run:
        return OutputDirectory(root, plan)
    return OutputDirectory.create(root, plan)


def _united(plans: Sequence[Plan]) -> Plan:
    """Return one plan of those that each process had of its own, where nobody has left that of the whole run."""
    scenarios = measuring_order({Scenario.parse(scenario) for plan in plans for scenario in plan.scenarios})
    return msgspec.structs.replace(
        min(plans, key=lambda plan: plan.started),
        scenarios=tuple(scenario.id for scenario in scenarios),
        repeat=max(plan.repeat for plan in plans),
    )
