"""A VM of the sandbox: the instance that runs now, and the way to the next one."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stuntime.errors import MigrationError, StuntimeError, TestbedError
from stuntime.guest import ConsoleShell
from stuntime.sandbox.migration import Moved, Settings, move
from stuntime.sandbox.namespaces import RUN
from stuntime.sandbox.network import Network, Port
from stuntime.sandbox.nodes import Node
from stuntime.sandbox.process import Process
from stuntime.sandbox.qemu import Instance, Machine
from stuntime.waiting import wait_until

if TYPE_CHECKING:
    from stuntime.guest import Console

_CAPTURE_STARTS_S = 10.0
_CAPTURE_ENDS_S = 10.0


class Vm:
    """A VM on a network. It starts to boot at construction."""

    def __init__(self, machine: Machine, mac: str, network: Network, node: Node, serial: Callable[[], int]) -> None:
        """Start its first instance on the node; `serial` numbers the instances of a run."""
        self.machine = machine
        self.migrations = 0
        self.shell = ConsoleShell(machine.name, self._console)
        self._mac = mac
        self._network = network
        self._serial = serial
        self._port, self._instance = self._start(node, incoming=False)

    @property
    def node(self) -> Node:
        """Where it runs."""
        return self._port.node

    @property
    def instance(self) -> Instance:
        """What it runs in."""
        return self._instance

    def migrate(self, node: Node, settings: Settings, clock: Callable[[float], float], timeout_s: float) -> Moved:
        """Live-migrate it to the node; after a MigrationError it runs where it was."""
        self.migrations += 1
        try:
            port, target = self._start(node, incoming=True)
        except TestbedError as error:
            raise MigrationError(f"the target did not come up: {error}", error.way_out) from error
        try:
            moved = self._move(target, settings, clock, timeout_s)
        except BaseException:
            target.stop()
            with suppress(StuntimeError):  # the migration's own failure is the one to tell
                self._network.give_back(self._port, port)
                self._network.disconnect(port)
            raise
        left_port, left = self._port, self._instance
        self._port, self._instance = port, target
        self._network.hand_over(left_port, port)
        self.shell.disconnect()
        left.stop()
        self._network.disconnect(left_port)
        return moved

    @contextmanager
    def capture(self, file: Path) -> Iterator[None]:
        """Record the ICMP packets at its port into a file."""
        log = RUN / f"{self.machine.name}.tcpdump.log"
        log.unlink(missing_ok=True)
        # As root it would become another user, who may not write the file.
        stay = ["-Z", "root"] if os.geteuid() == 0 else []
        argv = [
            "tcpdump",
            *stay,
            "-i",
            self._port.tap,
            "-U",
            "--immediate-mode",
            "-w",
            str(file),
            "icmp or icmp6",
        ]
        tcpdump = Process("tcpdump", self.node.inside(argv), log)
        try:
            wait_until(
                lambda: not tcpdump.running() or "listening on" in tcpdump.last_words(),
                timeout_s=_CAPTURE_STARTS_S,
                what="the start of tcpdump",
            )
            if not tcpdump.running():
                raise TestbedError(f"tcpdump has ended: {tcpdump.last_words()}", "is the output directory writable?")
            yield
        finally:
            tcpdump.signal(signal.SIGINT)
            if not tcpdump.wait(_CAPTURE_ENDS_S):
                tcpdump.kill()

    def remove(self) -> None:
        """End it and remove its port."""
        self.shell.disconnect()
        self._instance.stop()
        with suppress(StuntimeError):  # the network goes down next, with all of its ports
            self._network.disconnect(self._port)

    def _start(self, node: Node, *, incoming: bool) -> tuple[Port, Instance]:
        port = Port(f"{self.machine.name}-{self._serial()}", node, self._mac)
        self._network.connect(port, waiting=incoming)
        try:
            return port, Instance(self.machine, port.name, RUN, port=port, incoming=incoming)
        except TestbedError:
            with suppress(StuntimeError):
                self._network.disconnect(port)
            raise

    def _move(self, target: Instance, settings: Settings, clock: Callable[[float], float], timeout_s: float) -> Moved:
        """Overridden by tests."""
        return move(self._instance, target, settings, clock, timeout_s)

    def _console(self, timeout_s: float) -> "Console":
        return self._instance.console(timeout_s)
