"""The testbed on a platform of others: guests and commands of an inventory."""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog

from stuntime.errors import MigrationError, StuntimeError, TestbedError, UnfitError
from stuntime.scenario import Scenario
from stuntime.ssh.command import RunningCommand, Template, failed, run_command, wait_a_step
from stuntime.ssh.connection import Access
from stuntime.ssh.guests import GuestFacts, looked_at, require_apart
from stuntime.ssh.inventory import ROLES, Inventory
from stuntime.ssh.migration import Mover
from stuntime.ssh.shell import SshShell
from stuntime.testbed import Migration, Pair, Route, VirtualMachine

_log = structlog.get_logger()

_VERIFY_S = 30.0
_DIAGNOSIS_S = 10.0
_CAPTURE_STARTS_S = 15.0
_CAPTURE_HEADER = 24
_USER_S_WORD = "the user's word"
_DIAGNOSIS = "uname -a; uptime; ip -s address; ip neighbour; ip route; dmesg 2>/dev/null | tail -n 100"


class SshTestbed:
    """`stuntime.testbed.Testbed` on any platform."""

    name = "ssh"

    def __init__(
        self, inventory: Inventory, mover: Mover | None, *, config: Path | None = None, limit_s: float | None = None
    ) -> None:
        """Remember what is measured; nothing is connected yet.

        `mover` is None for control runs. `config` is a file of ssh's; `limit_s`, if given, is how long migrations get.
        """
        self._wall = time.time() - time.monotonic()
        self._inventory = inventory
        self._mover = mover
        self._limit_s = limit_s
        self._shells = {
            role: SshShell(Access(inventory.hosts[role], inventory.commands.become, config)) for role in ROLES
        }
        self._facts: dict[str, GuestFacts] = {}
        self._network = ""
        self._route: Route | None = None
        self._believed: str | None = None
        self._lost = False
        self._migrations = 0

    def now(self) -> float:
        """Return epoch seconds, counted on from the start by the monotonic clock."""
        return self._wall + time.monotonic()

    @contextmanager
    def network(self, name: str, evidence: Path) -> Iterator[None]:  # noqa: ARG002 - as the protocol has it
        """Name the network that is measured: it is up; at the end nothing of ours is left in the guests."""
        self._network = name
        try:
            yield
        finally:
            for shell in self._shells.values():
                shell.leave()

    @contextmanager
    def pair(self, scenario: Scenario, evidence: Path) -> Iterator[Pair]:
        """Hold both guests, reached and looked at; what a failure leaves running in them is ended."""
        self._inventory.require(scenario)
        network = self._inventory.networks[scenario.network]
        pair = Pair(*(VirtualMachine(role, network.addresses[role]) for role in ROLES))
        try:
            for role in ROLES:
                self._facts[role] = looked_at(self._shells[role])
            require_apart(pair, self._facts, scenario.ip_family, self._inventory.hosts)
            self._route = self.route(scenario)
            yield pair
        except BaseException as error:
            if isinstance(error, StuntimeError) and not isinstance(error, UnfitError):
                with suppress(OSError):
                    self._diagnose(evidence)
            for shell in self._shells.values():
                shell.leave()
            raise

    def release(self, scenario: Scenario) -> None:
        """Keep the guests: they are the user's, and serve the next scenario, too."""

    def abandon(self) -> None:
        """Do nothing: one thread measures here."""

    def provisioning(self, who: str) -> nullcontext[None]:  # noqa: ARG002 - as the protocol has it
        """Return at once: nothing is measured while this suite places its VM."""
        return nullcontext()

    def route(self, scenario: Scenario) -> Route:
        """Return the nodes, by the names the user gives them."""
        self._inventory.require(scenario)
        return self._inventory.routes[scenario.path]

    def node_of(self, vm: VirtualMachine) -> str:
        """Return the node that the verify command tells of; without one the user's word and what followed from it."""
        commands = self._inventory.commands
        if vm.name == "static":
            if commands.verify_static is not None:
                return _node(commands.verify_static, "the verify command of the static VM")
            return self._asked_for().static_node
        if commands.verify is not None:
            return _node(commands.verify, "the verify command")
        if self._lost:
            raise TestbedError(
                "after a migration that failed nobody knows where the VM is",
                "give a --verify-command that prints its node",
                reason="node-unknown",
            )
        if self._believed is None:
            source = self._asked_for().source
            if self._mover is not None:
                self._mover.begin(source, time.monotonic() + (self._limit_s or _VERIFY_S))
            _log.warning("migration.unverified", nodes=_USER_S_WORD, start=source)
            self._believed = source
        return self._believed

    def shell(self, vm: VirtualMachine) -> SshShell:
        """Return the guest's shell."""
        return self._shells[vm.name]

    def quiet_window(self, who: str) -> nullcontext[None]:  # noqa: ARG002 - as the protocol has it
        """Return at once: what others do on their platform is not ours to hold up."""
        return nullcontext()

    def migrate(self, vm: VirtualMachine, target: str, *, timeout_s: float) -> Migration:
        """Have the VM migrated, by command or by hand; see `Testbed.migrate`.

        What the platform began in vain cannot be aborted from here.
        """
        if self._mover is None:
            raise MigrationError("nothing is known that migrates the VM", "give a --migrate-command, or --by-hand")
        source = self.node_of(vm)
        if source == target:
            raise MigrationError(f"the VM is on {target} already", "migrate it to another node")
        verified = self._inventory.commands.verify is not None
        requested: list[float] = []
        deadline = time.monotonic() + (self._limit_s or timeout_s)
        self._migrations += 1
        try:
            moved = self._mover.move(
                source,
                target,
                deadline,
                (lambda: self._has_arrived(vm, source, target)) if verified else None,
                lambda: requested.append(self.now()),
            )
        except StuntimeError as error:
            self._lost = not verified
            if isinstance(error, MigrationError):
                raise
            raise MigrationError(str(error), error.way_out, reason=error.reason) from error
        self._believed = target
        nodes = "verified by a command" if verified else _USER_S_WORD
        return Migration(
            requested=requested[0],
            started=None,
            ended=None if moved.ended is None else self._wall + moved.ended,
            source=source,
            target=target,
            uid=uuid4().hex,
            mode=self._mover.mode,
            ordinal=self._migrations,
            configuration={**moved.configuration, "nodes": nodes},
            proven=moved.proven,
        )

    @contextmanager
    def capture(self, vm: VirtualMachine, file: Path) -> Iterator[None]:  # noqa: ARG002 - it is the static VM's
        """Record what the capture command writes."""
        template = self._inventory.commands.capture
        if template is None:
            raise UnfitError(
                "no capture command is known for this platform",
                "give a --capture-command, or measure without --capture",
                reason="capture-unavailable",
            )
        with file.open("wb") as output:
            running = RunningCommand(template.argv(), "the capture command", output)
            try:
                deadline = time.monotonic() + _CAPTURE_STARTS_S
                while running.running() and file.stat().st_size < _CAPTURE_HEADER:
                    if not wait_a_step(deadline, 0.05):
                        break
                if file.stat().st_size < _CAPTURE_HEADER or not running.running():
                    running.end()
                    raise failed(
                        "the capture command",
                        running.finished(),
                        "it has to write to its standard output as `tcpdump -U -w -` does, until it is ended",
                        reason="capture-failed",
                    )
                yield
            finally:
                running.end(signal.SIGINT)
                running.close()

    def environment(self, pair: Pair) -> Mapping[str, Any]:  # noqa: ARG002 - as the protocol has it
        """Return what the inventory says of the platform, and the guests of themselves."""
        platform = self._inventory.platform
        network = self._inventory.networks[self._network]
        facts = [self._facts[role] for role in ROLES]
        return {
            "testbed": self.name,
            "cluster_id": platform.cluster or platform.name,
            "product_versions": {**platform.facts, platform.name: platform.version},
            "network": {"kind": "unknown", **network.facts},
            "nodes": {name: dict(told) for name, told in self._inventory.nodes.items()},
            "nic": network.nic,
            "guest_image": platform.image or "; ".join(dict.fromkeys(guest.system for guest in facts)),
            "guest_kernel": "; ".join(dict.fromkeys(guest.kernel for guest in facts)),
            "accelerator": platform.accelerator,
        }

    def _diagnose(self, directory: Path) -> None:
        """Write what the guests say of themselves into the directory, as far as they can be reached."""
        directory.mkdir(parents=True, exist_ok=True)
        for role, shell in self._shells.items():
            with suppress(StuntimeError):
                said = shell.run(f"{{ {_DIAGNOSIS}; }} || true", timeout_s=_DIAGNOSIS_S)
                (directory / f"{role}-guest.txt").write_text(f"{said}\n")

    def _asked_for(self) -> Route:
        if self._route is None:
            raise AssertionError("nobody asks for nodes before there is a pair")
        return self._route

    def _has_arrived(self, vm: VirtualMachine, source: str, target: str) -> bool:
        found = self.node_of(vm)
        if found not in (source, target):
            raise MigrationError(
                f"the VM went from {source} to {found}, not to {target}",
                "see who else migrates VMs here, and whether the command heeds {target}",
                reason="migration-elsewhere",
            )
        return found == target


def _node(template: Template, what: str) -> str:
    """Return the node that a command prints: the last line that says anything."""
    told = run_command(template.argv(), what, timeout_s=_VERIFY_S)
    if told.status:
        raise failed(what, told, "it has to print the name of the node that the VM is on", reason="verify-failed")
    lines = told.stdout.split("\n")
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise TestbedError(
            f"{what} prints nothing", "it has to print the name of the node that the VM is on", reason="verify-failed"
        )
    return names[-1]
