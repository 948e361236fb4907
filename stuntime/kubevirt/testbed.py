"""The testbed on a cluster (see `stuntime.testbed.Testbed`), through the KubeVirt API and nothing else."""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import structlog

from stuntime.errors import StuntimeError, UnfitError
from stuntime.guest import ConsoleShell, Login
from stuntime.kubevirt import manifests, networks, plans, vms
from stuntime.kubevirt.api import Api, ConflictError, InterruptedRunError
from stuntime.kubevirt.cluster import Cluster, Node
from stuntime.kubevirt.kinds import CONFIG_MAP, SCENARIO_LABEL, SECRET, VM, Object, cleanup_command
from stuntime.kubevirt.migration import migrate
from stuntime.kubevirt.settings import Settings
from stuntime.kubevirt.vms import Machine
from stuntime.kubevirt.window import Window
from stuntime.scenario import INITIATORS, IP_FAMILIES, PATHS, Scenario
from stuntime.testbed import Migration, Pair, Route, VirtualMachine

_log = structlog.get_logger()

_ROLES = ("static", "migrated")
_RESOLUTION_S = 1.0
_LAST_PATIENCE_S = 3.0
_LAST_NETWORK_S = 10.0
_NODES_FOR_ALL = 3

#: What is said of captures here, and what to do instead.
NO_CAPTURE = (
    "the cluster's testbed takes no capture",
    "leave --capture out; capture at the static VM's tap yourself and judge it with `stuntime analyze --capture`",
)

#: Writes what helps to understand a failure into a folder, given what the consoles said.
Diagnose = Callable[[Path, Mapping[str, bytes]], None]


@dataclass(frozen=True)
class _Held:
    """The VMs of a scenario that are booted."""

    static: Machine
    migrated: Machine

    @property
    def pair(self) -> Pair:
        return Pair(self.static.vm, self.migrated.vm)


