"""What helps to understand a failure on a cluster, bounded in size and time: by `oc adm inspect`, else by the API."""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import structlog

from stuntime.errors import StuntimeError
from stuntime.kubevirt.api import Api
from stuntime.kubevirt.kinds import EVENT, NAD, NNCE, NNCP, NNS, POD, VM, VMI, VMIM, Kind, Object

_log = structlog.get_logger()

_TIME_S = 45.0
_INSPECT_S = 30
_OBJECTS = 2 << 20
_LOG = 256 << 10
_INSPECTED = 8 << 20
_LAUNCHERS = "kubevirt.io=virt-launcher"
_KINDS = ((VM, ""), (VMI, ""), (VMIM, ""), (POD, _LAUNCHERS), (EVENT, ""), (NAD, ""), (NNS, ""), (NNCP, ""), (NNCE, ""))


def diagnose(
    api: Api, directory: Path, consoles: Mapping[str, bytes], *, kubeconfig: Path | None, context: str | None
) -> None:
    """Write consoles, objects, launchers' logs and what `oc adm inspect` says of the namespace into the directory.

    What could not be had is said in diagnostics.txt, as is which of the two ways was used.
    """
    deadline = time.monotonic() + _TIME_S
    directory.mkdir(parents=True, exist_ok=True)
    for name, said in consoles.items():
        (directory / f"{name}.console.log").write_bytes(said)
    told = [_objects(api, directory, kind, labels, deadline) for kind, labels in _KINDS]
    told += _logs(api, directory, deadline)
    told.append(_inspected(api, directory, kubeconfig, context, deadline))
    (directory / "diagnostics.txt").write_text("\n".join(filter(None, told)) + "\n")


def _objects(api: Api, directory: Path, kind: Kind, labels: str, deadline: float) -> str:
    if time.monotonic() > deadline:
        return f"{kind.resource}: no time was left"
    try:
        found = [_without_noise(one) for one in api.find(kind, labels=labels)]
    except StuntimeError as error:
        return f"{kind.resource}: {error}"
    content = json.dumps(found, indent=1)
    (directory / f"{kind.plural}.json").write_text(content[:_OBJECTS])
    return f"{kind.resource}: {len(found)} objects by the API" + (", cut" if len(content) > _OBJECTS else "")


def _without_noise(found: Object) -> Object:
    metadata = {key: value for key, value in found["metadata"].items() if key != "managedFields"}
    return {**found, "metadata": metadata}


def _logs(api: Api, directory: Path, deadline: float) -> list[str]:
    told: list[str] = []
    try:
        pods = api.find(POD, labels=_LAUNCHERS)
    except StuntimeError:
        return told
    for pod in pods:
        name = pod["metadata"]["name"]
        if time.monotonic() > deadline:
            return [*told, "logs: no time was left for all of them"]
        query = {"container": "compute", "limitBytes": _LOG, "tailLines": 2000}
        try:
            (directory / f"{name}.log").write_text(api.text(f"{POD.path(api.namespace, name)}/log", query, _LOG))
        except StuntimeError as error:
            told.append(f"log of {name}: {error}")
    return told


def _inspected(api: Api, directory: Path, kubeconfig: Path | None, context: str | None, deadline: float) -> str:
    """Have `oc adm inspect` write all of the namespace; return what came of it."""
    program = shutil.which("oc")
    if program is None:
        return "oc: not on the PATH; the objects above are all there is"
    import openshift_client as oc

    target = directory / "inspect"
    options = {"kubeconfig": str(kubeconfig)} if kubeconfig else {}
    options |= {"context": context} if context else {}
    seconds = max(1, min(_INSPECT_S, int(deadline - time.monotonic())))
    try:
        with oc.options(options), oc.timeout(seconds), oc.client_path(program):
            oc.invoke("adm", ["inspect", f"namespace/{api.namespace}", f"--dest-dir={target}", "--since=1h"])
    except oc.OpenShiftPythonException as failed:
        ended = failed.result
        late = ended is not None and ended.get_timeout()
        why = f"it did not end within {seconds} s" if late else (ended and ended.err()) or str(failed)
        said = f"oc adm inspect failed: {' '.join(why.split())[:300]}"
    except (OSError, ValueError) as failed:
        said = f"oc adm inspect failed: {failed}"
    else:
        said = f"oc adm inspect of namespace {api.namespace}: in inspect/"
    return said + _bounded(target)


def _bounded(directory: Path) -> str:
    """Remove files, the largest first, until what is left fits; return that it was cut."""
    files = sorted((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    total = sum(path.stat().st_size for path in files)
    cut = 0
    while files and total > _INSPECTED:
        largest = files.pop()
        total -= largest.stat().st_size
        largest.unlink()
        cut += 1
    return f" ({cut} large files were left out)" if cut else ""
