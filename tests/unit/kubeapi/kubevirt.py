"""A fake KubeVirt: VMs that boot, move and end as the real one's do, as far as the API and the consoles show it.

kubevirt = FakeKubeVirt(server, tmp_path)
kubevirt.next_migration("vm", "target-killed")
"""

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from stuntime.kubevirt.kinds import KUBEVIRT, NAMESPACE, NODE, POD, VM, VMI, VMIM, Kind, Object
from tests.unit.kubeapi.guest import PROGRAMS, Guest
from tests.unit.kubeapi.handler import Handler, Route
from tests.unit.kubeapi.server import FakeServer
from tests.unit.kubeapi.store import Change, RefusedError, Selector
from tests.unit.kubeapi.websocket import BINARY, CLOSE, WebSocket, accept_headers

#: What can become of a migration; anything else is refused.
OUTCOMES = (
    "succeeds",
    "target-killed",
    "contradictory",
    "unschedulable",
    "wrong-node",
    "hangs",
    "hangs-pending",
    "vm-crashes",
)
_HOSTNAME = "kubernetes.io/hostname"
_OVER = ("Succeeded", "Failed")
_CONSOLE = r"/apis/subresources\.kubevirt\.io/v1/namespaces/([^/]+)/virtualmachineinstances/([^/]+)/console"
_CONSOLE_RIGHT = "virtualmachineinstances/console.subresources.kubevirt.io"
_PROTOCOL = "plain.kubevirt.io"
_KEPT_MIGRATIONS = 5
_VM_FINALIZER, _VMI_FINALIZER = "kubevirt.io/virtualMachineControllerFinalize", "foregroundDeleteVirtualMachine"
_VMIM_FINALIZER = "kubevirt.io/migrationJobFinalize"
_KILLED = (
    "virError(Code=38, Domain=7, Message='Cannot recv data: Connection reset by peer') : "
    "virError(Code=1, Domain=10, Message='internal error: client socket is closed')"
)


@dataclass(frozen=True)
class Times:
    """How long things take, in seconds: much less than on a cluster."""

    boot_s: float = 0.05
    step_s: float = 0.02
    move_s: float = 0.1
    delete_s: float = 0.02
    abort_s: float = 0.05
    belated_s: float = 0.4
    unschedulable_s: float = 300.0


@dataclass
class Moving:
    """A migration in flight."""

    found: Object
    vmi: Object
    outcome: str
    source: str
    target: str = ""
    pod: str = ""
    aborted: bool = field(default=False)

    @property
    def uid(self) -> str:
        return str(self.found["metadata"]["uid"])


