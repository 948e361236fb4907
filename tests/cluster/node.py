"""A node as the control plane's side sees it: started, connected, and entered."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from stuntime.errors import TestbedError
from stuntime.sandbox.process import Process, run
from tests.cluster.cgroups import make_cgroups
from tests.cluster.control_plane import wait_until
from tests.cluster.layout import FABRICS, SPARE_NICS, Layout, Node

_JOIN = 'for group in $1; do echo $$ >"$group/cgroup.procs" || exit 1; done; shift; exec "$@"'
_UNSHARE = (
    "unshare",
    *("--net", "--mount", "--pid", "--uts", "--ipc", "--cgroup"),
    *("--fork", "--kill-child", "--propagation", "private", "--mount-proc"),
)
_NAMESPACES_S = 10.0
_IMPORT_S = 600.0


def start_node(layout: Layout, node: Node, cni: Sequence[Path]) -> Process:
    """Start a node's process 1 in control groups and namespaces of its own, and connect it."""
    layout.node(node).mkdir(parents=True)
    groups = " ".join(str(group) for group in make_cgroups(node.name))
    init = [sys.executable, "-m", "tests.cluster.node_init", str(layout.home), node.name, ":".join(map(str, cni))]
    process = Process(node.name, ["sh", "-c", _JOIN, "sh", groups, *_UNSHARE, *init], layout.logs / f"{node.name}.log")
    own = Path("/proc/self/ns/net").readlink()
    theirs = Path(f"/proc/{process.pid}/ns/net")
    wait_until(lambda: theirs.readlink() != own, f"{node.name}'s namespaces", _NAMESPACES_S, [process])
    nics = zip(("eth0", *SPARE_NICS), ("mgmt", *FABRICS), strict=True)
    for number, (nic, bridge) in enumerate(nics):
        port = f"{node.name}-{number}"
        inside = ["peer", "name", nic, "netns", str(process.pid)]
        run(["ip", "link", "add", port, "type", "veth", *inside])
        run(["ip", "link", "set", port, "master", bridge, "up"])
    return process


def entering(pid: int) -> list[str]:
    """Return the command that runs another in the namespaces of a node, whose `unshare` has this process id."""
    kinds = ("net", "mount", "uts", "ipc", "cgroup")
    short = {"mount": "mnt"}
    enter = [f"--{kind}=/proc/{pid}/ns/{short.get(kind, kind)}" for kind in kinds]
    return ["nsenter", *enter, f"--pid=/proc/{pid}/ns/pid_for_children", "--"]


def import_images(pid: int, archive: Path) -> None:
    """Import an OCI archive, by the names that are in it, into the containerd of a node."""
    with archive.open("rb") as content:
        done = subprocess.run(
            [*entering(pid), "ctr", "-n", "k8s.io", "images", "import", "-"],
            stdin=content, capture_output=True, text=True, timeout=_IMPORT_S, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise TestbedError(f"{archive} cannot be imported: {done.stderr.strip()}", "is it an OCI archive?")
