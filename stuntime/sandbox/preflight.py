"""Is this machine fit to be a sandbox? Everything that is missing is said at once."""

import os
import shutil
from pathlib import Path

from stuntime.errors import UnfitError

_PROGRAMS = (
    "qemu-system-x86_64", "ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ovn-northd",
    "ovn-controller", "ovn-nbctl", "ip", "nsenter", "ethtool", "busybox", "depmod", "modprobe", "ldd",
)  # fmt: skip
_FILES = ("/usr/bin/ping", "/usr/bin/python3")
_CORES = 2
_MEMORY = 1536 << 20
_TUN = Path("/dev/net/tun")


def add_system_directories() -> None:
    """Make an ordinary user's PATH find the programs that live in the system's own directories."""
    known = os.environ.get("PATH", os.defpath).split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join([*known, *(d for d in ("/usr/sbin", "/sbin") if d not in known)])


def check(*, capture: bool) -> None:
    """Raise UnfitError with all that is missing for a run (with `capture`, tcpdump too)."""
    add_system_directories()
    missing = [name for name in (*_PROGRAMS, *(["tcpdump"] if capture else [])) if shutil.which(name) is None]
    missing += [path for path in _FILES if not Path(path).exists()]
    if missing:
        raise UnfitError(
            f"missing on this machine: {', '.join(missing)}", "run `make install`", reason="program-missing"
        )
    cores = len(os.sched_getaffinity(0))
    if cores < _CORES:
        raise UnfitError(
            f"{cores} processor core for two guests and their networks", f"use a machine with at least {_CORES} cores"
        )
    if not os.access(_TUN, os.R_OK | os.W_OK):
        raise UnfitError(
            f"{_TUN} {'is not open to this user' if _TUN.exists() else 'does not exist'}",
            f"run as root, or `chmod 0666 {_TUN}` as root (in a container: hand it the device)",
        )


def check_memory() -> None:
    """Raise UnfitError when too little memory is left; asked when no other sandbox holds any."""
    memory = available_memory()
    if memory < _MEMORY:
        raise UnfitError(
            f"{memory >> 20} MiB of memory are available, {_MEMORY >> 20} are needed",
            "end other programs, or add memory",
        )


def available_memory() -> int:
    """Return the bytes that can still be used: what the machine has left, or the control group if that is less."""
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return min([int(meminfo["MemAvailable"].split()[0]) << 10, *_control_group_left()])


def _control_group_left() -> list[int]:
    left = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            base, limit, used = Path("/sys/fs/cgroup"), "memory.max", "memory.current"
        elif controllers == "memory":
            base, limit, used = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # A container sees its own group at the root of the mount instead of under its name.
        group = base / name.lstrip("/")
        for level in {base, group, *(parent for parent in group.parents if parent.is_relative_to(base))}:
            try:
                cached = dict(line.split() for line in (level / "memory.stat").read_text().splitlines())
                idle = int(cached.get("total_inactive_file", cached.get("inactive_file", 0)))
                left.append(int((level / limit).read_text()) - int((level / used).read_text()) + idle)
            except (OSError, ValueError):  # no such file, or "max"
                continue
    return left
