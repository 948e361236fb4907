"""The nodes' control groups: one per node in every hierarchy of version 1, so that a node sees a root of its own."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stuntime.errors import UnfitError
from tests.cluster.layout import CGROUP

_GONE_S = 10.0


@dataclass(frozen=True)
class Hierarchy:
    """One mounted hierarchy and the option that mounts it again."""

    mount: Path
    option: str


def hierarchies() -> list[Hierarchy]:
    """Return the machine's hierarchies of version 1; raise UnfitError where there are none."""
    named = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        controllers = line.split(":")[1]
        if controllers:
            named[frozenset(controllers.split(","))] = controllers
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split()[:3]
        if kind != "cgroup":
            continue
        for names, option in named.items():
            if names <= set(options.split(",")):
                found.append(Hierarchy(Path(before.split()[4]), f"none,{option}" if "name=" in option else option))
    if not any("memory" in hierarchy.option.split(",") for hierarchy in found):
        raise UnfitError(
            "the cluster needs control groups of version 1", "boot with systemd.unified_cgroup_hierarchy=0"
        )
    return found


def make_cgroups(name: str) -> list[Path]:
    """Make a node's control groups and return their directories."""
    made = []
    for hierarchy in hierarchies():
        for directory in (hierarchy.mount / CGROUP, hierarchy.mount / CGROUP / name):
            directory.mkdir(exist_ok=True)
            if "cpuset" in hierarchy.option.split(","):
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (directory / file).write_text((directory.parent / file).read_text())
        made.append(hierarchy.mount / CGROUP / name)
    return made


def remove_cgroups() -> bool:
    """Remove all that a cluster has left; say whether nothing is left."""
    deadline = time.monotonic() + _GONE_S
    while True:
        left = [hierarchy.mount / CGROUP for hierarchy in hierarchies() if (hierarchy.mount / CGROUP).exists()]
        for root in left:
            for directory, _, _ in os.walk(root, topdown=False):
                with suppress(OSError):
                    Path(directory).rmdir()
        if not left or time.monotonic() > deadline:
            return not left
        time.sleep(0.1)