class FakeKubeVirt:
    """The controllers, webhooks and consoles of KubeVirt on a fake server. It ends with the server.

    `programs` are shell scripts that each guest has on its PATH, by name; `password` None gives a shell without a
    login prompt; `password_late` keeps the password from the guests until a test writes it (`Guest.tell`).
    """

    def __init__(
        self,
        server: FakeServer,
        folder: Path,
        *,
        times: Times | None = None,
        programs: Mapping[str, str] | None = None,
        password: str | None = None,
        password_late: bool = False,
        login: Callable[[Object], str | None] | None = None,
        version: str = "v1.7.0",
    ) -> None:
        self.times = times or Times()
        self.guests: dict[str, Guest] = {}
        self.configuration = {
            "allowAutoConverge": False,
            "allowPostCopy": False,
            "completionTimeoutPerGiB": 150,
            "progressTimeout": 150,
            "parallelMigrationsPerCluster": 5,
            "parallelOutboundMigrationsPerNode": 2,
            "bandwidthPerMigration": "0",
        }
        self.denied: str = ""
        self._server, self._store = server, server.store
        self._folder = folder
        self._programs = {**PROGRAMS, **(programs or {})}
        self._login = login or (lambda _: password)
        self._password_late = password_late
        self._outcomes: dict[str, list[str]] = {}
        self._places: dict[str, str] = {}
        self._moving: dict[str, Moving] = {}
        self._serial = count(1)
        server.routes.append(Route(_CONSOLE, _CONSOLE_RIGHT, self._console))
        server.on_close(self.close)
        self._store.admission.append(self._admit)
        self._store.listeners.append(lambda change: server.worker.later(0, partial(self._react, change)))
        if self._store.get(NAMESPACE, "", "kubevirt") is None:
            server.seed(NAMESPACE, NAMESPACE.object("kubevirt"))
        status = {"phase": "Deployed", "observedKubeVirtVersion": version, "operatorVersion": version}
        status |= {"conditions": [{"type": "Available", "status": "True", "reason": "AllComponentsReady"}]}
        server.seed(KUBEVIRT, {**KUBEVIRT.object("kubevirt"), "spec": {}, "status": status}, "kubevirt")

    def close(self) -> None:
        """End all guests."""
        for guest in list(self.guests.values()):
            guest.close()

    # What a test does to it.

    def next_migration(self, vm: str, *outcomes: str) -> None:
        """Say what becomes of the next migrations of a VM (see OUTCOMES); the ones after succeed."""
        assert set(outcomes) <= set(OUTCOMES), outcomes
        self._outcomes[vm] = list(outcomes)

    def place(self, vm: str, node: str) -> None:
        """Boot a VM on this node, whatever it prefers."""
        self._places[vm] = node

    def crash(self, vm: str, namespace: str = "ns") -> None:
        """End a VM's instance as a crash of QEMU does."""
        self._server.worker.later(0, lambda: self._crash(self._store.get(VMI, namespace, vm)))

    def guest(self, vm: str, namespace: str = "ns") -> Guest:
        """Return the guest of a VM that runs."""
        found = self._store.get(VMI, namespace, vm)
        assert found is not None, vm
        return self.guests[found["metadata"]["uid"]]

    def drop_console(self, vm: str, after_bytes: int = 0) -> None:
        """Break a VM's console now, or after so many bytes more."""
        self.guest(vm).drop_console(after_bytes)

    # Webhooks.

    def _admit(self, kind: Kind, made: Object) -> None:
        if self.denied and kind in (VM, VMIM):
            raise RefusedError(422, f'admission webhook "validator.kubevirt.io" denied the request: {self.denied}')
        if kind == VMIM:
            self._admit_migration(made)
        if kind == VM and not ("runStrategy" in made.get("spec", {}) or "running" in made.get("spec", {})):
            raise _denied("virtualmachine-validator.kubevirt.io", "One of Running or RunStrategy must be specified")

    def _admit_migration(self, made: Object) -> None:
        webhook = "migration-create-validator.kubevirt.io"
        vm, namespace = made.get("spec", {}).get("vmiName", ""), made["metadata"].get("namespace", "")
        vmi = self._store.get(VMI, namespace, vm)
        if vmi is None:
            raise _denied(webhook, f'the VMI "{vm}" does not exist under the cluster')
        if vmi["status"].get("phase") in _OVER:
            raise _denied(webhook, "Cannot migrate VMI in finalized state.")
        for other in self._store.find(Selector(VMIM, namespace))[0]:
            if other["spec"]["vmiName"] == vm and (other.get("status") or {}).get("phase") not in _OVER:
                raise _denied(
                    webhook,
                    f"in-flight migration detected. Active migration job ({other['metadata']['uid']}) is currently "
                    f"already in progress for VMI {vm}.",
                )
        made["metadata"].setdefault("finalizers", []).append(_VMIM_FINALIZER)
        made["metadata"].setdefault("labels", {})["kubevirt.io/vmi-name"] = vm

    # Controllers.

    def _react(self, change: Change) -> None:
        found = change.after
        leaving = change.type == "MODIFIED" and bool(found["metadata"].get("deletionTimestamp"))
        began_to_leave = leaving and not (change.before or {}).get("metadata", {}).get("deletionTimestamp")
        if change.kind == VM and change.type == "ADDED":
            self._vm_made(found)
        elif change.kind == VM and began_to_leave:
            self._vm_leaves(found)
        elif change.kind == VMI and began_to_leave:
            self._server.worker.later(self.times.delete_s, partial(self._vmi_ends, found))
        elif change.kind == VMI and change.type == "DELETED":
            self._vmi_gone(found)
        elif change.kind == VMIM and change.type == "ADDED":
            self._server.worker.play(self._migrate(found))
        elif change.kind == VMIM and began_to_leave:
            self._server.worker.later(self.times.abort_s, partial(self._abort, found))

    def _vm_made(self, vm: Object) -> None:
        self._store.edit(VM, vm, lambda one: one["metadata"].setdefault("finalizers", []).append(_VM_FINALIZER))
        if vm["spec"].get("runStrategy", "") in ("Halted", "Manual") or vm["spec"].get("running") is False:
            self._vm_status(vm, "Stopped")
            return
        self._vm_status(vm, "Starting")
        self._server.worker.play(self._boot(vm))

    def _vm_leaves(self, vm: Object) -> None:
        if self._store.get(VMI, vm["metadata"]["namespace"], vm["metadata"]["name"]) is None:
            self._store.edit(VM, vm, _let_go)
        else:
            self._delete(VMI, vm)

    def _vm_status(self, vm: Object, printable: str) -> None:
        ready = printable == "Running"

        def say(one: Object) -> None:
            condition = {"type": "Ready", "status": "True" if ready else "False"}
            one["status"] = {"printableStatus": printable, "created": True, "ready": ready, "conditions": [condition]}

        self._store.edit(VM, vm, say)

    def _boot(self, vm: Object) -> Iterator[float]:
        name, namespace = vm["metadata"]["name"], vm["metadata"]["namespace"]
        template = vm["spec"]["template"]
        owner = {"apiVersion": VM.api_version, "kind": VM.name, "name": name, "uid": vm["metadata"]["uid"]}
        body: Object = VMI.object(name, owners=[{**owner, "controller": True, "blockOwnerDeletion": True}])
        body["metadata"]["labels"] = dict((template.get("metadata") or {}).get("labels") or {})
        body["metadata"]["finalizers"] = [_VMI_FINALIZER]
        body |= {"spec": template["spec"], "status": {"phase": "Pending", "conditions": []}}
        vmi = self._store.create(VMI, namespace, body, status=True)
        self._phase(vmi, "Pending")
        yield self.times.boot_s / 4
        self._phase(vmi, "Scheduling")
        pod = self._pod(vmi, {})
        while not (node := self._home(vmi)):
            self._unscheduled(vmi, pod)
            self._vm_status(vm, "ErrorUnschedulable")
            yield self.times.step_s
            if self._store.get(VMI, namespace, name) is None:
                return
        self._pod_runs(vmi, pod, node)
        yield self.times.boot_s / 4
        self._phase(vmi, "Scheduled", nodeName=node)
        yield self.times.boot_s / 2
        self._start_guest(vmi, node)
        if self._phase(vmi, "Running", nodeName=node, **self._running_status(vmi, pod, node)) is None:
            self._end_guest(vmi)
        else:
            self._vm_status(vm, "Running")

    def _running_status(self, vmi: Object, pod: str, node: str) -> Object:
        conditions = [
            {"type": "Ready", "status": "True"},
            {"type": "LiveMigratable", "status": "True"},
        ]
        interfaces = [
            {
                "name": one["name"],
                "mac": one.get("macAddress") or f"02:00:00:{index:02x}:{next(self._serial) % 256:02x}:01",
                "interfaceName": f"eth{index}",
                "infoSource": "domain, multus-status",
                "linkState": "up",
                "queueCount": 1,
            }
            for index, one in enumerate(vmi["spec"].get("domain", {}).get("devices", {}).get("interfaces") or ())
        ]
        found = self._store.get(POD, vmi["metadata"]["namespace"], pod)
        active = {found["metadata"]["uid"]: node} if found else {}
        return {
            "conditions": conditions,
            "interfaces": interfaces,
            "activePods": active,
            "migrationMethod": "LiveMigration",
        }

    def _start_guest(self, vmi: Object, node: str) -> None:
        name, uid = vmi["metadata"]["name"], vmi["metadata"]["uid"]
        password = self._login(vmi)
        programs = dict(self._programs)
        if any("cloudInitNoCloud" in one for one in vmi["spec"].get("volumes") or ()):
            programs.setdefault("cloud-init", "echo 'status: done'\n")
        guest = Guest(
            name,
            self._folder / f"{name}-{uid}",
            programs,
            login=password is not None,
            password="" if self._password_late else (password or ""),
        )
        guest.tell("addresses", " ".join(addresses_of(vmi["spec"])))
        guest.tell("node", node)
        self.guests[uid] = guest

    def _home(self, vmi: Object) -> str:
        """Return the node that a new VM goes to; empty when there is none."""
        spec = vmi["spec"]
        allowed = self._nodes(spec.get("nodeSelector") or {})
        affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
        preferred = [
            value
            for term in affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
            for one in term["preference"].get("matchExpressions") or ()
            if one["key"] == _HOSTNAME and one["operator"] == "In"
            for value in one["values"]
        ]
        if vmi["metadata"]["name"] in self._places:
            return self._places[vmi["metadata"]["name"]]
        return next((name for value in preferred for name, host in allowed if host == value), "") or next(
            (name for name, _ in allowed), ""
        )

    def _nodes(self, selector: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return name and hostname of the nodes that have these labels and take VMs."""
        return [
            (one["metadata"]["name"], one["metadata"]["labels"].get(_HOSTNAME, ""))
            for one in self._store.find(Selector(NODE, None))[0]
            if not one["spec"].get("unschedulable") and selector.items() <= one["metadata"]["labels"].items()
        ]

    def _pod(self, vmi: Object, labels: Mapping[str, str]) -> str:
        """Make a launcher's pod that waits for its node; return its name."""
        name, owner = vmi["metadata"]["name"], vmi["metadata"]["uid"]
        body = POD.object(f"virt-launcher-{name}-{uuid.uuid4().hex[:5]}")
        body["metadata"]["labels"] = {
            "kubevirt.io": "virt-launcher",
            "kubevirt.io/created-by": owner,
            "vm.kubevirt.io/name": name,
            **labels,
        }
        body["metadata"]["ownerReferences"] = [
            {"apiVersion": VMI.api_version, "kind": VMI.name, "name": name, "uid": owner, "controller": True}
        ]
        containers = [{"name": "compute", "image": "virt-launcher"}]
        body |= {"spec": {"containers": containers}, "status": {"phase": "Pending", "conditions": []}}
        return str(self._store.create(POD, vmi["metadata"]["namespace"], body, status=True)["metadata"]["name"])

    def _pod_runs(self, vmi: Object, pod: str, node: str, phase: str = "Running") -> None:
        def run(one: Object) -> None:
            scheduled = {"type": "PodScheduled", "status": "True"}
            one["spec"]["nodeName"] = node
            one["status"] = {"phase": phase, "conditions": [scheduled]}

        if found := self._store.get(POD, vmi["metadata"]["namespace"], pod):
            self._store.edit(POD, found, run)

    def _unscheduled(self, vmi: Object, pod: str, *, tell_vmi: bool = True) -> None:
        nodes = len(self._store.find(Selector(NODE, None))[0])
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": f"0/{nodes} nodes are available: {nodes} node(s) didn't match Pod's node affinity/selector.",
        }
        if found := self._store.get(POD, vmi["metadata"]["namespace"], pod):
            self._store.edit(POD, found, lambda one: one["status"].update(conditions=[condition]))
        if tell_vmi:
            self._store.edit(VMI, vmi, lambda one: one["status"].update(conditions=[condition]))

    def _phase(self, vmi: Object, phase: str, **status: Any) -> Object | None:
        """Bring a VMI into a phase; None when it is gone or going."""
        current = self._store.get(VMI, vmi["metadata"]["namespace"], vmi["metadata"]["name"])
        if current is None or (current["metadata"].get("deletionTimestamp") and phase not in _OVER):
            return None

        def change(one: Object) -> None:
            one["status"] |= {"phase": phase, **status}
            stamp = {"phase": phase, "phaseTransitionTimestamp": self._store.stamp()}
            one["status"].setdefault("phaseTransitionTimestamps", []).append(stamp)

        return self._store.edit(VMI, vmi, change)

    def _crash(self, vmi: Object | None) -> None:
        if vmi is not None and self._phase(vmi, "Failed") is not None:
            self._end_guest(vmi)
            vm = self._store.get(VM, vmi["metadata"]["namespace"], vmi["metadata"]["name"])
            if vm is not None:
                self._vm_status(vm, "Stopped")
                if vm["spec"].get("runStrategy") in ("Always", "RerunOnFailure") or vm["spec"].get("running"):
                    self._delete(VMI, vmi)

    def _vmi_ends(self, vmi: Object) -> None:
        self._end_guest(vmi)
        self._phase(vmi, "Succeeded")
        self._store.edit(VMI, vmi, _let_go)

    def _vmi_gone(self, vmi: Object) -> None:
        vm = self._store.get(VM, vmi["metadata"]["namespace"], vmi["metadata"]["name"])
        if vm is None:
            return
        if vm["metadata"].get("deletionTimestamp"):
            self._store.edit(VM, vm, _let_go)
        elif vm["spec"].get("runStrategy") in ("Always", "RerunOnFailure") or vm["spec"].get("running"):
            self._server.worker.play(self._boot(vm))
        else:
            self._vm_status(vm, "Stopped")

    def _end_guest(self, vmi: Object) -> None:
        if guest := self.guests.get(vmi["metadata"]["uid"]):
            guest.close()

    def _delete(self, kind: Kind, found: Object) -> None:
        with suppress(RefusedError):
            self._store.delete(kind, found["metadata"]["namespace"], found["metadata"]["name"])

    # Migrations.

    def _migrate(self, found: Object) -> Iterator[float]:
        step_s = self.times.step_s
        self._migration_phase(found, "Pending")
        vm, namespace = found["spec"]["vmiName"], found["metadata"]["namespace"]
        while (vmi := self._store.get(VMI, namespace, vm)) is None or vmi["status"]["phase"] != "Running":
            yield step_s
            if vmi is None or self._store.get(VMIM, namespace, found["metadata"]["name"]) is None:
                self._migration_phase(found, "Failed")
                return
        outcomes = self._outcomes.get(vm) or ["succeeds"]
        moving = Moving(found, vmi, outcomes[0], source=vmi["status"]["nodeName"])
        self._outcomes[vm] = outcomes[1:]
        self._moving[moving.uid] = moving
        yield step_s
        while moving.outcome == "hangs-pending" and not moving.aborted:
            yield step_s
        for part in (self._prepare, self._move):
            for pause_s in part(moving):
                yield pause_s
                if moving.aborted:
                    return
            if (self._store.get(VMIM, namespace, found["metadata"]["name"]) or {}).get("status", {}).get(
                "phase"
            ) in _OVER:
                break
        self._moving.pop(moving.uid, None)
        self._keep_few(found)

    def _prepare(self, moving: Moving) -> Iterator[float]:
        """Bring a target up: from Scheduling to TargetReady."""
        found, vmi = moving.found, moving.vmi
        labels = {"kubevirt.io/migrationJobUID": moving.uid}
        moving.pod = self._pod(vmi, labels)
        self._migration_phase(found, "Scheduling")
        yield self.times.step_s
        moving.target = self._target(moving)
        if not moving.target:
            self._unscheduled(vmi, moving.pod, tell_vmi=False)
            yield self.times.unschedulable_s
            self._migration_phase(found, "Failed")
            return
        self._pod_runs(vmi, moving.pod, moving.target)
        self._migration_phase(found, "Scheduled")
        yield self.times.step_s
        self._state(
            moving,
            anew=True,
            migrationUid=moving.uid,
            sourceNode=moving.source,
            targetNode=moving.target,
            sourcePod=next(iter(self._pods_on(vmi, moving.source)), ""),
            targetPod=moving.pod,
            migrationConfiguration=dict(self.configuration),
        )
        self._migration_phase(found, "PreparingTarget")
        yield self.times.step_s
        self._migration_phase(found, "TargetReady")
        yield self.times.step_s

    def _move(self, moving: Moving) -> Iterator[float]:
        """Migrate, from Running to the end that was asked for."""
        found, vmi = moving.found, moving.vmi
        self._state(moving, startTimestamp=self._store.stamp(), mode="PreCopy")
        self._migration_phase(found, "Running")
        yield self.times.move_s
        while moving.outcome == "hangs":
            yield self.times.step_s
        if moving.outcome == "vm-crashes":
            self._crash(self._store.get(VMI, vmi["metadata"]["namespace"], vmi["metadata"]["name"]))
            self._migration_phase(found, "Failed")
        elif moving.outcome == "target-killed":
            self._state(moving, failed=True, failureReason=_KILLED, endTimestamp=self._store.stamp())
            self._pod_runs(vmi, moving.pod, moving.target, "Failed")
            self._migration_phase(found, "Failed")
        elif moving.outcome == "contradictory":
            self._delete(POD, {"metadata": {"namespace": vmi["metadata"]["namespace"], "name": moving.pod}})
            self._migration_phase(found, "Failed")
            yield self.times.belated_s
            self._switch(moving)
        else:
            self._switch(moving)
            yield self.times.step_s
            self._migration_phase(found, "Succeeded", copy_state=True)

    def _switch(self, moving: Moving) -> None:
        """Let the VM run on the target; its console breaks."""
        vmi, stamp = moving.vmi, self._store.stamp()
        if guest := self.guests.get(vmi["metadata"]["uid"]):
            guest.drop_console()
            guest.tell("node", moving.target)
        for pod in self._pods_on(vmi, moving.source):
            self._pod_runs(vmi, pod, moving.source, "Succeeded")
        self._state(moving, targetNodeDomainDetected=True, targetNodeDomainReadyTimestamp=stamp)
        self._store.edit(VMI, vmi, lambda one: one["status"].update(nodeName=moving.target))
        self._state(moving, endTimestamp=stamp, completed=True)

    def _abort(self, found: Object) -> None:
        """End a migration whose VMIM is being deleted."""
        moving = self._moving.pop(found["metadata"]["uid"], None)
        phase = (found.get("status") or {}).get("phase")
        if moving is not None and phase not in _OVER:
            moving.aborted = True
            if moving.pod:
                self._delete(POD, {"metadata": {"namespace": found["metadata"]["namespace"], "name": moving.pod}})
            if phase == "Running":
                self._state(
                    moving,
                    abortRequested=True,
                    abortStatus="Succeeded",
                    failed=True,
                    failureReason="Live migration aborted ",
                    endTimestamp=self._store.stamp(),
                )
        self._store.edit(VMIM, found, _let_go)

    def _target(self, moving: Moving) -> str:
        """Return where a migration goes: never to its source, and the VM's own selector wins."""
        if moving.outcome == "unschedulable":
            return ""
        own = moving.vmi["spec"].get("nodeSelector") or {}
        wanted = {**(moving.found["spec"].get("addedNodeSelector") or {}), **own}
        fits = [name for name, _ in self._nodes(wanted) if name != moving.source]
        if moving.outcome == "wrong-node":
            fits = [name for name, _ in self._nodes(own) if name not in (moving.source, *fits)]
        return next(iter(fits), "")

    def _pods_on(self, vmi: Object, node: str) -> Sequence[str]:
        labels = f"kubevirt.io/created-by={vmi['metadata']['uid']}"
        found = self._store.find(Selector(POD, vmi["metadata"]["namespace"], labels))[0]
        return [
            one["metadata"]["name"]
            for one in found
            if one["spec"].get("nodeName") == node and one["status"]["phase"] == "Running"
        ]

    def _state(self, moving: Moving, *, anew: bool = False, **told: Any) -> None:
        def change(one: Object) -> None:
            before = {} if anew else one["status"].get("migrationState") or {}
            one["status"]["migrationState"] = {**before, **told}

        self._store.edit(VMI, moving.vmi, change)

    def _migration_phase(self, found: Object, phase: str, *, copy_state: bool = False) -> None:
        def change(one: Object) -> None:
            status = one.setdefault("status", {})
            stamp = {"phase": phase, "phaseTransitionTimestamp": self._store.stamp()}
            status["phase"] = phase
            status.setdefault("phaseTransitionTimestamps", []).append(stamp)
            vmi = self._store.get(VMI, found["metadata"]["namespace"], found["spec"]["vmiName"])
            if copy_state and vmi is not None:
                status["migrationState"] = vmi["status"].get("migrationState")
            if phase in _OVER:
                one["metadata"]["finalizers"] = []

        self._store.edit(VMIM, found, change)

    def _keep_few(self, found: Object) -> None:
        """Delete all but the newest finished migrations of a VM."""
        of_it = [
            one
            for one in self._store.find(Selector(VMIM, found["metadata"]["namespace"]))[0]
            if one["spec"]["vmiName"] == found["spec"]["vmiName"] and (one.get("status") or {}).get("phase") in _OVER
        ]
        of_it.sort(key=lambda one: int(one["metadata"]["resourceVersion"]))
        for one in of_it[:-_KEPT_MIGRATIONS]:
            self._delete(VMIM, one)

    # Consoles.

    def _console(self, handler: Handler, match: re.Match[str]) -> None:
        namespace, name = match[1], match[2]
        vmi = self._store.get(VMI, namespace, name)
        if vmi is None:
            raise RefusedError(404, f'virtualmachineinstance.kubevirt.io "{name}" not found')
        phase = vmi["status"].get("phase")
        guest = self.guests.get(vmi["metadata"]["uid"])
        if phase == "Failed":
            refused = f'Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io "{name}"'
            raise RefusedError(409, f"{refused}: VMI is in failed status")
        if phase != "Running" or guest is None:
            raise RefusedError(400, "VMI is not running")
        headers = accept_headers(handler.headers, _PROTOCOL)
        if headers is None:
            raise RefusedError(400, "Failed to upgrade the request to a websocket")
        handler.send_response(101)
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.close_connection = True
        session = WebSocket(handler.connection, handler.rfile)
        guest.connect(session)
        try:
            while (message := session.receive())[0] != CLOSE:
                if message[0] == BINARY:  # text is ignored
                    guest.type(message[1])
        finally:
            guest.disconnect(session)
            session.drop()


def addresses_of(spec: Object) -> list[str]:
    """Return the addresses with prefix that a VM is given: on its kernel's command line or by cloud-init."""
    boot = (spec.get("domain", {}).get("firmware") or {}).get("kernelBoot") or {}
    found = re.findall(r"\bvm_ipv[46]=(\S+)", boot.get("kernelArgs", ""))
    for volume in spec.get("volumes") or ():
        network = (volume.get("cloudInitNoCloud") or {}).get("networkData")
        for nic in (json.loads(network)["ethernets"] if network else {}).values():
            found += nic.get("addresses", ())
    return found


def _denied(webhook: str, why: str) -> RefusedError:
    return RefusedError(400, f'admission webhook "{webhook}" denied the request: {why}')


def _let_go(found: Object) -> None:
    found["metadata"]["finalizers"] = []
