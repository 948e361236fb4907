"""Three nodes: network namespaces joined by a fabric (the physical switch) and by a management network."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stuntime.sandbox.namespaces import RUN
from stuntime.sandbox.process import run

NIC = "nic0"
"""The network interface of every node that the measured network gets."""

MTU = 1500

_IPV6_OFF = "/proc/sys/net/ipv6/conf/{}/disable_ipv6"


@dataclass(frozen=True)
class Place:
    """A network namespace with a name."""

    name: str

    @property
    def directory(self) -> Path:
        """Where the sockets and logs of its daemons lie."""
        return RUN / self.name

    def inside(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs a command in here."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *argv]

    def run(self, *argv: str) -> str:
        """Run a command in here and return what it printed."""
        return run(self.inside(argv))

    def ip(self, *lines: str) -> None:
        """Run lines of `ip` in here, as one batch."""
        run(["ip", "-n", self.name, "-batch", "-"], stdin="\n".join(lines) + "\n", what=f"ip in {self.name}")

    def create(self) -> None:
        """Make it. The host's side of a network speaks no IPv6 of its own: the guests' packets are all there is."""
        run(["ip", "netns", "add", self.name])
        for scope in ("all", "default"):
            run(self.inside(["tee", _IPV6_OFF.format(scope)]), stdin="1")
        self.directory.mkdir()
        self.ip("link set lo up")


@dataclass(frozen=True)
class Node(Place):
    """A node, with its address on the management network."""

    address: str


NODES = tuple(Node(f"node-{letter}", f"10.201.0.{number}") for number, letter in enumerate("abc", start=1))
FABRIC = Node("fabric", "10.201.0.254")


def node_named(name: str) -> Node:
    """Return a node by its name; raise KeyError when there is none."""
    return {node.name: node for node in NODES}[name]


def bridge(name: str, ports: Iterable[str] = ()) -> list[str]:
    """Return the lines of `ip` that make a bridge which forwards at once and floods what it does not know."""
    return [
        f"link add {name} mtu {MTU} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        f"link set {name} up",
        *(f"link set {port} master {name} up" for port in ports),
    ]


def create_nodes() -> None:
    """Make the nodes and what joins them. They go away with the sandbox's namespaces."""
    for place in (FABRIC, *NODES):
        place.create()
    fabric = []
    for node in NODES:
        node.ip(
            f"link add {NIC} mtu {MTU} type veth peer name {node.name} mtu {MTU} netns {FABRIC.name}",
            f"link add mgmt0 type veth peer name m-{node.name} netns {FABRIC.name}",
            f"address add {node.address}/24 dev mgmt0",
            "link set mgmt0 up",
            f"link set {NIC} up",
        )
        # A switch of the user-space datapath would pass on packets whose checksum the sender left to its hardware.
        node.run("ethtool", "-K", NIC, "tx", "off")
        fabric.append(node.name)
    FABRIC.ip(
        *bridge("switch", fabric),
        *bridge("management", [f"m-{name}" for name in fabric]),
        f"address add {FABRIC.address}/24 dev management",
    )