class KubevirtTestbed:
    """A cluster with KubeVirt. Each scenario has two VMs of its own; several threads may measure."""

    name = "kubevirt"
    captures = False

    def __init__(
        self,
        api: Api,
        settings: Settings,
        cluster: Cluster,
        nodes: tuple[Node, ...],
        nic: str | None,
        diagnose: Diagnose,
    ) -> None:
        """Remember what the preflight found; nothing is made before `opened`."""
        self._wall = time.time() - time.monotonic()
        self._api = api
        self._settings = settings
        self._cluster = cluster
        self._nodes = nodes
        self._nic = nic
        self._diagnose = diagnose
        self._labels = manifests.run_labels(settings.run_name)
        self._window = Window(api, namespace=settings.window_namespace, run=settings.run_name)
        self._attachment: networks.Attachment | None = None
        self._held: dict[str, _Held] = {}
        self._machines: dict[str, Machine] = {}
        self._lock = threading.Lock()
        self._login_name = f"stuntime-{settings.run_name}-{secrets.token_hex(2)}"
        self._password = secrets.token_urlsafe(12)
        self._owners: list[Object] = []

    @contextmanager
    def opened(self) -> Iterator["KubevirtTestbed"]:
        """Hold the object that owns all others of this run, and the guests' password; at the end they are gone."""
        with self._owned():
            try:
                if self._settings.guest.boot == "disk":
                    secret = manifests.login_secret(
                        self._login_name, self._password, labels=self._labels, owners=self._owners
                    )
                    with suppress(ConflictError):  # nobody else knows its name: only the first answer was lost
                        self._api.create(SECRET, secret)
                yield self
            finally:
                if self._settings.guest.boot == "disk":
                    with self._told("run.left"):
                        self._client().delete(SECRET, self._login_name)
        _log.info("api.requests", total=sum(self._api.requests.values()), by=dict(self._api.requests))

    @contextmanager
    def _owned(self) -> Iterator[None]:
        """Hold a ConfigMap that owns what is made, and is the named owner's: who cleans up finds it by its labels.

        There is one for each process of the run: the first to end takes nothing from the others.
        """
        name = f"stuntime-{self._settings.run_name}-{secrets.token_hex(4)}"
        owners = [self._settings.owner.reference] if self._settings.owner else []
        anchor = CONFIG_MAP.object(name, labels=self._labels, owners=owners, data={"run": self._settings.run})
        made = self._api.create(CONFIG_MAP, anchor)
        self._owners = [{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": made["metadata"]["uid"]}]
        try:
            yield
        finally:
            with self._told("run.left"):
                self._client().delete(CONFIG_MAP, name)

    def now(self) -> float:
        """Return epoch seconds, counted on from the start by the monotonic clock."""
        return self._wall + time.monotonic()

    @contextmanager
    def network(self, name: str, evidence: Path) -> Iterator[None]:
        """Hold a network up, made on the spare NIC or found by its NAD; at the end all that was made for it is gone."""
        with self._made(name, evidence) as attachment:
            self._attachment = attachment
            try:
                yield
            finally:
                for scenario in list(self._held):
                    self._remove(scenario)
                self._attachment = None

    @contextmanager
    def pair(self, scenario: Scenario, evidence: Path) -> Iterator[Pair]:
        """Hold both VMs, booted. They serve the scenario's next repetition too, unless the body fails."""
        try:
            with self._explained(evidence, lambda: self._consoles(scenario)):
                if scenario.id not in self._held:
                    self._boot(scenario)
                yield self._held[scenario.id].pair
        except BaseException:
            self._remove(scenario.id)
            raise

    def release(self, scenario: Scenario) -> None:
        """Remove the scenario's VMs."""
        self._remove(scenario.id)

    def abandon(self) -> None:
        """End every wait, and ask for the deletion of all VMs without waiting for anybody."""
        self._api.stop()
        client = self._client()
        with self._lock:
            machines = list(self._machines.values())
        _log.warning("run.abandoned", vms=len(machines))
        with self._told("run.left"):
            self._window.disturb(self._settings.run_name)
        for machine in machines:
            with self._told("vm.left") as left:
                vms.ask_to_go(client, machine)
            if left == ["api-away"]:  # it would not hear of the others either
                break

    def provisioning(self, who: str) -> Any:
        """Announce that VMs are placed; wait while somebody measures."""
        return self._window.provisioning(who)

    def quiet_window(self, who: str) -> Any:
        """Take the window that this cluster has one of; wait until nobody provisions any more."""
        return self._window.measuring(who)

    def route(self, scenario: Scenario) -> Route:
        """Return the nodes: the static VM is always on the first; raise UnfitError where a third one is missing."""
        if len(self._nodes) < _NODES_FOR_ALL and scenario.path == "between-other-nodes":
            raise UnfitError(
                f"{scenario.path} needs a third node, and there are {len(self._nodes)}",
                "add a node, or measure the other paths",
                reason="node-missing",
            )
        first, second, *rest = (node.name for node in self._nodes)
        third = rest[0] if rest else second
        return {
            "from-static-node": Route(first, first, second),
            "between-other-nodes": Route(first, second, third),
            "to-static-node": Route(first, third, first),
        }[scenario.path]

    def node_of(self, vm: VirtualMachine) -> str:
        """Return the name of the node that the VM runs on now."""
        return vms.node_of(self._api, self._machines[vm.name])

    def shell(self, vm: VirtualMachine) -> ConsoleShell:
        """Return the shell on the VM's console; the same one for as long as the VM lives."""
        return self._machines[vm.name].shell

    def migrate(self, vm: VirtualMachine, target: str, *, timeout_s: float) -> Migration:
        """Live-migrate by a VirtualMachineInstanceMigration to the node named; see `Testbed.migrate`."""
        machine = self._machines[vm.name]
        machine.migrations += 1
        hostname = next(node.hostname for node in self._nodes if node.name == target)
        # A finished migration outlives its VM, and the next VM of this name has migrations of its own.
        name = f"{vm.name}-{machine.migrations}-{secrets.token_hex(2)}"
        manifest = manifests.migration(name, vm.name, hostname, labels=self._labels, owners=self._owners)
        requested = self.now()
        moved = migrate(self._api, manifest, target, self.now, timeout_s)
        machine.shell.disconnect()
        return Migration(
            requested=requested,
            started=moved.started,
            ended=moved.ended,
            source=moved.source,
            target=moved.target,
            uid=moved.uid,
            mode=moved.mode,
            ordinal=machine.migrations,
            phases=moved.phases,
            configuration=moved.configuration,
            resolution_s=_RESOLUTION_S,
        )

    def capture(self, vm: VirtualMachine, file: Path) -> Any:  # noqa: ARG002 - as the protocol has it
        """Refuse: a capture at a VM's port takes more rights on its node than a measurement should have."""
        raise UnfitError(*NO_CAPTURE, reason="capture-unavailable")

    def environment(self, pair: Pair) -> Mapping[str, Any]:  # noqa: ARG002 - as the protocol has it
        """Return what decides whether two results may be compared."""
        attachment = self._attachment
        return {
            "testbed": self.name,
            "cluster_id": self._cluster.id,
            "product_versions": dict(self._cluster.versions),
            "network": dict(attachment.configuration) if attachment else {},
            "nodes": {node.name: dict(node.facts) for node in self._nodes},
            "nic": attachment.nic if attachment else None,
            "guest_image": self._settings.guest.image,
            "guest_kernel": None,
            "accelerator": "kvm" if self._cluster.kvm else "tcg",
        }

    @contextmanager
    def _explained(self, evidence: Path, consoles: Callable[[], Mapping[str, bytes]] = dict) -> Iterator[None]:
        """Write what helps to understand it into the folder when the body fails."""
        try:
            yield
        except StuntimeError:
            if not self._api.stopped:
                with self._told("diagnosis.failed"):
                    self._diagnose(evidence, consoles())
            raise

    @contextmanager
    def _made(self, name: str, evidence: Path) -> Iterator[networks.Attachment]:
        settings = self._settings.networks
        if name in settings.nads:
            nad = settings.nads[name]
            if nad == plans.name_of(name) and self._settings.makes_networks:
                networks.require_made(self._api, name, self._settings.run_name)
            yield networks.existing(self._api, nad, settings.nic or networks.nic_below(self._api, name, nad))
            return
        if self._nic is None:
            raise UnfitError("no spare NIC is known", "name one with --nic", reason="nic-missing")
        plan = plans.plan(name, self._api.namespace, settings, self._nic)
        holder = self._settings.holder(self._api.namespace)
        with ExitStack() as held:
            nics = networks.hold_nics(
                self._api,
                plan,
                lambda nic: held.enter_context(self._window.nic(nic, holder, wait_s=settings.nic_wait_s)),
            )
            try:
                with self._explained(evidence), self._window.provisioning(f"network {name}"):
                    started = time.monotonic()
                    self._window.require_nics(nics, holder)
                    attachment = networks.up(self._api, plan, self._nodes, self._labels, nics)
                _log.info("network.up", network=name, nic=self._nic, seconds=round(time.monotonic() - started, 1))
                yield attachment
            except BaseException as error:
                self._unmade_after(error, name)
                raise
            try:
                self._unmade(name)
            except (KeyboardInterrupt, SystemExit) as interrupt:
                self._unmade_after(interrupt, name)
                raise

    def _unmade_after(self, error: BaseException, network: str) -> None:
        """Take a network away after a trouble, which is the one to tell; after an interrupt nothing is waited for."""
        if not isinstance(error, Exception) and not self._api.stopped:
            self.abandon()
        with self._told("network.left"):
            self._unmade(network)

    def _unmade(self, network: str) -> None:
        with nullcontext() if self._api.stopped else self._window.provisioning(f"network {network}"):
            patience_s = _LAST_NETWORK_S if self._api.stopped else networks.CONFIGURED_S
            networks.down(self._client(), network, run=self._settings.run_name, timeout_s=patience_s)

    def _boot(self, scenario: Scenario) -> None:
        route, attachment = self.route(scenario), self._attachment
        if attachment is None:
            raise UnfitError("the network is not up", "hold it with `network` first")
        nodes = {node.name: node for node in self._nodes}
        with self._window.provisioning(scenario.id):
            started = time.monotonic()
            made = {}
            for role, node in zip(_ROLES, (route.static_node, route.source), strict=True):
                made[role] = self._create(scenario, role, nodes[node], attachment)
            for machine in made.values():
                vms.wait_booted(self._api, machine, self._settings.boot_timeout_s)
        _log.info("vms.booted", scenario=scenario.id, seconds=round(time.monotonic() - started, 1))
        self._held[scenario.id] = _Held(made["static"], made["migrated"])

    def _create(self, scenario: Scenario, role: str, node: Node, attachment: networks.Attachment) -> Machine:
        settings = self._settings
        number = 2 * _number(scenario) + _ROLES.index(role)
        name = f"{self._prefix(scenario)}{role}"
        mac = "02:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(5))
        addresses = settings.addresses.of(_first_number(settings.run) + number)
        manifest = manifests.virtual_machine(
            name,
            settings.guest,
            hostname=node.hostname,
            hostnames=[node.hostname for node in self._nodes],
            nad=attachment.nad,
            mac=mac,
            addresses=settings.addresses.with_prefix(addresses),
            secret=self._login_name,
            labels={**self._labels, SCENARIO_LABEL: scenario.id},
            owners=self._owners,
        )
        login = Login(name, "root", self._password) if settings.guest.boot == "disk" else None
        machine = vms.machine(self._api, name, addresses, mac, login)
        with self._lock:
            self._machines[name] = machine
        self._api.create(VM, manifest)
        return machine

    def _remove(self, scenario: str) -> None:
        """Remove a scenario's VMs, booted or not; what does not go is told, and is left to `cleanup`."""
        with self._lock:
            self._held.pop(scenario, None)
            prefix = self._prefix(Scenario.parse(scenario))
            machines = {name: machine for name, machine in self._machines.items() if name.startswith(prefix)}
        if not machines:
            return
        for machine in machines.values():
            machine.shell.disconnect()
        with self._told("vm.left"):
            try:
                with nullcontext() if self._api.stopped else self._window.provisioning(scenario):
                    vms.remove(self._api, *machines.values())
            except InterruptedRunError:
                vms.ask_to_go(self._client(), *machines.values())
        with self._lock:
            for name in machines:
                self._machines.pop(name, None)

    def _consoles(self, scenario: Scenario) -> dict[str, bytes]:
        prefix = self._prefix(scenario)
        with self._lock:
            return {name: machine.line.seen() for name, machine in self._machines.items() if name.startswith(prefix)}

    def _prefix(self, scenario: Scenario) -> str:
        """Return what the names of a scenario's VMs begin with."""
        return f"stuntime-{self._settings.run_name}-{_number(scenario):02}-"

    @contextmanager
    def _told(self, event: str) -> Iterator[list[str]]:
        """Go on after an expected failure, said aloud: there is something else to finish. Its reason is in the list."""
        reasons: list[str] = []
        try:
            yield reasons
        except StuntimeError as error:
            reasons.append(error.reason)
            way_out = cleanup_command(self._api.namespace, self._settings.run)
            _log.warning(event, reason=error.reason, message=str(error), way_out=way_out)
        except OSError as error:
            _log.warning(event, message=str(error))

    def _client(self) -> Api:
        return self._api.lasting(patience_s=_LAST_PATIENCE_S)


def _number(scenario: Scenario) -> int:
    """Return a scenario's number on its network: it tells the VMs of a run apart, and their addresses."""
    return list(product(PATHS, INITIATORS, IP_FAMILIES)).index((scenario.path, scenario.initiator, scenario.ip_family))


def _first_number(run: str) -> int:
    """Return where a run's addresses begin: two runs on one network hardly ever meet."""
    blocks = 1 << 16
    return 64 * (int.from_bytes(hashlib.sha256(run.encode()).digest()[:4], "big") % blocks)
