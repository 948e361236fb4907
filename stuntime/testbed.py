"""The two protocols the rule of the measurement is written against: where VMs live, and a shell in one of them."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from stuntime.scenario import Scenario


@dataclass(frozen=True)
class VirtualMachine:
    """A VM that runs. `addresses` are those on the measured network, by ip family; `mac` is its own there, if known."""

    name: str
    addresses: Mapping[str, str]
    mac: str | None = None


@dataclass(frozen=True)
class Pair:
    """The two VMs of a measurement."""

    static: VirtualMachine
    migrated: VirtualMachine


@dataclass(frozen=True)
class Route:
    """The nodes, by name, that a path asks for."""

    static_node: str
    source: str
    target: str


@dataclass(frozen=True)
class Migration:
    """A migration that ended well. Times are epoch seconds in the testbed's clock (`Testbed.now`).

    `requested` is ours; `started` and `ended` are what the platform reports. `source` and `target` are the nodes
    the VM was seen on before and after; `ordinal` says how many migrations this VM has had, this one included.
    `resolution_s` is that of the reported times, which are cut, not rounded. `proven`: somebody or something vouches
    for it; without that only an outage can show that it happened at all.
    """

    requested: float
    started: float | None
    ended: float | None
    source: str
    target: str
    uid: str
    mode: str
    ordinal: int
    phases: Mapping[str, float] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)
    resolution_s: float = 0.0
    proven: bool = True


class Shell(Protocol):
    """A shell in a guest. It outlives a migration of its VM: it connects again when it has to."""

    def run(self, command: str, *, timeout_s: float = 30.0) -> str:
        """Return what the command printed; raise GuestCommandError when it did not exit with 0."""

    def write(self, path: str, content: bytes) -> None:
        """Write a file in the guest; raise TestbedError when it does not arrive intact."""

    def read(self, path: str) -> bytes:
        """Return a file of the guest, its digest compared; raise TestbedError when it does not arrive intact."""


class Testbed(Protocol):
    """A place where VMs live and can be live-migrated between nodes that have names.

    Every method raises a StuntimeError when it cannot do what it says.
    """

    name: str

    def now(self) -> float:
        """Return the time in epoch seconds, in a clock that never steps."""

    def network(self, name: str, evidence: Path) -> AbstractContextManager[None]:
        """Hold a network up; at the end its VMs and all that was made for it are gone.

        When it does not come up, what helps to understand it is written into the folder.
        """

    def pair(self, scenario: Scenario, evidence: Path) -> AbstractContextManager[Pair]:
        """Hold the two VMs of a scenario, booted, each on a node. A pair may be used again by the next measurement.

        When they do not boot, or the body fails, what helps to understand it (consoles, logs, objects) is written into
        the folder while they are still there.
        """

    def release(self, scenario: Scenario) -> None:
        """Learn that the scenario is not measured again: the VMs that only it needs go away."""

    def abandon(self) -> None:
        """End what other threads do here, at once: they get an error, and what they made is asked to go away."""

    def provisioning(self, who: str) -> AbstractContextManager[None]:
        """Hold off measurements while VMs are placed."""

    def route(self, scenario: Scenario) -> Route:
        """Return the nodes that the scenario's path asks for."""

    def node_of(self, vm: VirtualMachine) -> str:
        """Return the name of the node that the VM runs on now."""

    def shell(self, vm: VirtualMachine) -> Shell:
        """Return the shell of the VM."""

    def quiet_window(self, who: str) -> AbstractContextManager[None]:
        """Hold the window in which nobody else provisions or migrates."""

    def migrate(self, vm: VirtualMachine, target: str, *, timeout_s: float) -> Migration:
        """Live-migrate the VM to the node named; return when it has ended and source and target are verified.

        Raise MigrationError when it failed, did not converge in time (it is then aborted) or went elsewhere.
        """

    def capture(self, vm: VirtualMachine, file: Path) -> AbstractContextManager[None]:
        """Record the ICMP packets at the VM's port into a pcap file; UnfitError where the testbed cannot."""

    def environment(self, pair: Pair) -> Mapping[str, Any]:
        """Return the facts that decide whether two results may be compared (see result.Environment)."""
