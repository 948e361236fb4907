"""A virtualization platform of others: `python -m tests.ssh.platform NETWORK FOLDER COMMAND...`.

It is the sandbox with one network, its two VMs booted, each with an SSH server on a second NIC. The command runs
outside of them, on the management network, and knows the platform only by ssh and by `ask.py`. FOLDER gets a key, the
servers' known hosts and a configuration of ssh.
"""

import re
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from stuntime.cli_common import guarded
from stuntime.errors import StuntimeError
from stuntime.sandbox import image, lock, namespaces, preflight
from stuntime.sandbox.cpio import Archive
from stuntime.sandbox.image import GuestImage
from stuntime.sandbox.namespaces import RUN
from stuntime.sandbox.network import Network, Port
from stuntime.sandbox.nodes import FABRIC, NODES, Node, bridge, node_named
from stuntime.sandbox.process import run
from stuntime.sandbox.qemu import Instance, Machine
from stuntime.sandbox.testbed import _MACS, SandboxTestbed
from stuntime.sandbox.vm import Vm
from stuntime.scenario import Scenario
from stuntime.testbed import Pair, VirtualMachine
from tests.ssh.ask import SOCKET

ADDRESSES = {"static": "10.202.0.1", "migrated": "10.202.0.2"}
OUR_ADDRESS = "10.202.0.254"
_BRIDGE = "guests"
_MIGRATION_S = 60.0
_INITTAB = b"::sysinit:/etc/rc\n::respawn:/etc/rc.ssh\nttyS0::respawn:/bin/sh\n"
_RC_SSH = b"""#!/bin/sh
ip link set eth1 up
ip address add "$vm_management" dev eth1 2>/dev/null
exec dropbear -F -E -s -r /etc/dropbear.key
"""


class ManagedInstance(Instance):
    """An instance with a second NIC, on the management network of the guests."""

    def _devices(self, port: Port | None) -> list[str]:
        assert port is not None
        mac = port.mac[:9] + "01" + port.mac[11:]
        return [
            *super()._devices(port),
            "-netdev", f"tap,id=management,ifname={_tap(port)},script=no,downscript=no",
            "-device", f"virtio-net-pci,netdev=management,mac={mac},romfile=",
        ]  # fmt: skip


def _tap(port: Port) -> str:
    return f"m-{port.name}"


class ManagedVm(Vm):
    """A VM of such instances."""

    def _start(self, node: Node, *, incoming: bool) -> tuple[Port, Instance]:
        port = Port(f"{self.machine.name}-{self._serial()}", node, self._mac)
        self._network.connect(port, waiting=incoming)
        node.ip(f"tuntap add {_tap(port)} mode tap", f"link set {_tap(port)} master {_BRIDGE} up")
        return port, ManagedInstance(self.machine, port.name, RUN, port=port, incoming=incoming)


class Platform(SandboxTestbed):
    """The sandbox, its guests on a management network too."""

    def make_vm(self, vm: VirtualMachine, machine: Machine, network: Network, node: str) -> Vm:
        """Return a VM whose guest has an address on the management network."""
        words = f"{machine.command_line} vm_management={ADDRESSES[vm.name]}/24"
        managed = replace(machine, command_line=words)
        return ManagedVm(managed, _MACS[vm.name], network, node_named(node), self._serial.__next__)


def _connect_management() -> None:
    for node in NODES:
        node.ip(
            f"link add {_BRIDGE}0 type veth peer name g-{node.name} netns {FABRIC.name}",
            *bridge(_BRIDGE, [f"{_BRIDGE}0"]),
        )
    FABRIC.ip(*bridge(_BRIDGE, [f"g-{node.name}" for node in NODES]), f"address add {OUR_ADDRESS}/24 dev {_BRIDGE}")


def with_server(built: GuestImage, folder: Path) -> GuestImage:
    """Return the image with an SSH server, its keys made now; write what a client needs into the folder."""
    host_key, key = folder / "host.key", folder / "key"
    made = run(["dropbearkey", "-t", "ed25519", "-f", str(host_key)])
    public = re.search(r"^(ssh-ed25519 \S+)", made, re.MULTILINE)
    assert public is not None
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
    (folder / "known_hosts").write_text("".join(f"{address} {public[1]}\n" for address in ADDRESSES.values()))
    config = f"Host *\n User root\n IdentityFile {key}\n IdentitiesOnly yes\n UserKnownHostsFile {folder}/known_hosts\n"
    hosts = "".join(f"Host vm-{role}\n HostName {address}\n" for role, address in ADDRESSES.items())
    (folder / "ssh_config").write_text(hosts + config)

    archive = Archive()
    dropbear = shutil.which("dropbear")
    assert dropbear is not None
    for path in (dropbear, *image._libraries(dropbear)):
        archive.file("/bin/dropbear" if path == dropbear else path, Path(path).read_bytes(), 0o755)
    archive.file("/etc/dropbear.key", host_key.read_bytes(), 0o600)
    archive.file("/root/.ssh/authorized_keys", key.with_suffix(".pub").read_bytes(), 0o600)
    archive.file("/etc/inittab", _INITTAB)
    archive.file("/etc/rc.ssh", _RC_SSH, 0o755)
    whole = folder / "initramfs"
    whole.write_bytes(built.initramfs.read_bytes() + archive.finish())
    return replace(built, initramfs=whole)


def _serve(platform: Platform, pair: Pair, argv: list[str]) -> int:
    """Run the command, and do what it asks the platform for meanwhile."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(SOCKET)
        server.listen()
        server.settimeout(0.1)
        command = subprocess.Popen(FABRIC.inside(argv), stdin=subprocess.DEVNULL)
        try:
            while command.poll() is None:
                with suppress(TimeoutError):
                    _answer(server.accept()[0], platform, pair)
        finally:
            command.terminate()
            command.wait()
        return command.returncode


def _answer(connection: socket.socket, platform: Platform, pair: Pair) -> None:
    connection.settimeout(None)
    with connection:
        question, *nodes = connection.makefile().readline().split()
        try:
            if question == "migrate":
                platform.migrate(pair.migrated, nodes[0], timeout_s=_MIGRATION_S)
            elif question == "cut":  # the server is started again by the guest
                platform.shell(pair.migrated).run("kill $(pidof dropbear)")
            answer = f"0 {platform.node_of(pair.migrated)}\n"
        except (StuntimeError, KeyError) as error:
            answer = f"1 {error}\n"
        with suppress(OSError):  # whoever asked did not wait
            connection.sendall(answer.encode())


def main() -> int:
    """Run the platform."""
    network, folder, *argv = sys.argv[1:]
    preflight.check(capture=True)
    with lock.only_sandbox():
        built = with_server(image.guest_image(), Path(folder))
        return namespaces.run_inside(lambda: guarded(lambda: _inside(network, built, argv)))


def _inside(network: str, built: GuestImage, argv: list[str]) -> int:
    platform = Platform(built, accelerator="tcg")
    _connect_management()
    scenario = Scenario(network, "from-static-node", "static", "ipv4")
    evidence = RUN.parent / "evidence"
    with platform.network(network, evidence), platform.pair(scenario, evidence) as pair:
        return _serve(platform, pair, argv)


if __name__ == "__main__":
    sys.exit(main())
