"""The Debian guest boots by itself, without a cluster: QEMU without KVM, and cloud-init's data on a disk of its own."""

import re
import shutil
import socket
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pexpect.socket_pexpect import SocketSpawn

from stuntime.errors import TestbedError
from stuntime.guest import ConsoleShell, Login
from stuntime.sandbox.process import Process, run
from tests.cluster.guest.build import MEMORY_MIB, debian_guest

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("mmdebstrap", "mcopy", "genisoimage", "qemu-img"))),
    reason="tests/cluster/guest/install.sh installs what builds the guest",
)

_BOOT_S = 600.0
_HOST, _MAC, _PASSWORD = "vm-debian", "02:00:00:00:00:01", "only-of-this-test"
_IPV4, _IPV6 = "192.0.2.10/24", "fd00:db8::10/64"
_USER_DATA = f"""#cloud-config
ssh_pwauth: false
chpasswd:
  expire: false
  users:
  - {{name: root, password: {_PASSWORD}, type: text}}
"""
_META_DATA = f"instance-id: {_HOST}\nlocal-hostname: {_HOST}\n"
_NETWORK_CONFIG = f"""version: 2
ethernets:
  secondary:
    match:
      macaddress: "{_MAC}"
    addresses: ["{_IPV4}", "{_IPV6}"]
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleShell]:
    """Boot the guest, with a second network card that cloud-init is told nothing of; give its console."""
    folder = tmp_path_factory.mktemp("guest")
    disk = debian_guest().disk
    seed, path = _seed(folder), folder / "console"
    machine = Process(
        "qemu",
        [
            *("qemu-system-x86_64", "-accel", "tcg", "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none"),
            *(
                "-drive",
                f"file={disk},if=virtio,snapshot=on",
                "-drive",
                f"file={seed},if=virtio,format=raw,readonly=on",
            ),
            *("-netdev", "user,id=first,restrict=on", "-device", f"virtio-net-pci,netdev=first,mac={_MAC}"),
            *("-netdev", "user,id=other,restrict=on", "-device", "virtio-net-pci,netdev=other,mac=02:00:00:00:00:02"),
            *("-serial", f"unix:{path},server=on,wait=off", "-no-reboot"),
        ],
        folder / "qemu.log",
    )

    def connect(timeout_s: float) -> SocketSpawn:
        deadline = time.monotonic() + timeout_s
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(path))
            except OSError as refused:
                connection.close()
                if time.monotonic() > deadline:
                    raise TestbedError("QEMU has no console", machine.log.read_text()) from refused
                time.sleep(0.1)
            else:
                return SocketSpawn(connection, timeout=timeout_s)

    shell = ConsoleShell(_HOST, connect, Login(_HOST, "root", _PASSWORD))
    try:
        shell.run("true", timeout_s=_BOOT_S)
        yield shell
    finally:
        shell.disconnect()
        machine.stop()


def test_cloud_init_ends_well(shell):
    """The root password, by which the console was logged in, is part of a set-up in which nothing failed."""
    assert "status: done" in shell.run("cloud-init status --wait --long", timeout_s=_BOOT_S)
    assert shell.run("systemctl --failed --quiet --plain --no-legend") == ""


def test_the_name_is_that_of_the_meta_data(shell):
    """The guest's name is the one it was given from outside."""
    assert shell.run("hostname").strip() == _HOST


def test_the_card_of_that_mac_has_the_addresses(shell):
    """Both addresses are on the card whose MAC the network configuration names, and usable; on no other one."""
    shell.run("cloud-init status --wait", timeout_s=_BOOT_S)
    told = _until_usable(shell)
    cards = dict(re.findall(r"link/ether (\S+)(.*?)(?=^\d+: |\Z)", told, re.MULTILINE | re.DOTALL))
    assert {_IPV4, _IPV6} <= set(cards[_MAC].split())
    assert not {_IPV4, _IPV6} & set(cards["02:00:00:00:00:02"].split())


def test_it_has_what_a_measurement_needs(shell):
    """A cloud image has iputils' ping, which this user may send every 10 ms, and Python 3."""
    assert "iputils" in shell.run("ping -V")
    assert shell.run("python3 -c 'import json, socket, struct; print(1 + 1)'").strip() == "2"
    assert " 0% packet loss" in shell.run("LC_ALL=C ping -n -D -O -i 0.01 -c 20 ::1")


def test_root_has_a_password(shell):
    """Root's account has the password of the user data, not an open door."""
    assert shell.run("passwd --status root").split()[1] == "P"


def test_the_container_disk_is_as_kubevirt_wants_it():
    """The archive has one layer, with one disk in /disk that belongs to user and group 107."""
    guest = debian_guest()
    with tarfile.open(guest.archive) as archive:
        blob = max(archive.getmembers(), key=lambda member: member.size)
        with tarfile.open(fileobj=archive.extractfile(blob)) as layer:
            assert [(entry.name, entry.uid, entry.gid) for entry in layer] == [
                ("disk", 107, 107),
                ("disk/disk.qcow2", 107, 107),
            ]
        assert guest.image in archive.extractfile("index.json").read().decode()


def _seed(folder: Path) -> Path:
    """Write a disk as KubeVirt's cloudInitNoCloud makes it."""
    source = folder / "seed"
    source.mkdir()
    (source / "user-data").write_text(_USER_DATA)
    (source / "meta-data").write_text(_META_DATA)
    (source / "network-config").write_text(_NETWORK_CONFIG)
    run(["genisoimage", "-quiet", "-V", "cidata", "-J", "-r", "-o", str(folder / "seed.iso"), str(source)])
    return folder / "seed.iso"


def _until_usable(shell: ConsoleShell) -> str:
    deadline = time.monotonic() + 30
    while True:
        told = shell.run("ip address show")
        if "tentative" not in told or time.monotonic() > deadline:
            return told
        time.sleep(0.5)
