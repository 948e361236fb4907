"""Faults of the sandbox: `python -m tests.sandbox.faults FAULT ARGUMENT...` is the command line on a testbed with one.

Everything else is the real thing, and happens in the sandbox's own namespaces.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stuntime import cli
from stuntime.sandbox import testbed
from stuntime.sandbox.linux_bridge import LinuxBridge
from stuntime.sandbox.migration import Moved, Settings
from stuntime.sandbox.network import Network, Port
from stuntime.sandbox.nodes import node_named
from stuntime.sandbox.ovn import OvnLocalnet, _disabled
from stuntime.sandbox.qemu import Instance, Machine
from stuntime.sandbox.testbed import SandboxTestbed
from stuntime.sandbox.vm import Vm
from stuntime.scenario import Scenario
from stuntime.testbed import Migration, Pair, VirtualMachine

_SLOW = 1 << 20
_CRAWLING = 64 << 10
_KILLED_AFTER_S = 0.5
_DEADLINE_S = 3.0
_CUT_OFF_S = 1.0
_PACKETS_BEFORE = 8
_PATIENCE_S = 3.0
STEP_S = 3
# Older pings refuse to ordinary users what newer ones allow them; -V and what has no interval works with all.
_PING_THAT_REFUSES = b"""#!/bin/sh
case " $* " in
*" -i "*) echo "ping: cannot flood, minimal interval allowed for user is 200ms" >&2; exit 2 ;;
esac
exec /bin/ping.real "$@"
"""


class DisturbedVm(Vm):
    """A VM whose measured migrations its testbed disturbs."""

    testbed: "Disturbed"

    def _move(self, target: Instance, settings: Settings, *arguments: object) -> Moved:
        if self.testbed.is_measured(self.node.name):
            settings = self.testbed.disturb(target, settings)
        return super()._move(target, settings, *arguments)


class Disturbed(SandboxTestbed):
    """A testbed without a fault yet; subclasses override the step that goes wrong."""

    scenario: Scenario

    @contextmanager
    def pair(self, scenario: Scenario, evidence: Path) -> Iterator[Pair]:
        """Remember what is measured, and disturb the guests that have booted."""
        self.scenario = scenario
        with super().pair(scenario, evidence) as pair:
            self.prepare(pair)
            yield pair

    def make_vm(self, vm: VirtualMachine, machine: Machine, network: Network, node: str) -> Vm:
        """Return a VM that can be disturbed."""
        made = DisturbedVm(machine, testbed._MACS[vm.name], network, node_named(node), self._serial.__next__)
        made.testbed = self
        return made

    def is_measured(self, source: str) -> bool:
        """Tell a measured migration from one that brings the VM to its start."""
        return source == self.route(self.scenario).source

    def prepare(self, pair: Pair) -> None:
        """Do what has to be wrong before the measurement begins."""

    def disturb(self, target: Instance, settings: Settings) -> Settings:
        """Do what has to go wrong in a measured migration; return how it runs."""
        return settings


class TargetDies(Disturbed):
    """QEMU at the target dies during the migration, on one of the paths."""

    def disturb(self, target: Instance, settings: Settings) -> Settings:
        """Let the migration last, and kill the target half-way."""
        if self.scenario.path != "from-static-node":
            return settings
        threading.Timer(_KILLED_AFTER_S, os.kill, (target.process.pid, signal.SIGKILL)).start()
        return replace(settings, max_bandwidth=_SLOW)


class NeverConverges(Disturbed):
    """The migration would take for ever."""

    def disturb(self, target: Instance, settings: Settings) -> Settings:
        """Give it next to no bandwidth."""
        return replace(settings, max_bandwidth=_CRAWLING, downtime_limit_ms=1)

    def migrate(self, vm: VirtualMachine, target: str, *, timeout_s: float) -> Migration:
        """Do not wait as long as one would."""
        return super().migrate(vm, target, timeout_s=_DEADLINE_S)


class _TargetUnplugged(LinuxBridge):
    def connect(self, port: Port, *, waiting: bool) -> None:
        if waiting:
            Network.connect(self, port, waiting=waiting)
        else:
            super().connect(port, waiting=waiting)


class _TargetStaysDown(OvnLocalnet):
    def hand_over(self, source: Port, target: Port) -> None:
        self._nbctl(*_disabled(source))


class NeverTalksAgain(Disturbed):
    """The VM runs at its target, where its port stays down."""

    def make_network(self, name: str) -> Network:
        """Return a network that does not connect the target."""
        return {known.name: known for known in (_TargetUnplugged, _TargetStaysDown)}[name]()


class LossInWarmUp(Disturbed):
    """The static VM is cut off for a while before any migration is asked for."""

    @contextmanager
    def quiet_window(self, who: str) -> Iterator[None]:
        """Cut it off as soon as some probes went through."""
        vm = self._vms["static"]
        cutting = threading.Thread(target=_cut_off, args=(vm, _received(vm)), daemon=True)
        cutting.start()
        with super().quiet_window(who):
            yield
        cutting.join()


def _cut_off(vm: Vm, received_before: int) -> None:
    while _received(vm) < received_before + _PACKETS_BEFORE:
        time.sleep(0.05)
    vm.node.ip(f"link set {vm._port.tap} down")
    time.sleep(_CUT_OFF_S)
    vm.node.ip(f"link set {vm._port.tap} up")


def _received(vm: Vm) -> int:
    told = json.loads(vm.node.run("ip", "-json", "-stats", "link", "show", vm._port.tap))
    return int(told[0]["stats64"]["rx"]["packets"])


class ClockSteps(Disturbed):
    """A guest's clock steps during the migration: forth with IPv4 and back with IPv6.

    From the static node it is the static VM's, in the middle of the outage; on the other paths the migrated VM's.
    """

    def make_network(self, name: str) -> Network:
        """Return a network whose hand-over comes after the step."""
        made = super().make_network(name)
        hand_over = made.hand_over

        def step_and_hand_over(source: Port, target: Port) -> None:
            if self.is_measured(source.node.name) and self.scenario.path == "from-static-node":
                self._step("static")
            hand_over(source, target)

        made.hand_over = step_and_hand_over
        return made

    def disturb(self, target: Instance, settings: Settings) -> Settings:
        """Step the migrated VM's clock."""
        if self.scenario.path != "from-static-node":
            self._step("migrated")
        return settings

    def _step(self, name: str) -> None:
        step = STEP_S if self.scenario.ip_family == "ipv4" else -STEP_S
        self._vms[name].shell.run(f"date -s @$(( $(date +%s) + {step} ))")


