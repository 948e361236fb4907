"""Result documents for tests: real ones of the sandbox, edited where a test needs another number."""

import json
import shutil
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data" / "results"
SANDBOX, EVERY_VERDICT = DATA / "sandbox", DATA / "every-verdict"
SCENARIO = "linux-bridge.from-static-node.static.ipv4"


def document(scenario: str = SCENARIO, **fields: Any) -> dict[str, Any]:
    """Return a real result document; `stuntime_s` None stands for never recovered, other fields replace its own."""
    network, path, initiator, _ = scenario.split(".")
    known = network if network in ("linux-bridge", "ovn-localnet") else "linux-bridge"
    source = SANDBOX / "results" / f"{known}.{path}.{initiator}.ipv4.json"
    found: dict[str, Any] = json.loads(source.read_text())
    found["scenario"] = scenario
    measured = found["measurement"]
    if "stuntime_s" in fields:
        value = fields.pop("stuntime_s")
        lower = 59.8 if value is None else 0.0
        measured |= {"stuntime_s": value, "recovered": value is not None, "bounds_s": {"lower": lower, "upper": value}}
    if "environment" in fields:
        found["environment"] |= fields.pop("environment")
    if "measurement" in fields and fields["measurement"] is not None:
        measured |= fields.pop("measurement")
    return found | fields


def write(folder: Path, *documents: dict[str, Any]) -> Path:
    """Write documents into `folder`/results under names of their own and return `folder`."""
    (folder / "results").mkdir(parents=True, exist_ok=True)
    for found in documents:
        name = f"{found['scenario']}.{found['repetition']}.{found['run']}.json"
        (folder / "results" / name).write_text(json.dumps(found))
    return folder


def plan(folder: Path, scenarios: list[str], **fields: Any) -> Path:
    """Write the plan of a run into `folder` and return it."""
    summary = json.loads((SANDBOX / "summary.json").read_text())
    summary["rows"] = []
    summary["plan"] |= {"scenarios": scenarios, **fields}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def copy_of(source: Path, folder: Path) -> Path:
    """Return a copy of a directory of results that a test may change."""
    return Path(shutil.copytree(source, folder / source.name))
