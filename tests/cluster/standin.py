"""What stands in for a component that cannot be had as a Go module: files, manifests and processes of ours.

`tests/cluster/standins/__init__.py` has them in a sequence named `STAND_INS`; a cluster starts them all.
"""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class StandIn:
    """One stand-in. Everything is optional.

    Processes find in their environment:

    KUBECONFIG   a cluster admin's, good inside the cluster's namespaces
    NODE_NAME    the node's name; processes of nodes only
    NODE_IP      the node's address on the management network; processes of nodes only
    CONTROL_IP   the control plane's address on the management network
    STANDIN_DIR  a directory of the stand-in's own on this node or control plane, under /run: empty at start
    PYTHONPATH   the repository, so that `sys.executable -m tests.cluster.standins.X` works

    A process that ends is started again after a second. What it prints goes to a log file that `python -m
    tests.cluster status` names. It and what it starts are killed with the cluster.
    """

    name: str
    manifests: Sequence[Path] = ()
    """Applied once the API server answers, before any process starts; CRDs among them are waited for."""
    cni_plugins: Sequence[Path] = ()
    """Copied into each node's /opt/cni/bin, executable."""
    node_process: Sequence[str] = ()
    """Run in each node's namespaces, with the node's own /run, /var/lib, /etc and so on."""
    control_process: Sequence[str] = ()
    """Run in the control plane's namespaces."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the processes' environment."""


def stand_ins() -> Sequence[StandIn]:
    """Return those of `tests.cluster.standins`; none where there is no such package."""
    if importlib.util.find_spec("tests.cluster.standins") is None:
        return ()
    return tuple(getattr(importlib.import_module("tests.cluster.standins"), "STAND_INS", ()))
