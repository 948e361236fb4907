"""Results in ConfigMaps: what was measured in a pod outlives the pod, needs no volume, and is read by whoever may.

Each measurement is one ConfigMap, and so is the run's plan, which says what was to be measured and by what it is
judged. They belong to the object that the run belongs to, and go with it.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from stuntime.errors import InvalidError, StuntimeError, TestbedError
from stuntime.kubevirt import parcel
from stuntime.kubevirt.api import Api, ConflictError
from stuntime.kubevirt.kinds import CONFIG_MAP, DEPOSIT_LABEL, OURS, RUN_LABEL, SCENARIO_LABEL, Object, selector
from stuntime.kubevirt.settings import Owner, run_name
from stuntime.result import Result, to_json
from stuntime.store import OutputDirectory, Plan

_log = structlog.get_logger()

RESULT, PLAN = "result", "plan"
_PARCEL, _PLAN_KEY = "parcel.tar.gz", "plan.json"
_LAST_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Kept:
    """A measurement that was deposited: the plan of the process that took it, and its parcel."""

    name: str
    plan: Plan
    content: bytes


@dataclass(frozen=True)
class Deposits:
    """All that a run has left. `plan` None: nobody has said what was planned. `policy`: ConfigMaps by option."""

    kept: tuple[Kept, ...]
    plan: Plan | None = None
    policy: Mapping[str, str] = field(default_factory=dict)


class Depository:
    """Where the results of a run are put. One that could not be put is remembered, and tried again by `settle`."""

    def __init__(self, api: Api, run: str, owner: Owner | None) -> None:
        """Remember whose results they are; nothing is asked yet."""
        self._api = api
        self._run = run
        self._owners = [owner.reference] if owner else []
        self._waiting: dict[tuple[str, int], tuple[OutputDirectory, Result]] = {}

    def put(self, output: OutputDirectory, result: Result) -> None:
        """Put a result that has been written, with its evidence; where that fails it is said, and kept for later."""
        key = (result.scenario, result.repetition)
        try:
            self._put(output, result)
        except StuntimeError as error:
            _log.warning("deposit.failed", scenario=result.scenario, reason=error.reason, message=str(error))
            self._waiting[key] = (output, result)
        else:
            self._waiting.pop(key, None)

    def settle(self) -> None:
        """Put what could not be put before; raise TestbedError when that fails again, its document in the log."""
        for output, result in list(self._waiting.values()):
            self.put(output, result)
        for _, result in self._waiting.values():
            _log.error("deposit.lost", document=msgspec.json.encode(result).decode())
        if self._waiting:
            raise TestbedError(
                f"{len(self._waiting)} results could not be kept in the cluster",
                "their documents are in the log of this command",
                reason="deposit-failed",
            )

    def put_plan(self, plan: Plan, policy: Mapping[str, str]) -> None:
        """Put what the run is going to measure, and the names of the ConfigMaps that it is judged by."""
        data = {**policy, _PLAN_KEY: to_json(plan).decode()}
        self._write(self._body(f"stuntime-{run_name(self._run)}.plan", {DEPOSIT_LABEL: PLAN}, data=data))

    def _put(self, output: OutputDirectory, result: Result) -> None:
        files = [output.document(result.scenario, result.repetition)]
        files += [output.root / found.file for found in result.evidence]
        packed = parcel.pack(output.root, files)
        told = {
            "scenario": result.scenario,
            "repetition": str(result.repetition),
            _PLAN_KEY: to_json(output.plan).decode(),
        }
        if packed.left_out:
            told["left-out"] = "\n".join(packed.left_out)
            _log.warning("deposit.bounded", scenario=result.scenario, left_out=packed.left_out)
        body = self._body(
            f"stuntime-{run_name(self._run)}.{result.scenario}.{result.repetition}",
            {DEPOSIT_LABEL: RESULT, SCENARIO_LABEL: result.scenario},
            data=told,
            binaryData={_PARCEL: base64.b64encode(packed.content).decode()},
        )
        self._write(body)
        _log.info("deposit.kept", scenario=result.scenario, repetition=result.repetition, bytes=len(packed.content))

    def _body(self, name: str, labels: Mapping[str, str], **fields: Mapping[str, str]) -> Object:
        labels = {RUN_LABEL: run_name(self._run), **labels}
        return CONFIG_MAP.object(name, labels=labels, owners=self._owners, **fields)

    def _write(self, body: Object) -> None:
        api = self._api.lasting(patience_s=_LAST_PATIENCE_S)
        while True:
            try:
                api.create(CONFIG_MAP, body)
            except ConflictError:
                found = api.get(CONFIG_MAP, body["metadata"]["name"])
                if found is None:
                    continue
                version = {"resourceVersion": found["metadata"]["resourceVersion"]}
                try:
                    api.replace(CONFIG_MAP, {**body, "metadata": {**body["metadata"], **version}})
                except ConflictError:
                    continue
            return


def read(api: Api, run: str) -> Deposits:
    """Return all that a run has left in the cluster."""
    labels = f"{selector({**OURS, RUN_LABEL: run_name(run)})},{DEPOSIT_LABEL}"
    found = api.find(CONFIG_MAP, labels=labels)
    plans = [one for one in found if one["metadata"]["labels"][DEPOSIT_LABEL] == PLAN]
    plan, policy = _plan(plans[0]) if plans else (None, {})
    kept = [_kept(one) for one in found if one["metadata"]["labels"][DEPOSIT_LABEL] == RESULT]
    return Deposits(tuple(one for one in kept if one), plan, policy)


def unpack(kept: Iterable[Kept], root: Path) -> list[InvalidError]:
    """Write deposited results and their evidence into an output directory; return what is wrong with some."""
    wrong = []
    for one in kept:
        try:
            parcel.unpack(one.content, root, f"ConfigMap {one.name}")
        except InvalidError as error:
            wrong.append(error)
    return wrong


def _plan(found: Object) -> tuple[Plan | None, dict[str, str]]:
    data = dict(found.get("data") or {})
    try:
        plan = msgspec.json.decode(data.pop(_PLAN_KEY, ""), type=Plan)
    except msgspec.DecodeError as error:
        _log.warning("deposit.plan-torn", name=found["metadata"]["name"], message=str(error))
        plan = None
    return plan, data


def _kept(found: Object) -> Kept | None:
    name, data = found["metadata"]["name"], found.get("data") or {}
    try:
        content = base64.b64decode((found.get("binaryData") or {})[_PARCEL], validate=True)
        return Kept(name, msgspec.json.decode(data[_PLAN_KEY], type=Plan), content)
    except (KeyError, ValueError, msgspec.DecodeError) as error:
        _log.warning("deposit.foreign", name=name, message=str(error))
        return None