class NeverBoots(Disturbed):
    """On the Linux bridge the guests' kernel finds nothing to start: it hangs, or ends QEMU, by the path."""

    def make_vm(self, vm: VirtualMachine, machine: Machine, network: Network, node: str) -> Vm:
        """Name a first program that does not exist, and do not wait as long as one would for a kernel that hangs."""
        on_bridge = network.name == LinuxBridge.name
        hangs = on_bridge and self.scenario.path == "from-static-node"
        testbed._BOOT_S = _PATIENCE_S if hangs else 60.0
        if on_bridge:
            panic = 0 if hangs else -1
            machine = replace(machine, command_line=f"console=ttyS0 rdinit=/nothing panic={panic}")
        return super().make_vm(vm, machine, network, node)


class PingMissing(Disturbed):
    """The guests have no ping, on one of the paths."""

    def prepare(self, pair: Pair) -> None:
        """Remove it."""
        if self.scenario.path == "from-static-node":
            for vm in (pair.static, pair.migrated):
                self.shell(vm).run("rm -f /bin/ping")


class IntervalRefused(Disturbed):
    """The guests' ping allows this user no short interval."""

    def prepare(self, pair: Pair) -> None:
        """Put one before it that says what iputils says."""
        for vm in (pair.static, pair.migrated):
            self.shell(vm).run("[ -e /bin/ping.real ] || mv /bin/ping /bin/ping.real")
            self.shell(vm).write("/bin/ping", _PING_THAT_REFUSES)
            self.shell(vm).run("chmod 755 /bin/ping")


class ObserverCannotRun(Disturbed):
    """The static VM has no Python."""

    def prepare(self, pair: Pair) -> None:
        """Remove it."""
        self.shell(pair.static).run("rm -f /bin/python3")


FAULTS: dict[str, type[Disturbed]] = {
    "target-dies": TargetDies,
    "never-converges": NeverConverges,
    "never-talks-again": NeverTalksAgain,
    "loss-in-warm-up": LossInWarmUp,
    "clock-steps": ClockSteps,
    "never-boots": NeverBoots,
    "ping-missing": PingMissing,
    "interval-refused": IntervalRefused,
    "observer-cannot-run": ObserverCannotRun,
}


def main() -> int:
    """Run the command line with the fault that the first argument names."""
    testbed.SandboxTestbed = FAULTS[sys.argv.pop(1)]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
