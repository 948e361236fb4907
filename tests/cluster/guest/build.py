"""Debian as a disk that a BIOS boots and cloud-init sets up, built from Debian's packages without mounting anything.

The disk has two partitions: a FAT one from which SYSLINUX starts the kernel, and ext4. Nothing in it knows this
project; what makes it small and quick to boot without KVM is in `root/` and in the lists below.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stuntime.errors import TestbedError
from stuntime.sandbox.process import run
from tests.cluster.cache import cluster_cache, file_digest, kept
from tests.cluster.images import REGISTRY
from tests.cluster.oci import Image, write_archive, write_layer
from tests.cluster.say import say

MEMORY_MIB = 256
"""What the guest is tried with."""

_OWN_FILES = Path(__file__).parent / "root"
_SUITE = "trixie"
_SOURCES = (
    f"deb http://deb.debian.org/debian {_SUITE} main",
    f"deb http://deb.debian.org/debian {_SUITE}-updates main",
    f"deb http://deb.debian.org/debian-security {_SUITE}-security main",
)
_PACKAGES = (
    "linux-image-cloud-amd64 initramfs-tools lz4 systemd systemd-sysv udev kmod login passwd util-linux procps "
    "cloud-init python3 iputils-ping iproute2"
)
_NOT_UNPACKED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
# Work for the days that a guest of some minutes does not see, for a screen it does not have, and for debuggers.
_MASKED = (
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer "
    "systemd-tmpfiles-clean.timer cloud-init-hotplugd.socket getty@tty1.service getty-static.service "
    "sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount dev-hugepages.mount "
    "modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service systemd-pstore.service "
    "systemd-binfmt.service proc-sys-fs-binfmt_misc.automount"
)
_SET_UP = f"""
set -eu
chroot "$1" systemctl enable systemd-networkd.service
chroot "$1" systemctl disable systemd-networkd-wait-online.service
chroot "$1" systemctl mask {_MASKED}
echo debian >"$1/etc/hostname"
printf '127.0.0.1 localhost\\n::1 localhost ip6-localhost\\n' >"$1/etc/hosts"
: >"$1/etc/resolv.conf"
: >"$1/etc/machine-id"
"""
_LABEL_ID = 0x57075707
_SECTOR = 512
_BOOT_START = 2048
_BOOT_SECTORS = 64 * 2048
_ROOT_START = _BOOT_START + _BOOT_SECTORS
_ROOT_MIB = 1024
_MBR = Path("/usr/lib/syslinux/mbr/mbr.bin")
_LOADER = f"""DEFAULT debian
PROMPT 0
TIMEOUT 0
LABEL debian
  LINUX vmlinuz
  INITRD initrd.img
  APPEND root=PARTUUID={_LABEL_ID:08x}-02 ro console=ttyS0 quiet mitigations=off
"""
_QEMU = 107
_DAY_S = 24 * 3600


@dataclass(frozen=True)
class DebianGuest:
    """The image by its name in `archive`, which `ctr images import` takes; `disk` is the disk that is in it."""

    image: str
    archive: Path
    disk: Path


def debian_guest() -> DebianGuest:
    """Return the guest, built if Debian's packages or this recipe have changed; raise a StuntimeError if it fails."""
    inputs = {
        "packages": json.dumps(_versions()),
        **{str(path.relative_to(_OWN_FILES)): file_digest(path) for path in _OWN_FILES.rglob("*") if path.is_file()},
        **{path.name: file_digest(path) for path in (Path(__file__), Path(__file__).parents[1] / "oci.py")},
    }
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
    image = f"{REGISTRY}/guest-debian:{digest}"
    home = kept("guest", inputs, lambda target: _make(target, image, inputs))
    return DebianGuest(image, home / "images.tar", home / "disk.qcow2")


