"""The network `linux-bridge`: a bridge per node with the node's NIC and the TAPs of its VMs as ports."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from stuntime.sandbox.network import Network, Port
from stuntime.sandbox.nodes import NIC, NODES, bridge

_BRIDGE = "br-vm"


class LinuxBridge(Network):
    """Nothing is handed over here: the bridges learn from the announcement the VM's new host makes."""

    name = "linux-bridge"

    @contextmanager
    def up(self) -> Iterator[None]:
        """Hold a bridge up on every node."""
        for node in NODES:
            node.ip(*bridge(_BRIDGE, [NIC]))
        try:
            yield
        finally:
            for node in NODES:
                node.ip(f"link set {NIC} nomaster", f"link delete {_BRIDGE}")

    def connect(self, port: Port, *, waiting: bool) -> None:
        """Make the TAP a port of the node's bridge."""
        super().connect(port, waiting=waiting)
        port.node.ip(f"link set {port.tap} master {_BRIDGE}")

    def facts(self) -> Mapping[str, str]:
        """Return kind, datapath and hand-over."""
        return {"kind": self.name, "datapath": "linux-bridge", "handover": "announcement"}

    def diagnose(self, directory: Path) -> None:
        """Write the forwarding tables."""
        for node in NODES:
            (directory / f"{node.name}-fdb.txt").write_text(node.run("bridge", "-s", "fdb", "show", "br", _BRIDGE))
