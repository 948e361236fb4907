"""The images that every node has before anything asks for one."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from stuntime.sandbox.image import guest_image
from stuntime.sandbox.process import run
from tests.cluster.cache import file_digest, kept
from tests.cluster.oci import Image, write_archive, write_layer
from tests.cluster.parts import ENGINE, KUBEVIRT, KUBEVIRT_VERSION, build
from tests.cluster.rootfs import root_filesystem

REGISTRY = "stuntime.test"
PAUSE = f"{REGISTRY}/pause:1"
GUEST = f"{REGISTRY}/guest:1"
"""The sandbox's kernel and first file system as `/boot/vmlinuz` and `/boot/initrd.img`, for kernelBoot."""

KUBEVIRT_USERS = {
    "virt-operator": 1001,
    "virt-api": 1001,
    "virt-controller": 1001,
    "virt-handler": 0,
    "virt-launcher": 0,
}
"""KubeVirt's components, and who each runs as unless its pod says otherwise."""

_RECIPE = "2"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_QEMU = 107
# The parts of node-labeller.sh that make and prefer /dev/kvm: these nodes have none.
_KVM_PARTS = (
    r"set \+o pipefail\n+KVM_MINOR=.*\nset -o pipefail\n",
    r"if \[ ! -e /dev/kvm \](?:.*\n)+?fi\n",
    r"if \[ -e /dev/kvm \](?:.*\n)+?fi\n",
)


def kubevirt_image(component: str) -> str:
    """Return the name of a component's image."""
    return f"{REGISTRY}/{component}:v{KUBEVIRT_VERSION}"


def archives() -> tuple[Path, Path]:
    """Return the archives to import: first the small one that nodes need to start any pod, then KubeVirt's."""
    return _small_archive(), _kubevirt_archive()


def _small_archive() -> Path:
    guest = guest_image()
    source = ENGINE / "pause" / "pause.c"
    inputs = {"recipe": _RECIPE, "pause": file_digest(source), "guest": guest.digest, "oci": _own_digest()}

    def make(target: Path) -> None:
        pause, boot = target / "pause", target / "guest"
        pause.mkdir()
        run(["gcc", "-static", "-Os", "-o", str(pause / "pause"), str(source)])
        (boot / "boot").mkdir(parents=True)
        for file, name in ((guest.kernel, "vmlinuz"), (guest.initramfs, "initrd.img")):
            copy = boot / "boot" / name
            shutil.copy(file, copy)
            copy.chmod(0o644)
            shutil.chown(copy, _QEMU, _QEMU)
        images = [
            Image(PAUSE, [_layer(pause)], {"Entrypoint": ["/pause"], "User": "65535:65535"}),
            Image(GUEST, [_layer(boot)], {"User": str(_QEMU)}),
        ]
        _write(images, target)

    return kept("images-small", inputs, make) / "images.tar"


def _kubevirt_archive() -> Path:
    root, programs = root_filesystem(), build(KUBEVIRT)
    inputs = {"recipe": _RECIPE, "root": root.parent.name, "programs": programs.name, "oci": _own_digest()}

    def make(target: Path) -> None:
        own = target / "own"
        _lay_out(programs, own)
        layers = [_layer(root, target / "root.tar"), _layer(own)]
        images = [
            Image(kubevirt_image(name), layers, {"User": str(user), "Env": [_PATH], "Entrypoint": [f"/usr/bin/{name}"]})
            for name, user in KUBEVIRT_USERS.items()
        ]
        _write(images, target)

    return kept("images-kubevirt", inputs, make) / "images.tar"


def _lay_out(programs: Path, root: Path) -> None:
    """Put KubeVirt's programs and files where its images have them."""
    files = programs / "files"
    places: dict[str, tuple[Path, int]] = {
        "etc/libvirt/qemu.conf": (files / "qemu.conf", 0o644),
        "etc/libvirt/virtqemud.conf": (files / "virtqemud.conf", 0o644),
        "etc/libvirt/hooks/qemu": (files / "qemu", 0o755),
        "etc/nsswitch.conf": (files / "nsswitch.conf", 0o644),
        "usr/bin/node-labeller.sh": (files / "node-labeller.sh", 0o755),
    }
    places |= {f"usr/bin/{path.name}": (path, 0o755) for path in programs.iterdir() if path.is_file()}
    for place, (source, mode) in places.items():
        copy = root / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)
        copy.chmod(mode)
    labeller = root / "usr/bin/node-labeller.sh"
    script = labeller.read_text()
    for part in _KVM_PARTS:
        script = re.sub(part, "", script, count=1)
    labeller.write_text(script)
    run(["setcap", "cap_net_bind_service+ep", str(root / "usr/bin/virt-launcher-monitor")])


def _layer(root: Path, target: Path | None = None) -> Path:
    layer = target or root.with_suffix(".tar")
    write_layer(root, layer)
    return layer


def _write(images: list[Image], target: Path) -> Mapping[str, str]:
    """Write the archive and remove what it was made from."""
    digests = write_archive(images, target / "images.tar")
    (target / "digests.json").write_text(json.dumps(digests, indent=2) + "\n")
    for path in target.iterdir():
        if path.name not in ("images.tar", "digests.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return digests


def _own_digest() -> str:
    return file_digest(Path(__file__).with_name("oci.py"))
