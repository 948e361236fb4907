"""What is where: the nodes, their addresses and the files of the one cluster of this machine."""

from dataclasses import dataclass
from pathlib import Path

from tests.cluster.cache import cluster_cache

CONTROL_IP = "10.100.0.1"
SERVICE_IP = "10.96.0.1"
SERVICES = "10.96.0.0/16"
PODS = "10.244.0.0/16"
FABRICS = ("fabric1", "fabric2")
SPARE_NICS = ("nic1", "nic2")
CGROUP = "stuntime-cluster"


@dataclass(frozen=True)
class Node:
    """One node."""

    name: str
    number: int

    @property
    def address(self) -> str:
        """The address on the management network."""
        return f"10.100.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        """The addresses of its pods."""
        return f"10.244.{self.number}.0/24"

    @property
    def gateway(self) -> str:
        """Its own address on its pods' bridge."""
        return f"10.244.{self.number}.1"


NODES = (Node("node-a", 1), Node("node-b", 2), Node("node-c", 3))


def node_named(name: str) -> Node:
    """Return the node of that name."""
    return next(node for node in NODES if node.name == name)


@dataclass(frozen=True)
class Layout:
    """The files of a running cluster, all in one directory that vanishes with it."""

    home: Path

    @property
    def state(self) -> Path:
        """What others have to know to reach it."""
        return self.home / "state.json"

    @property
    def sysctls(self) -> Path:
        """The values that the machine had before."""
        return self.home / "sysctls.json"

    @property
    def kubeconfig(self) -> Path:
        """A cluster admin's, for the machine."""
        return self.home / "kubeconfig"

    @property
    def inner_kubeconfig(self) -> Path:
        """A cluster admin's, for processes inside the cluster."""
        return self.home / "kubeconfig-inside"

    @property
    def secrets(self) -> Path:
        """Keys, certificates, tokens and the components' own kubeconfigs."""
        return self.home / "secrets"

    @property
    def logs(self) -> Path:
        """What the processes print."""
        return self.home / "logs"

    @property
    def log(self) -> Path:
        """What the supervisor prints: the start's progress."""
        return self.logs / "supervisor.log"

    def node(self, node: Node) -> Path:
        """Return where a node's own /var/lib and so on are."""
        return self.home / "nodes" / node.name


def layout() -> Layout:
    """Return this machine's."""
    return Layout(cluster_cache() / "running")


LOCK = Path("/run/stuntime-cluster.lock")
"""The file that the supervisor of a running cluster holds locked: the machine has one cluster, whoever's it is."""
