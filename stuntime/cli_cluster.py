"""How the command line names a cluster, and speaks to it."""

import argparse
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stuntime.kubevirt.api import Api

#: The options that name a cluster, by the names they have among the arguments.
OPTIONS = ("kubeconfig", "context", "namespace", "window_namespace")


def add_options(parser: Any) -> None:
    """Add the options that name a cluster."""
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: KUBECONFIG, or the pod's own account")
    parser.add_argument("--context", metavar="NAME", help="a context of the kubeconfig (default: its current one)")
    parser.add_argument("--namespace", metavar="NAME", help="where the VMs are made (default: the context's)")
    parser.add_argument(
        "--window-namespace",
        default="stuntime",
        metavar="NAME",
        help="where the Leases of the quiet window are, one place for a whole cluster (default: stuntime)",
    )


def client(arguments: argparse.Namespace) -> "Api":
    """Return a client of the cluster that the arguments name; nothing is made there."""
    from stuntime.kubevirt.api import connect

    return connect(arguments.kubeconfig, arguments.context, arguments.namespace)


@contextmanager
def connected(arguments: argparse.Namespace) -> "Iterator[Api]":
    """Hold a client of the cluster that the arguments name, its namespace there."""
    from stuntime.kubevirt.namespace import require

    api = client(arguments)
    for namespace in dict.fromkeys((api.namespace, arguments.window_namespace)):
        if require(api, namespace):
            print(f"stuntime: note: made the namespace {namespace}", file=sys.stderr)
    yield api
