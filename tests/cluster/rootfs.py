"""The root file system that all of KubeVirt's images share: Debian with libvirt and QEMU, as KubeVirt wants them.

KubeVirt's own images are made from CentOS' modular libvirt. Debian's is monolithic: here a copy of libvirtd runs by
the name of virtqemud, and the socket that virt-launcher waits for is a link to libvirtd's.
"""

import os
import re
import shutil
from pathlib import Path

from stuntime.sandbox.process import run
from tests.cluster.cache import kept

_SUITE = "trixie"
_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = (
    "libvirt-daemon-driver-qemu",
    "libvirt-daemon-log",
    "libvirt-clients",
    "libvirt-daemon",
    "qemu-system-x86",
    "qemu-utils",
    "seabios",
    "ipxe-qemu",
    "nftables",
    "iproute2",
    "acl",
    "libcap2-bin",
    "procps",
    "util-linux",
    "xorriso",
    "iputils-ping",
    "tcpdump",
    "kmod",
    "ethtool",
)
_NO_DOCUMENTS = """
path-exclude /usr/share/doc/*
path-exclude /usr/share/man/*
path-exclude /usr/share/locale/*
path-exclude /usr/share/info/*
path-exclude /usr/share/lintian/*
"""
_INSTALL = """
set -eu
mount -t proc proc "$1/proc"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
root=$1
shift
chroot "$root" apt-get -q -y --no-install-recommends install "$@"
"""
_VIRTQEMUD = """#!/bin/sh
# KubeVirt starts libvirt's QEMU daemon by this name and waits for its socket; Debian's libvirt has one daemon for all.
ln -sf libvirt-sock /run/libvirt/virtqemud-sock
exec /usr/libexec/virtqemud "$@"
"""
# Part of the digest: a new number makes it again.
_RECIPE = 1


def root_filesystem() -> Path:
    """Return the directory of the bare root file system, made by debootstrap if it is not there."""
    inputs = {
        "suite": _SUITE,
        "packages": " ".join(_PACKAGES),
        "scripts": _NO_DOCUMENTS + _INSTALL + _VIRTQEMUD,
        "recipe": str(_RECIPE),
    }
    return kept("rootfs", inputs, _make) / "root"


def _make(target: Path) -> None:
    root = target / "root"
    environment = ["env", f"PATH={os.environ['PATH']}:/usr/sbin:/sbin"]
    run(
        [*environment, "debootstrap", "--variant=minbase", _SUITE, str(root), _MIRROR],
        timeout_s=900,
        what="debootstrap",
    )
    (root / "etc/dpkg/dpkg.cfg.d/no-documents").write_text(_NO_DOCUMENTS)
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    # In namespaces of its own: /proc is unmounted and what a package may have started is ended whatever happens.
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    run(
        [*environment, *apart, "sh", "-c", _INSTALL, "sh", str(root), *_PACKAGES],
        timeout_s=900,
        what="installing KubeVirt's packages",
    )
    policy.unlink()
    for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / waste, ignore_errors=True)
    _make_it_kubevirts(root)


def _make_it_kubevirts(root: Path) -> None:
    # virt-handler comes here through /proc/PID/root, where an absolute link would lead to its own /run.
    run_link = root / "var/run"
    if run_link.is_symlink():
        run_link.unlink()
    run_link.symlink_to("../run")
    for directory in ("var/log/libvirt", "var/cache/libvirt", "home/qemu", "usr/lib64/qemu-kvm", "etc/libvirt/hooks"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    os.chown(root / "home/qemu", 107, 107)
    for name, line in (("passwd", "qemu:x:107:107:qemu:/home/qemu:/bin/bash\n"), ("group", "qemu:x:107:\n")):
        path = root / "etc" / name
        kept_lines = [entry for entry in path.read_text().splitlines(keepends=True) if not _has_id(entry, 107)]
        path.write_text("".join(kept_lines) + line)
    (root / "usr/libexec").mkdir(exist_ok=True)
    shutil.copy2(root / "usr/sbin/libvirtd", root / "usr/libexec/virtqemud")
    wrapper = root / "usr/sbin/virtqemud"
    wrapper.write_text(_VIRTQEMUD)
    wrapper.chmod(0o755)


def _has_id(entry: str, number: int) -> bool:
    return re.match(rf"[^:]*:[^:]*:{number}:", entry) is not None
