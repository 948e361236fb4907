"""The VMs of a scenario: made, booted, logged into, and taken away."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from stuntime.errors import TestbedError
from stuntime.guest import GuestCommandError, Login
from stuntime.kubevirt.api import Api
from stuntime.kubevirt.console import ConsoleLine, PatientShell
from stuntime.kubevirt.kinds import VM, VMI, Object, condition
from stuntime.testbed import VirtualMachine

_log = structlog.get_logger()

_GONE_S = 120.0
_CLOUD_INIT_S = 300.0
_ENDED = ("Failed", "Succeeded")
_TELLING = ("PodScheduled", "Synchronized", "Failure")
_ADDRESSES_S = 20
# Status 2 of newer versions: it came through, and recommends something.
_CLOUD_INIT = (
    "if command -v cloud-init >/dev/null; then said=$(cloud-init status --wait --long 2>&1); status=$?;"
    ' [ "$status" = 0 ] || [ "$status" = 2 ] || { echo $said; false; }; fi'
)


@dataclass
class Machine:
    """A VM that was asked for. `uid` is that of the instance that booted: another one is not the same VM."""

    vm: VirtualMachine
    line: ConsoleLine
    shell: PatientShell
    uid: str = ""
    migrations: int = 0


def machine(api: Api, name: str, addresses: Mapping[str, str], mac: str, login: Login | None) -> Machine:
    """Return a VM that is going to be asked for."""
    line = ConsoleLine(api, name)
    return Machine(VirtualMachine(name, addresses, mac), line, PatientShell(name, line, login))


def wait_booted(api: Api, machine: Machine, timeout_s: float) -> None:
    """Wait until the guest's shell answers and it has its addresses; raise TestbedError when that does not come."""
    deadline = time.monotonic() + timeout_s
    name = machine.vm.name
    for state in api.states(VMI, deadline, name=name):
        found = state.get(name)
        phase = ((found or {}).get("status") or {}).get("phase")
        if phase == "Running" and found is not None:
            machine.uid = found["metadata"]["uid"]
            break
        if phase in _ENDED:
            raise TestbedError(
                f"{name} ended before it ran ({phase}{_why(found)})",
                "look at its events and its launcher's log in the evidence",
                reason="vm-crashed",
            )
    else:
        raise _did_not_start(api, name, timeout_s)
    _log.debug("vm.running", vm=name)
    machine.shell.run("true", timeout_s=max(1.0, deadline - time.monotonic()))
    _require_configured(machine)
    _log.debug("vm.booted", vm=name)


def node_of(api: Api, machine: Machine) -> str:
    """Return the node, by name; raise TestbedError when the VM does not run, or is not the one that booted."""
    found = api.get(VMI, machine.vm.name)
    phase = ((found or {}).get("status") or {}).get("phase", "gone")
    if found is None or phase != "Running" or found["metadata"]["uid"] != machine.uid:
        what = "was started anew" if phase == "Running" else f"does not run any more (it is {phase})"
        raise TestbedError(f"{machine.vm.name} {what}", "look at its events and console", reason="vm-crashed")
    return str(found["status"].get("nodeName", ""))


def remove(api: Api, *machines: Machine) -> None:
    """Take VMs away, without grace, and wait until they are gone; raise TestbedError when they do not go."""
    ask_to_go(api, *machines)
    for machine in machines:
        name = machine.vm.name
        api.wait(VMI, name, lambda found: found is None, timeout_s=_GONE_S, what=f"the end of {name}")


def ask_to_go(api: Api, *machines: Machine) -> None:
    """Ask for VMs' deletion, without grace, and wait for nothing."""
    for machine in machines:
        machine.shell.disconnect()
        for kind in (VM, VMI):
            api.delete(kind, machine.vm.name)


def _require_configured(machine: Machine) -> None:
    name = machine.vm.name
    try:
        machine.shell.run(_CLOUD_INIT, timeout_s=_CLOUD_INIT_S)
    except GuestCommandError as failed:
        raise TestbedError(
            f"cloud-init of guest {name} failed: {' '.join(failed.output.split())[-300:]}",
            "look at the guest's console log in the evidence; does the image know cloud-init's NoCloud?",
            reason="cloud-init-failed",
        ) from failed
    wanted = " && ".join(f"echo $all | grep -qF ' {address}/'" for address in machine.vm.addresses.values())
    try:
        machine.shell.run(
            f"for _ in $(seq {_ADDRESSES_S}); do all=$(ip -o address show scope global);"
            f" {wanted} && break; sleep 1; done; {wanted}",
            timeout_s=2 * _ADDRESSES_S,
        )
    except GuestCommandError as failed:
        raise TestbedError(
            f"guest {name} did not take its addresses {', '.join(machine.vm.addresses.values())}",
            "use an image whose cloud-init configures static addresses, and look at the guest's console log",
            reason="guest-not-configured",
        ) from failed


def _did_not_start(api: Api, name: str, timeout_s: float) -> TestbedError:
    vm, vmi = api.get(VM, name), api.get(VMI, name)
    status = ((vm or {}).get("status") or {}).get("printableStatus", "no reason is given")
    return TestbedError(
        f"{name} did not run within {timeout_s:g} s ({status}{_why(vmi, vm)})",
        "look at the events and pods in the evidence",
        reason="vm-not-running",
    )


def _why(*objects: Object | None) -> str:
    """Return what conditions of objects say is wrong."""
    told = [condition(found, kind).get("message") for found in objects for kind in _TELLING]
    return next((f": {' '.join(str(message).split())[:300]}" for message in told if message), "")
