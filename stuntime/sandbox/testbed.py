"""The testbed on one machine."""

import hashlib
import os
import platform
import re
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import Any

import structlog

from stuntime.errors import MigrationError, StuntimeError, UsageError
from stuntime.guest import ConsoleShell
from stuntime.sandbox.accelerator import Accelerator, choose
from stuntime.sandbox.image import GuestImage
from stuntime.sandbox.linux_bridge import LinuxBridge
from stuntime.sandbox.migration import Settings
from stuntime.sandbox.namespaces import HOST_PID, RUN
from stuntime.sandbox.network import Network
from stuntime.sandbox.nodes import NODES, create_nodes, node_named
from stuntime.sandbox.ovn import OvnLocalnet
from stuntime.sandbox.process import run
from stuntime.sandbox.qemu import Machine
from stuntime.sandbox.vm import Vm
from stuntime.scenario import Scenario
from stuntime.testbed import Migration, Pair, Route, VirtualMachine

_log = structlog.get_logger()

_BOOT_S = 60.0
_A, _B, _C = (node.name for node in NODES)
_ROUTES = {
    "from-static-node": Route(_A, _A, _B),
    "between-other-nodes": Route(_A, _B, _C),
    "to-static-node": Route(_A, _C, _A),
}
_STATIC, _MIGRATED = (
    VirtualMachine(name, {"ipv4": f"10.200.0.{number}", "ipv6": f"fd00:200::{number}"})
    for number, name in enumerate(("static", "migrated"), start=1)
)
_MACS = {_STATIC.name: "02:73:74:00:00:01", _MIGRATED.name: "02:73:74:00:00:02"}