def _versions() -> list[str]:
    """Return what Debian would install now: name and version, from lists that are at most a day old."""
    home = cluster_cache() / f"apt-{_SUITE}"
    (home / "lists/partial").mkdir(parents=True, exist_ok=True)
    (home / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    (home / "status").touch()
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources = (source.replace("deb ", f"deb [signed-by={keyring} arch=amd64] ", 1) for source in _SOURCES)
    (home / "sources.list").write_text("\n".join(sources) + "\n")
    options = {
        "Dir::State": home,
        "Dir::State::lists": home / "lists",
        "Dir::State::status": home / "status",
        "Dir::Cache": home / "cache",
        "Dir::Etc::sourcelist": home / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "",
        "APT::Update::Post-Invoke-Success::": "true",
    }
    apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
    updated = home / "updated"
    if not updated.exists() or time.time() - updated.stat().st_mtime > _DAY_S:
        try:
            run([*apt, "update", "--error-on=any"], timeout_s=300, what="looking up Debian's packages")
        except TestbedError as error:
            if not updated.exists():
                raise
            say(f"Debian's lists are of another day: {error}")
        else:
            updated.touch()
    told = run([*apt, "-s", "install", "--no-install-recommends", "?essential", *_PACKAGES.split()], timeout_s=60)
    return sorted(f"{name}={version}" for name, version in re.findall(r"^Inst (\S+) \((\S+)", told, re.MULTILINE))


def _make(target: Path, image: str, inputs: Mapping[str, str]) -> None:
    root = target / "root"
    _install(root)
    raw, disk = target / "disk.raw", target / "disk.qcow2"
    _write_disk(root, raw)
    run(["qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", str(raw), str(disk)], timeout_s=300)
    raw.unlink()
    shutil.rmtree(root)
    _pack(disk, image, target)
    (target / "about.json").write_text(json.dumps({"image": image, "inputs": inputs}, indent=2) + "\n")


def _install(root: Path) -> None:
    # In namespaces of its own: what it mounts and starts ends with it, however it ends.
    run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *_with_sbin("mmdebstrap", "--mode=root", "--variant=minbase", f"--include={_PACKAGES}"),
            '--aptopt=APT::Install-Recommends "false"',
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in _NOT_UNPACKED),
            f"--essential-hook=sync-in {_OWN_FILES} /",
            f"--customize-hook={_SET_UP}",
            _SUITE,
            str(root),
            *_SOURCES,
        ],
        timeout_s=900,
        what="mmdebstrap",
    )
    # systemd compares these with /usr's time, and would do again what the packages have done.
    for directory in ("etc", "var"):
        marker = root / directory / ".updated"
        marker.touch()
        os.utime(marker, ns=(0, (root / "usr").stat().st_mtime_ns))


def _write_disk(root: Path, disk: Path) -> None:
    boot, system = disk.with_suffix(".boot"), disk.with_suffix(".root")
    loader = disk.with_suffix(".cfg")
    loader.write_text(_LOADER)
    run(
        _with_sbin(
            "mkfs.vfat", "-n", "BOOT", "-F", "16", "-h", str(_BOOT_START), "-C", str(boot), f"{_BOOT_SECTORS // 2}"
        )
    )
    for source, name in (
        (next((root / "boot").glob("vmlinuz-*")), "vmlinuz"),
        (next((root / "boot").glob("initrd.img-*")), "initrd.img"),
        (loader, "syslinux.cfg"),
    ):
        run(["mcopy", "-i", str(boot), str(source), f"::{name}"])
    run(["syslinux", "--install", str(boot)])
    run(
        _with_sbin(
            *("mke2fs", "-q", "-t", "ext4", "-L", "root", "-m", "0", "-J", "size=16"),
            *("-E", "assume_storage_prezeroed=1", "-d", str(root), str(system), f"{_ROOT_MIB}M"),
        ),
        timeout_s=300,
    )
    with disk.open("wb") as file:
        file.truncate((_ROOT_START + _ROOT_MIB * 2048) * _SECTOR)
    table = (
        f"label: dos\nlabel-id: {_LABEL_ID:#x}\n"
        f"start={_BOOT_START}, size={_BOOT_SECTORS}, type=e, bootable\nstart={_ROOT_START}, type=83\n"
    )
    run(_with_sbin("sfdisk", "-q", str(disk)), stdin=table)
    for part, start in ((_MBR, 0), (boot, _BOOT_START), (system, _ROOT_START)):
        run(
            [
                "dd",
                f"if={part}",
                f"of={disk}",
                f"seek={start * _SECTOR}",
                "oflag=seek_bytes",
                "bs=1M",
                "conv=notrunc,sparse",
            ],
            timeout_s=300,
        )
    for part in (boot, system, loader):
        part.unlink()


def _pack(disk: Path, image: str, target: Path) -> None:
    """Put the disk where KubeVirt looks for a containerDisk's, and owned by the user that its QEMU runs as."""
    content, layer = target / "content", target / "layer.tar"
    (content / "disk").mkdir(parents=True)
    os.link(disk, content / "disk/disk.qcow2")
    for path in (content / "disk", content / "disk/disk.qcow2"):
        os.chown(path, _QEMU, _QEMU)
    disk.chmod(0o644)
    write_layer(content, layer)
    write_archive([Image(image, [layer])], target / "images.tar")
    shutil.rmtree(content)
    layer.unlink()


def _with_sbin(*argv: str) -> list[str]:
    return ["env", f"PATH={os.environ['PATH']}:/usr/sbin:/sbin", *argv]
