"""What a measured network does for the sandbox: it connects instances of VMs and hands over between them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from stuntime.sandbox.nodes import MTU, Node


@dataclass(frozen=True)
class Port:
    """The connection of one instance of a VM (a VM that migrates has two for a while) on a node."""

    name: str
    node: Node
    mac: str

    @property
    def tap(self) -> str:
        """The TAP device of the instance, in the node's namespace."""
        return f"tap-{self.name}"


class Network(ABC):
    """A network across the nodes. Subclasses say how; tests override single steps to inject faults."""

    name: str

    @abstractmethod
    def up(self) -> AbstractContextManager[None]:
        """Hold the network up."""

    def connect(self, port: Port, *, waiting: bool) -> None:  # noqa: ARG002 - for those that hand over
        """Make the port of an instance; `waiting` is one that a migration is to hand over to."""
        port.node.ip(f"tuntap add {port.tap} mode tap", f"link set {port.tap} mtu {MTU} up")

    def hand_over(self, source: Port, target: Port) -> None:  # noqa: B027 - nothing to do where an announcement does it
        """Let the target's port carry the traffic: the VM runs there now."""

    def give_back(self, source: Port, target: Port) -> None:  # noqa: B027
        """Let the source's port carry the traffic: the migration failed and the VM still runs there."""

    def disconnect(self, port: Port) -> None:
        """Remove the port of an instance that has ended."""
        port.node.ip(f"link delete {port.tap}")

    @abstractmethod
    def facts(self) -> Mapping[str, str]:
        """Return what distinguishes this network's configuration in results."""

    def diagnose(self, directory: Path) -> None:  # noqa: B027
        """Write its state into the directory."""
