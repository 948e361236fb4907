"""Plain libvirt as a platform of others: `python -m tests.ssh.libvirt FOLDER COMMAND...`.

Each node of the sandbox, with its Linux bridge, runs a libvirt daemon of its own, with files of its own; the daemons
run two VMs and migrate between each other by `virsh`. The command runs on the management network, as in `platform`.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from stuntime.cli_common import guarded
from stuntime.sandbox import image, lock, namespaces, preflight
from stuntime.sandbox.image import GuestImage
from stuntime.sandbox.linux_bridge import _BRIDGE as MEASURED
from stuntime.sandbox.linux_bridge import LinuxBridge
from stuntime.sandbox.nodes import FABRIC, NODES, Node
from stuntime.sandbox.process import Process, run
from stuntime.sandbox.testbed import _MACS
from stuntime.waiting import wait_until
from tests.ssh.platform import _BRIDGE as MANAGEMENT
from tests.ssh.platform import ADDRESSES, Platform, _connect_management, with_server

_STARTS_S = 30.0
_BOOTS_S = 60.0
_MEASURED = {"static": ("10.200.0.1", "fd00:200::1"), "migrated": ("10.200.0.2", "fd00:200::2")}
_PLACES = {"static": NODES[0], "migrated": NODES[0]}
_DAEMON = """\
listen_tls = 0
listen_tcp = 1
listen_addr = "{address}"
auth_tcp = "none"
auth_unix_rw = "none"
unix_sock_dir = "/run/libvirt"
host_uuid = "{uuid}"
"""
_QEMU = """\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""
# Daemons on one machine share its files: each gets its own, in a mount namespace of its own.
_START = """\
for place in /run /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /etc/libvirt; do
    mkdir -p $place && mount -t tmpfs tmpfs $place
done
mkdir -p /etc/libvirt/qemu /run/libvirt
# The package that would make this user brings daemons of the system's with it.
for file in passwd group; do cp /etc/$file "$1"; done
grep -q ^libvirt-qemu: "$1"/passwd || echo libvirt-qemu:x:64055:64055::/:/usr/sbin/nologin >> "$1"/passwd
grep -q ^libvirt-qemu: "$1"/group || echo libvirt-qemu:x:64055: >> "$1"/group
for file in passwd group; do mount --bind "$1"/$file /etc/$file; done
cp "$1"/libvirtd.conf "$1"/qemu.conf /etc/libvirt
exec libvirtd --listen --config /etc/libvirt/libvirtd.conf
"""
_DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name><uuid>{uuid}</uuid>
  <memory unit='MiB'>128</memory><vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 quiet loglevel=3 panic=-1 cryptomgr.notests vm_name={name} \
vm_ipv4={ipv4}/24 vm_ipv6={ipv6}/64 vm_management={management}/24</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <serial type='pty'/>
    <interface type='bridge'>
      <mac address='{mac}'/><source bridge='{measured}'/>{tap}<model type='virtio'/><rom enabled='no'/>
    </interface>
    <interface type='bridge'>
      <mac address='{management_mac}'/><source bridge='{guests}'/><model type='virtio'/><rom enabled='no'/>
    </interface>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def uri(node: Node) -> str:
    """Return how a node's daemon is called."""
    return f"qemu+tcp://{node.address}/system"


@contextmanager
def _daemon(node: Node, folder: Path) -> Iterator[None]:
    """Hold a libvirt daemon on a node."""
    files = folder / node.name
    files.mkdir(exist_ok=True)
    (files / "libvirtd.conf").write_text(_DAEMON.format(address=node.address, uuid=uuid4()))
    (files / "qemu.conf").write_text(_QEMU)
    argv = node.inside(["unshare", "--mount", "sh", "-euc", _START, "sh", str(files)])
    daemon = Process(f"libvirtd of {node.name}", argv, files / "libvirtd.log", environment=dict(os.environ))
    try:
        wait_until(
            lambda: not daemon.running() or _answers(node), timeout_s=_STARTS_S, what=f"the daemon of {node.name}"
        )
        assert daemon.running(), daemon.last_words()
        yield
    finally:
        daemon.stop()


def _answers(node: Node) -> bool:
    argv = FABRIC.inside(["virsh", "-c", uri(node), "version"])
    return subprocess.run(argv, capture_output=True, check=False, timeout=_STARTS_S).returncode == 0


def _create(name: str, built: GuestImage, folder: Path) -> None:
    mac, tap = _MACS[name], "<target dev='tap-static-1'/>" if name == "static" else ""
    domain = _DOMAIN.format(
        name=name,
        uuid=uuid4(),
        kernel=built.kernel,
        initrd=built.initramfs,
        ipv4=_MEASURED[name][0],
        ipv6=_MEASURED[name][1],
        management=ADDRESSES[name],
        mac=mac,
        management_mac=mac[:9] + "01" + mac[11:],
        measured=MEASURED,
        guests=MANAGEMENT,
        tap=tap,
    )
    file = folder / f"{name}.xml"
    file.write_text(domain)
    run(FABRIC.inside(["virsh", "-c", uri(_PLACES[name]), "create", str(file)]), timeout_s=_BOOTS_S)


def main() -> int:
    """Run the platform."""
    folder, *argv = sys.argv[1:]
    preflight.check(capture=True)
    with lock.only_sandbox():
        built = with_server(image.guest_image(), Path(folder))
        return namespaces.run_inside(lambda: guarded(lambda: _inside(built, Path(folder), argv)))


def _inside(built: GuestImage, folder: Path, argv: list[str]) -> int:
    platform = Platform(built, accelerator="tcg")
    _connect_management()
    a, b, c = NODES
    with platform.network(LinuxBridge.name, folder), _daemon(a, folder), _daemon(b, folder), _daemon(c, folder):
        for name in ADDRESSES:
            _create(name, built, folder)
        try:
            return subprocess.run(FABRIC.inside(argv), stdin=subprocess.DEVNULL, check=False).returncode
        finally:
            for node in NODES:
                for name in ADDRESSES:
                    gone = FABRIC.inside(["virsh", "-c", uri(node), "destroy", name])
                    subprocess.run(gone, capture_output=True, check=False, timeout=_STARTS_S)


if __name__ == "__main__":
    sys.exit(main())