class SandboxTestbed:
    """`stuntime.testbed.Testbed` in the sandbox's own namespaces (see `namespaces.run_inside`)."""

    name = "sandbox"

    def __init__(
        self,
        image: GuestImage,
        *,
        accelerator: str = "auto",
        keep: bool = False,
        settings: Settings = Settings(),  # noqa: B008 - frozen
    ) -> None:
        """Choose the accelerator and make the nodes; `keep` leaves the VMs of a failure until it is interrupted."""
        self._wall = time.time() - time.monotonic()
        self._image = image
        self._keep = keep
        self._settings = settings
        self._serial = count(1)
        self._network: Network | None = None
        self._vms: dict[str, Vm] = {}
        self._accelerator: Accelerator = choose(accelerator, image)
        create_nodes()

    def now(self) -> float:
        """Return epoch seconds, counted on from the start by the monotonic clock."""
        return self._wall + time.monotonic()

    @contextmanager
    def network(self, name: str, evidence: Path) -> Iterator[None]:  # noqa: ARG002 - as the protocol has it
        """Hold a network up; at the end its VMs and its daemons are gone."""
        network = self.make_network(name)
        started = time.monotonic()
        with network.up():
            _log.info("sandbox.network.up", network=name, seconds=round(time.monotonic() - started, 1))
            self._network = network
            try:
                yield
            finally:
                self._remove_vms()
                self._network = None

    @contextmanager
    def pair(self, scenario: Scenario, evidence: Path) -> Iterator[Pair]:
        """Hold both VMs, booted. They serve the next scenario too, unless the body fails."""
        pair = Pair(_STATIC, _MIGRATED)
        try:
            self._boot(self.route(scenario))
            yield pair
        except BaseException as error:
            if isinstance(error, StuntimeError):
                with suppress(StuntimeError, OSError):
                    self._diagnose(evidence)
            if self._keep and isinstance(error, Exception):
                self._wait_for_visitor(error)
            self._remove_vms()
            raise

    def release(self, scenario: Scenario) -> None:
        """Keep the VMs: they serve the next scenario, too."""

    def abandon(self) -> None:
        """Do nothing: one thread measures here, and the end of process 1 is the end of all that it made."""

    def provisioning(self, who: str) -> nullcontext[None]:  # noqa: ARG002 - as the protocol has it
        """Return at once: nothing is measured while this suite places its VMs."""
        return nullcontext()

    def route(self, scenario: Scenario) -> Route:
        """Return the nodes: the static VM is always on the first, the migrated one goes round."""
        return _ROUTES[scenario.path]

    def node_of(self, vm: VirtualMachine) -> str:
        """Return the node of the instance that runs."""
        return self._vms[vm.name].node.name

    def shell(self, vm: VirtualMachine) -> ConsoleShell:
        """Return the shell on the VM's console; the same one for as long as the VM lives."""
        return self._vms[vm.name].shell

    def quiet_window(self, who: str) -> nullcontext[None]:  # noqa: ARG002 - as the protocol has it
        """Return at once: one suite has the machine for itself, and measures one scenario after the other."""
        return nullcontext()

    def migrate(self, vm: VirtualMachine, target: str, *, timeout_s: float) -> Migration:
        """Live-migrate by QMP and hand the network over; see `Testbed.migrate`."""
        moving = self._vms[vm.name]
        source = moving.node.name
        if source == target:
            raise MigrationError(f"{vm.name} is on {target} already", "migrate it to another node")
        requested = self.now()
        wall_ahead = time.time() - requested
        moved = moving.migrate(node_named(target), self._settings, lambda epoch: epoch - wall_ahead, timeout_s)
        return Migration(
            requested=requested,
            started=moved.phases.get("setup"),
            ended=moved.phases["running"],
            source=source,
            target=moving.node.name,
            uid=moving.instance.name,
            mode="pre-copy",
            ordinal=moving.migrations,
            phases=moved.phases,
            configuration=moved.configuration,
        )

    @contextmanager
    def capture(self, vm: VirtualMachine, file: Path) -> Iterator[None]:
        """Record the ICMP packets at the VM's TAP with tcpdump."""
        with self._vms[vm.name].capture(file):
            yield

    def environment(self, pair: Pair) -> Mapping[str, Any]:  # noqa: ARG002 - as the protocol has it
        """Return what decides whether two results may be compared."""
        model = _cpu_model()
        return {
            "testbed": self.name,
            "cluster_id": f"sandbox-{_machine_digest()}",
            "product_versions": _product_versions(),
            "network": dict(self._network.facts()) if self._network else {},
            "nodes": {node.name: {"cpu_model": model, "cores": os.cpu_count()} for node in NODES},
            "nic": "veth",
            "guest_image": self._image.digest,
            "guest_kernel": self._image.kernel_release,
            "accelerator": self._accelerator.name,
        }

    def _diagnose(self, directory: Path) -> None:
        """Write logs, links and the network's state into the directory, as far as they can be had."""
        directory.mkdir(parents=True, exist_ok=True)
        for log in RUN.rglob("*.log"):
            shutil.copyfile(log, directory / "-".join(log.relative_to(RUN).parts))
        with suppress(StuntimeError):
            for node in NODES:
                (directory / f"{node.name}-links.txt").write_text(node.run("ip", "-s", "-d", "link"))
            if self._network is not None:
                self._network.diagnose(directory)

    def make_network(self, name: str) -> Network:
        """Return the network of this name, down. Overridden by tests."""
        for known in (LinuxBridge, OvnLocalnet):
            if known.name == name:
                return known()
        raise UsageError(f"the sandbox has no network {name!r}", "it has linux-bridge and ovn-localnet")

    def make_vm(self, vm: VirtualMachine, machine: Machine, network: Network, node: str) -> Vm:
        """Return a VM that has begun to boot. Overridden by tests."""
        return Vm(machine, _MACS[vm.name], network, node_named(node), self._serial.__next__)

    def _boot(self, route: Route) -> None:
        if self._vms or self._network is None:
            return
        started = time.monotonic()
        for vm, node in ((_STATIC, route.static_node), (_MIGRATED, route.source)):
            machine = Machine(
                vm.name, vm.addresses["ipv4"], vm.addresses["ipv6"], self._image, self._accelerator.argument
            )
            self._vms[vm.name] = self.make_vm(vm, machine, self._network, node)
        for booting in self._vms.values():
            booting.instance.wait_booted(_BOOT_S)
        _log.info("sandbox.vms.booted", seconds=round(time.monotonic() - started, 1))

    def _remove_vms(self) -> None:
        while self._vms:
            self._vms.popitem()[1].remove()

    def _wait_for_visitor(self, error: Exception) -> None:
        for vm in self._vms.values():
            vm.shell.disconnect()
        consoles = {name: str(RUN / f"{vm.instance.name}.console") for name, vm in self._vms.items()}
        enter = f"nsenter --target {os.environ.get(HOST_PID)} --all"
        _log.warning("sandbox.kept", error=str(error), enter=enter, consoles=consoles, end="Ctrl-C")
        while True:
            signal.pause()


def _product_versions() -> dict[str, str]:
    programs = {"qemu": "qemu-system-x86_64", "openvswitch": "ovs-vswitchd", "ovn": "ovn-controller"}
    versions = {}
    for product, program in programs.items():
        found = re.search(r"\d+(?:\.\d+)+", run([program, "--version"]))
        versions[product] = found.group() if found else "unknown"
    return {**versions, "kernel": platform.release()}


def _machine_digest() -> str:
    """Return what stays the same on this machine and gives nothing away of its id."""
    try:
        identity = Path("/etc/machine-id").read_text().strip()
    except OSError:
        identity = ""
    return hashlib.sha256((identity or platform.node()).encode()).hexdigest()[:12]


def _cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else platform.machine()
