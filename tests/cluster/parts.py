"""The programs the cluster is made of, each built from a Go module of ours that names it."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.cache import file_digest, kept
from tests.cluster.golang import find_go, go_build, go_version
from tests.cluster.kubevirt_source import KubeVirtSource

ENGINE = Path(__file__).parent / "engine"
KUBERNETES_VERSION = "1.36.3"
KUBEVIRT_VERSION = "1.7.0"
TKN_VERSION = "0.45.0"
KUBERNETES_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")

# Part of the digests: a new number builds all of them again.
_BUILDER = 1


@dataclass(frozen=True)
class Part:
    """One module and the packages of it that are built into one directory."""

    name: str
    packages: Sequence[str] = (".",)
    variables: Mapping[str, str] = field(default_factory=dict)
    static: bool = True

    @property
    def module(self) -> Path:
        """The module's directory."""
        return ENGINE / self.name

    def inputs(self, go: str) -> dict[str, str]:
        """Return what the programs depend on."""
        files = {path.name: file_digest(path) for path in self.module.iterdir() if path.is_file()}
        recipe = repr((_BUILDER, self.packages, sorted(self.variables.items()), self.static))
        return {**files, "go version": repr(go_version(go)), "recipe": recipe}


KUBERNETES = Part(
    "kubernetes",
    variables={
        "k8s.io/component-base/version.gitVersion": f"v{KUBERNETES_VERSION}",
        "k8s.io/component-base/version.gitMajor": "1",
        "k8s.io/component-base/version.gitMinor": "36",
    },
)
ETCD = Part("etcd")
CNI = Part("cni", ["tool"])
MULTUS = Part("multus", ["tool"])
KUBEVIRT = Part(
    "kubevirt",
    ["tool"],
    variables={"kubevirt.io/client-go/version.gitVersion": f"v{KUBEVIRT_VERSION}"},
    static=False,
)
TEKTON = Part("tekton", ["tool"])
TKN = Part("tkn", variables={"github.com/tektoncd/cli/pkg/cmd/version.clientVersion": TKN_VERSION})


def build(part: Part) -> Path:
    """Return the directory with the part's programs, built if they are not there."""
    go = find_go()
    if part is KUBEVIRT:
        return _build_kubevirt(go)

    def make(target: Path) -> None:
        go_build(part.module, part.packages, _target(part, target), go=go, variables=part.variables, static=part.static)

    return kept(part.name, part.inputs(go), make)


def _target(part: Part, directory: Path) -> Path:
    """Return what `go build -o` gets: a directory for many programs, a file for the one that is named as the part."""
    return directory / part.name if part.packages == (".",) else directory


def _build_kubevirt(go: str) -> Path:
    source = KubeVirtSource(KUBEVIRT.module, go)

    def make(target: Path) -> None:
        with source.mended(target / "source") as modfile:
            go_build(
                KUBEVIRT.module,
                KUBEVIRT.packages,
                target,
                go=go,
                variables=KUBEVIRT.variables,
                static=KUBEVIRT.static,
                modfile=modfile,
            )
            source.build_container_disk(target / "source", target / "container-disk")
            source.keep_files(target / "source", target / "files")
        shutil.rmtree(target / "source")

    return kept(KUBEVIRT.name, {**KUBEVIRT.inputs(go), **source.inputs()}, make)


PARTS: Mapping[str, Part] = {part.name: part for part in (KUBERNETES, ETCD, CNI, MULTUS, KUBEVIRT, TEKTON, TKN)}
"""All parts; those of the cluster itself come first."""

ENGINE_PARTS = (KUBERNETES, ETCD, CNI, MULTUS, KUBEVIRT)
"""What a cluster needs; the others are built when they are asked for."""
