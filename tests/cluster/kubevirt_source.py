"""KubeVirt's module, mended in a copy of it for this machine before it is built.

Three things keep 1.7.0 from working here. With kernelBoot every sync after the first fails for ever with "file
exists": it asks `os.IsExist` about an error that is wrapped. The schema calls the checksums of disks and kernels
int32, but they have no sign, and Kubernetes 1.36 refuses the status of a VM whose checksum is a large one. And a
kernel without dummy links cannot keep the pod's own interface aside while the VM has its MAC: there a bridge without
ports does, which is as dead.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from stuntime.errors import TestbedError
from stuntime.sandbox.process import run
from tests.cluster.golang import module_directory

_NAME = "kubevirt.io/kubevirt"
_MOUNT = Path("pkg/virt-handler/container-disk/mount.go")
_LINKS = Path("pkg/network/driver/nmstate/spec.go")
_FILE_EXISTS = (_MOUNT, "os.IsExist(err)", "errors.Is(err, os.ErrExist)")
_SCHEMA = Path("pkg/virt-operator/resource/generate/components/validations_generated.go")
_CHECKSUMS = tuple(
    (_SCHEMA, f"{words}\n{indent}format: int32", f"{words}\n{indent}format: int64")
    for words, indent in (
        ("Checksum is the checksum of the initrd file", " " * 18),
        ("Checksum is the checksum of the kernel image", " " * 18),
        ("artifacts inside the containerdisk", " " * 20),
    )
)
_NO_DUMMY = (
    (_LINKS, "&vishnetlink.Dummy{}", "&vishnetlink.Bridge{}"),
    (
        _LINKS,
        'if linkType := normalizeLinkTypeName(link); iface.TypeName != "" &&',
        'if linkType := normalizeLinkTypeName(link); iface.TypeName != "" && iface.TypeName != TypeDummy &&',
    ),
)
_KEPT = (
    "cmd/virt-launcher/qemu",
    "cmd/virt-launcher/qemu.conf",
    "cmd/virt-launcher/virtqemud.conf",
    "cmd/virt-launcher/nsswitch.conf",
    "cmd/virt-launcher/node-labeller/node-labeller.sh",
    "manifests/generated/kv-resource.yaml",
    "manifests/generated/kubevirt-priority-class.yaml",
    "manifests/generated/rbac-operator.authorization.k8s.yaml.in",
)


@dataclass(frozen=True)
class KubeVirtSource:
    """The module as it was published, and how it is mended."""

    module: Path
    go: str

    @cached_property
    def mends(self) -> tuple[tuple[Path, str, str], ...]:
        """File, text and replacement of what is mended on this machine."""
        everywhere = (_FILE_EXISTS, *_CHECKSUMS)
        return everywhere if _has_dummy_links() else (*everywhere, *_NO_DUMMY)

    def inputs(self) -> dict[str, str]:
        """Return what the result depends on beside the module's own files."""
        return {"mends": repr(self.mends), "kept": repr(_KEPT), "files": run(["gcc", "-dumpfullversion"])}

    @contextmanager
    def mended(self, copy: Path) -> Iterator[Path]:
        """Make the mended copy and yield the go.mod that uses it."""
        shutil.copytree(module_directory(self.module, _NAME, go=self.go), copy)
        for directory, _, _ in os.walk(copy):
            Path(directory).chmod(0o755)
        for path, text, replacement in self.mends:
            _mend(copy / path, text, replacement)
        modfile = copy.with_name("go.mod")
        shutil.copy(self.module / "go.mod", modfile)
        shutil.copy(self.module / "go.sum", modfile.with_suffix(".sum"))
        run([self.go, "mod", "edit", f"-replace={_NAME}={copy}", str(modfile)])
        try:
            yield modfile
        finally:
            for suffix in (".mod", ".sum"):
                modfile.with_suffix(suffix).unlink()

    def build_container_disk(self, copy: Path, target: Path) -> None:
        """Build the one program that is not Go's: it runs in images that hold nothing else."""
        run(["gcc", "-static", "-O2", "-o", str(target), str(copy / "cmd/container-disk-v2alpha/main.c")])

    def keep_files(self, copy: Path, target: Path) -> None:
        """Keep the module's files that its image and its installation need."""
        target.mkdir()
        for name in _KEPT:
            shutil.copy(copy / name, target / Path(name).name)


def _mend(path: Path, text: str, replacement: str) -> None:
    content = path.read_text()
    if text not in content:
        raise TestbedError(
            f"{path} does not hold {text!r}", "this version of KubeVirt wants to be mended in another way"
        )
    path.chmod(0o644)
    path.write_text(content.replace(text, replacement))


def _has_dummy_links() -> bool:
    """Ask the kernel, in a network namespace of the question's own."""
    probe = ["unshare", "--net", "ip", "link", "add", "dummy0", "type", "dummy"]
    with suppress(OSError):
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    return False
