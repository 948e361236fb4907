"""A VM that ends around its migration: it is told as what it is, not as a trouble of the migration."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stuntime.errors import MigrationError, TestbedError
from stuntime.kubevirt import manifests
from stuntime.kubevirt.api import Api
from stuntime.kubevirt.console import ConsoleLine
from stuntime.kubevirt.kinds import VM, VMI
from stuntime.kubevirt.migration import migrate
from stuntime.kubevirt.settings import Guest
from tests.unit.kubeapi.kubevirt import FakeKubeVirt
from tests.unit.kubeapi.server import FakeServer

_NAME = "stuntime-run-00-migrated"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(namespaces=["ns"]) as fake:
        fake.add_nodes("node-a", "node-b")
        yield fake


@pytest.fixture
def kubevirt(server: FakeServer, tmp_path: Path) -> FakeKubeVirt:
    fake = FakeKubeVirt(server, tmp_path)
    vm = manifests.virtual_machine(
        _NAME, Guest(boot="kernel"), hostname="node-a", hostnames=["node-a"], nad="ns/lan", mac="02:00:00:00:00:01",
        addresses={"ipv4": "10.0.0.1/24", "ipv6": "fd00::1/64"}, secret="", labels={}, owners=[],
    )  # fmt: skip
    api = server.api("ns")
    api.create(VM, vm)
    _until(api, "Running")
    return fake


def test_a_vm_that_ended_before_its_migration_has_crashed(server: FakeServer, kubevirt: FakeKubeVirt) -> None:
    """A migration of a VM that has ended is refused: the VM crashed, nobody else migrates it."""
    kubevirt.crash(_NAME)
    _until(server.api("ns"), "Failed")
    with pytest.raises(MigrationError) as failed:
        _migrate(server.api("ns"))
    assert failed.value.reason == "vm-crashed"


def test_a_vm_that_ends_while_it_is_migrated_has_crashed(server: FakeServer, kubevirt: FakeKubeVirt) -> None:
    """A migration that failed since its VM ended says so, and does not wait whether the VM moved after all."""
    kubevirt.next_migration(_NAME, "vm-crashes")
    began = time.monotonic()
    with pytest.raises(MigrationError) as failed:
        _migrate(server.api("ns"))
    assert failed.value.reason == "vm-crashed"
    assert time.monotonic() - began < 4


def _migrate(api: Api) -> None:
    manifest = manifests.migration(f"{_NAME}-1", _NAME, "node-b", labels={}, owners=[])
    migrate(api, manifest, "node-b", time.time, 10.0)


def _until(api: Api, phase: str) -> None:
    api.wait(VMI, _NAME, lambda found: (found or {}).get("status", {}).get("phase") == phase, timeout_s=10, what=phase)


def test_the_console_of_a_vm_that_ended_is_not_waited_for(server: FakeServer, kubevirt: FakeKubeVirt) -> None:
    """A console that is refused since the VM ended will not open any more: the VM crashed, and that is told at once."""
    kubevirt.crash(_NAME)
    _until(server.api("ns"), "Failed")
    with pytest.raises(TestbedError) as failed:
        ConsoleLine(server.api("ns"), _NAME).connect(20.0)
    assert failed.value.reason == "vm-crashed"
