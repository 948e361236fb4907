"""Tekton on the running cluster: its controller and webhook as real pods, from its own manifests."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from stuntime.errors import TestbedError
from tests.cluster.cache import file_digest, kept
from tests.cluster.golang import find_go, module_directory
from tests.cluster.images import REGISTRY
from tests.cluster.oci import Image, write_archive, write_layer
from tests.cluster.parts import TEKTON, TKN, build
from tests.cluster.running import Running
from tests.cluster.say import say

MODULE = "github.com/tektoncd/pipeline"
NAMESPACE = "tekton-pipelines"
#: Whom a PipelineRun runs as that names nobody: as OpenShift Pipelines has it, which makes it in each namespace.
ACCOUNT = "pipeline"
PROGRAMS = ("controller", "webhook", "entrypoint", "nop", "workingdirinit")
"""What runs in pods; events, resolvers and the webhook's autoscaler are left out."""

# In the order they are applied; what belongs together is one pattern.
_MANIFESTS = (
    "100-namespace/*.yaml",
    "200-*.yaml",
    "201-*.yaml",
    "300-crds/*.yaml",
    "config-*.yaml",
    "clusterrole-aggregate-*.yaml",
    "500-webhooks.yaml",
    "controller.yaml",
    "webhook.yaml",
)
_KO = re.compile(rf"ko://{re.escape(MODULE)}/cmd/(\w+)")
_NOBODY = "65532:65532"
_READY_S = 180.0
# Part of the digest: a new number makes the images again.
_RECIPE = 1


def version() -> str:
    """Return the version that our go.mod names."""
    match = re.search(
        rf"^\s*(?:require )?{re.escape(MODULE)} (v\S+)", (TEKTON.module / "go.mod").read_text(), re.MULTILINE
    )
    if match is None:
        raise TestbedError(f"{TEKTON.module}/go.mod names no {MODULE}", "require it there")
    return match.group(1)


def tkn() -> Path:
    """Return the command line of Tekton, built if it is not there."""
    return build(TKN) / "tkn"


def deploy(cluster: Running) -> None:
    """Import the images, apply the manifests and wait until Tekton answers; do nothing where it does already."""
    tkn()
    if _answers(cluster):
        say(f"Tekton {version()} runs already")
        return
    for program, archive in _archives().items():
        cluster.import_image(archive, _image(program))
    say("Tekton's images are imported")
    manifests = module_directory(TEKTON.module, MODULE, go=find_go()) / "config"
    for pattern in _MANIFESTS:
        # Not `apply`: the annotation it leaves would be larger than the API allows for a CRD.
        text = "\n---\n".join(_KO.sub(_replaced, path.read_text()) for path in sorted(manifests.glob(pattern)))
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)
    # Tekton's own init containers, too, are fit for the Pod Security Standard `restricted`: as OpenShift has it.
    _configure(cluster, "feature-flags", "set-security-context", "true")
    _configure(cluster, "config-defaults", "default-service-account", ACCOUNT)
    for deployment in ("tekton-pipelines-controller", "tekton-pipelines-webhook"):
        cluster.kubectl(
            *("rollout", "status", f"deployment/{deployment}", "-n", NAMESPACE, f"--timeout={_READY_S:g}s"),
            timeout_s=_READY_S + 10,
        )
    say(f"Tekton {version()} is deployed")


def restart_controller(cluster: Running) -> None:
    """End the controller's pod; its Deployment starts another one."""
    cluster.kubectl("delete", "pod", "-n", NAMESPACE, "-l", "app=tekton-pipelines-controller", "--wait=false")


def remove(cluster: Running) -> None:
    """Take it away with everything that belongs to it."""
    manifests = module_directory(TEKTON.module, MODULE, go=find_go()) / "config"
    for pattern in reversed(_MANIFESTS):
        text = "\n---\n".join(path.read_text() for path in sorted(manifests.glob(pattern)))
        cluster.kubectl("delete", "--ignore-not-found", "--wait=true", "-f", "-", stdin=text, timeout_s=300)


def _configure(cluster: Running, configmap: str, key: str, value: str) -> None:
    patch = json.dumps({"data": {key: value}})
    cluster.kubectl("patch", "configmap", configmap, "-n", NAMESPACE, "--type=merge", "-p", patch)


def _answers(cluster: Running) -> bool:
    """Ask the webhook, which is the last to be ready, by a Task that nobody keeps."""
    task = (
        "apiVersion: tekton.dev/v1\nkind: Task\nmetadata: {name: probe, namespace: default}\n"
        "spec: {steps: [{name: step, image: none, command: ['true']}]}\n"
    )
    try:
        cluster.kubectl("create", "--dry-run=server", "-f", "-", stdin=task)
        cluster.kubectl(*("wait", "--for=condition=Available", "deployment", "--all", "-n", NAMESPACE, "--timeout=1s"))
    except TestbedError:
        return False
    return True


def _image(program: str) -> str:
    return f"{REGISTRY}/tekton-{program}:{version()}"


def _replaced(match: re.Match[str]) -> str:
    # The one of sidecars that read results is asked for by a feature flag only, and so is not built.
    return _image(match.group(1) if match.group(1) in PROGRAMS else "nop")


def _archives() -> Mapping[str, Path]:
    """Return each program's image as ko would make it: `/ko-app/PROGRAM`."""
    programs = build(TEKTON)
    oci = Path(__file__).with_name("oci.py")
    inputs = {"programs": programs.name, "oci": file_digest(oci), "version": version(), "recipe": str(_RECIPE)}

    def make(target: Path) -> None:
        for program, root in _roots(programs, target):
            layer = target / f"{program}-layer.tar"
            write_layer(root, layer)
            config = {"Entrypoint": [f"/ko-app/{program}"], "User": _NOBODY}
            write_archive([Image(_image(program), [layer], config)], target / f"{program}.tar")
            layer.unlink()
            shutil.rmtree(root)

    home = kept("images-tekton", inputs, make)
    return {program: home / f"{program}.tar" for program in PROGRAMS}


def _roots(programs: Path, target: Path) -> Iterator[tuple[str, Path]]:
    for program in PROGRAMS:
        root = target / program
        (root / "ko-app").mkdir(parents=True)
        shutil.copy(programs / program, root / "ko-app" / program)
        yield program, root
