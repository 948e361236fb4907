"""What goes wrong on a cluster while it is measured: the right error or verdict, never a pass, and nothing left."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from stuntime import measure
from stuntime.errors import ExitCode, TestbedError
from stuntime.kubevirt import cleanup, console, manifests, vms
from stuntime.kubevirt.api import ApiError
from stuntime.kubevirt.kinds import CONFIG_MAP, CUDN, LEASE, NAD, NNCE, NNCP, POD, SECRET, VM, VMI, VMIM, condition
from stuntime.kubevirt.settings import Guest, NetworkSettings
from stuntime.kubevirt.window import Window
from stuntime.result import Result
from stuntime.scenario import Scenario
from stuntime.threshold import Verdict, judge
from tests.unit.kubeapi.kubevirt import Times
from tests.unit.kubeapi.store import Change
from tests.unit.kubevirt_lab import GUEST_PROGRAMS, OPTIONS, SCENARIO, Lab, hurry

MIGRATED = "linux-bridge.from-static-node.migrated.ipv4"
#: What is logged when a phase begins.
PHASES = {
    "boot": ("vm.running", {}),
    "warm-up": ("measure.warming-up", {}),
    "migration asked for": ("measure.migrating", {}),
    "migration": ("migration.phase", {"phase": "Running"}),
    "recovery": ("measure.recovering", {}),
    "collecting": ("measure.collecting", {}),
}


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def _at(lab: Lab, phase: str, action: Callable[[], object]) -> None:
    event, told = PHASES[phase]
    lab.at(event, action, **told)


def _reason(result: Result) -> str | None:
    """Return the reason of an error; None only for a number that may be used."""
    assert judge(result).verdict is (Verdict.ERROR if result.error else Verdict.PASS)
    return result.error.reason if result.error else None


# The API server.


def test_an_api_that_is_away_for_a_while(tmp_path: Path) -> None:
    """Away in every phase for less than our patience: the measurement goes on, and its number is good."""
    with Lab(tmp_path) as lab:
        for phase in PHASES:
            _at(lab, phase, lambda: lab.server.away_for(0.3))
        lab.when_done = lambda _: lab.server.away_for(0.3)
        [result] = lab.measured()
        assert not lab.heard.hooks
        assert result.error is None
        assert judge(result).verdict is Verdict.PASS
        lab.require_nothing_left()


@pytest.mark.parametrize("phase", [phase for phase in PHASES if phase != "migration asked for"])
def test_an_api_that_stays_away(tmp_path: Path, phase: str) -> None:
    """Away for longer than our patience: the error says so, and what the consoles said is kept."""
    with Lab(tmp_path, patience_s=0.2) as lab:
        gone = lab.server.away()
        _at(lab, phase, gone.__enter__)
        lab.when_done = lambda _: gone.__exit__(None, None, None)
        with lab.testbed("linux-bridge") as testbed:
            testbed._window._duration_s = 1.0
            lab.run(testbed, lab.output())
        [result] = lab.results
        # Once all is measured, what cannot be known is whether the window was kept.
        assert _reason(result) == ("window-lost" if phase == "collecting" else "api-away"), result.error
        assert "the API server did not answer" in result.error.message
        kept = {"diagnostics.txt", f"{lab.vm()}.console.log", f"{lab.vm('static')}.console.log"}
        assert lab.evidence(result) >= kept
        # Nobody could be told to go: what the run owned goes with it, an entry in the line by its age.
        lab.require_nothing_left(but="Lease")


def test_a_console_is_not_blamed_for_the_api(tmp_path: Path) -> None:
    """A command in a guest waits as long as other requests do while the API server is away, past its own timeout."""
    with Lab(tmp_path, patience_s=3.0) as lab:
        machine = _booted(lab)
        name, hasty = machine.vm.name, lab.server.api("ns", patience_s=0.3)
        with lab.server.away():
            machine.shell.disconnect()
            with pytest.raises(TestbedError) as failed:
                console.PatientShell(name, console.ConsoleLine(hasty, name), None).run("echo", timeout_s=5)
            assert failed.value.reason == "api-away"
        back = lab.server.away_for(1.0)
        assert machine.shell.run("echo here", timeout_s=0.2) == "here"
        back.join()


@pytest.mark.parametrize("status", [401, 403])
def test_rights_that_are_taken_away(tmp_path: Path, status: int) -> None:
    """A token that runs out, or a right that is taken: the way out says which, and `cleanup` removes what is left."""
    with Lab(tmp_path) as lab:
        token = lab.server.token
        if status == 401:
            lab.at("measure.migrating", lambda: setattr(lab.server, "token", "another"))
        else:
            lab.at("measure.migrating", lambda: lab.server.forbid("create", VMIM.resource))
        with pytest.raises(ApiError) if status == 401 else nullcontext():  # then the network, too, could not go
            lab.measured()
        [result] = lab.results
        assert _reason(result) == "api-forbidden"
        wanted = "log in again" if status == 401 else f"let this account create {VMIM.resource} (namespace ns)"
        assert wanted in result.error.way_out
        if status == 401:
            lab.server.token = token
            found, _ = cleanup.leftovers(
                lab.api, run=None, older_than_s=0, now=time.time(), window_namespace=lab.settings.window_namespace
            )
            assert {one.kind.name for one in found} >= {"ConfigMap", "VirtualMachine", "NodeNetworkConfigurationPolicy"}
            cleanup.remove(lab.api, found, Window(lab.api, namespace="stuntime", run="cleanup"))
        lab.require_nothing_left(but="Lease stuntime-window" if status == 401 else "-")


def test_a_console_that_is_forbidden(tmp_path: Path) -> None:
    """Without the right to the console the error names it."""
    with Lab(tmp_path) as lab:
        right = ("get", "virtualmachineinstances/console.subresources.kubevirt.io")
        lab.at("vm.running", lambda: lab.server.forbid(*right))
        [result] = lab.measured()
        assert _reason(result) == "api-forbidden"
        assert " ".join(right) in result.error.way_out
        lab.require_nothing_left()


def test_answers_that_are_lost(tmp_path: Path) -> None:
    """What was done before its answer was lost is known for ours, by the rights of the roles alone."""
    with Lab(tmp_path) as lab:
        lab.settings = replace(lab.settings, guest=Guest(image="guest"))
        for kind in (SECRET, POD, VMIM, CUDN):  # of these the roles let nobody get one
            lab.server.forbid("get", kind.resource)
        for kind in (CONFIG_MAP, SECRET, VM, VMIM, NNCP, CUDN, LEASE):
            lab.server.lose_answer(("POST", kind.resource))
        for kind in (CONFIG_MAP, SECRET, VM, VMI, NNCP, CUDN, LEASE):
            lab.server.lose_answer(("DELETE", kind.resource))
        lab.server.lose_answer(("PUT", LEASE.resource))
        [result] = lab.measured(SCENARIO.replace("linux-bridge", "ovn-localnet"))
        assert _reason(result) is None, result.error
        assert len({str(one.body) for one in lab.server.asked("POST", VMIM.resource)}) == 1
        lab.require_nothing_left()


@pytest.mark.parametrize("gone_as_status", [False, True])
def test_watches_that_are_forgotten(tmp_path: Path, gone_as_status: bool) -> None:
    """A watch whose version has expired (410) begins anew, and the migration's end is seen."""
    with Lab(tmp_path, times=Times(boot_s=0.02, step_s=0.01, move_s=0.3, delete_s=0.01)) as lab:
        lab.server.gone_as_status = gone_as_status

        def forget() -> None:
            lab.server.compact()
            lab.server.drop_watches()

        for phase in ("Scheduling", "Running"):
            lab.at("migration.phase", forget, phase=phase)
        [result] = lab.measured()
        assert not lab.heard.hooks
        assert _reason(result) is None


# Consoles.


def test_consoles_that_drop_at_every_step(tmp_path: Path) -> None:
    """A console that breaks in any phase, of either VM, is connected again, and nothing is lost."""
    with Lab(tmp_path) as lab:
        for event in (*PHASES, "booted"):
            for role in ("static", "migrated"):
                drop = lambda role=role: lab.kubevirt.drop_console(lab.vm(role))  # noqa: E731 - bound to this turn
                if event == "booted":
                    lab.at("vm.booted", drop, vm=lab.vm(role))
                elif event != "boot":
                    _at(lab, event, drop)
        lab.at("measure.collecting", lambda: lab.kubevirt.drop_console(lab.vm("static"), after_bytes=700))
        [result] = lab.measured()
        assert _reason(result) is None
        assert result.measurement.probes_answered > 20
        lab.require_nothing_left()


def test_a_console_that_drops_in_a_large_log(tmp_path: Path) -> None:
    """A large log comes whole, its digest compared, however often the console breaks in the middle of it."""
    content = random.Random(1).randbytes(150_000)
    with Lab(tmp_path) as lab:
        machine = _booted(lab)
        (lab.kubevirt.guest(machine.vm.name).folder / "log").write_bytes(content)
        breaking = iter([5_000, 40_000, 1_000, 25_000, 70_000])
        guest = lab.kubevirt.guest(machine.vm.name)
        connect = guest.connect

        def connected(session) -> None:
            connect(session)
            if (after := next(breaking, None)) is not None:
                guest.drop_console(after_bytes=after)

        guest.connect = connected
        machine.shell.disconnect()
        assert machine.shell.read(f"{guest.folder}/log") == content
        assert next(breaking, None) is None


# Migrations.


def test_migrations_that_do_not_work(tmp_path: Path) -> None:
    """What can become of a migration: each has its reason, the verdict is `error`, the logs are kept."""
    expected = {
        "target-killed": "migration-failed",
        "contradictory": "migration-contradictory",
        "unschedulable": "migration-unschedulable",
        "wrong-node": "migration-elsewhere",
        "hangs": "migration-timeout",
        "hangs-pending": "migration-timeout",
        "vm-crashes": "vm-crashed",
        "succeeds": None,
    }
    with Lab(tmp_path) as lab:
        lab.kubevirt.next_migration(lab.vm(), *expected)
        results = lab.measured(repeat=len(expected), options=replace(OPTIONS, migration_timeout_s=0.5))
        assert dict(zip(expected, map(_reason, results), strict=True)) == expected
        contradictory = results[1]
        assert contradictory.measurement.stuntime_s is not None
        for result in results:
            assert {"ping.log", "observer.log"} <= lab.evidence(result)
            assert result.measurement is not None
            assert (result.error is None) == ("virtualmachineinstances.json" not in lab.evidence(result))
        assert "client socket is closed" in results[0].error.message
        assert "node(s) didn't match" in results[2].error.message
        assert "node-c" in results[3].error.message
        lab.require_nothing_left()


def test_a_migration_that_somebody_aborts(tmp_path: Path) -> None:
    """A migration whose object somebody deletes is an error of its own, and the VM stays."""
    with Lab(tmp_path) as lab:
        lab.kubevirt.next_migration(lab.vm(), "hangs")

        def abort() -> None:
            [found] = lab.api.find(VMIM)
            lab.api.delete(VMIM, found["metadata"]["name"], grace_s=None)

        lab.at("migration.phase", abort, phase="Running")
        [result] = lab.measured()
        assert _reason(result) == "migration-aborted"
        lab.require_nothing_left()


def test_a_migration_beside_another(tmp_path: Path) -> None:
    """Another migration of the same VM is not ours: it is refused, told, and left alone."""
    with Lab(tmp_path) as lab:
        lab.kubevirt.next_migration(lab.vm(), "hangs")
        other = manifests.migration("theirs", lab.vm(), "node-b", labels={}, owners=[])
        other["metadata"]["labels"] = {}
        lab.at("measure.migrating", lambda: lab.api.create(VMIM, other))
        [result] = lab.measured()
        assert _reason(result) == "migration-refused"
        assert "in-flight" in result.error.message
        assert not [one for one in lab.server.asked("DELETE", VMIM.resource) if one.path.endswith("theirs")]


# VMs.


@pytest.mark.parametrize("phase", ["boot", "migration asked for", "recovery"])
def test_a_vm_that_crashes(tmp_path: Path, phase: str) -> None:
    """A VM that ends while it boots, before or after its migration is told as such at once, and never passes."""
    with Lab(tmp_path) as lab:
        vm = lab.vm(number=0 if phase == "boot" else 2)

        def crash() -> None:
            lab.kubevirt.crash(vm)
            lab.api.wait(VMI, vm, lambda one: one["status"]["phase"] == "Failed", timeout_s=5, what="its end")

        if phase == "boot":
            lab.at("vm.running", crash, vm=vm)
        else:
            _at(lab, phase, crash)
        begun = time.monotonic()
        [result] = lab.measured(SCENARIO if phase == "boot" else MIGRATED)
        assert time.monotonic() - begun < 15
        assert _reason(result) == "vm-crashed"
        assert "virtualmachineinstances.json" in lab.evidence(result)
        lab.require_nothing_left()


def test_a_vm_that_ends_after_its_migration_never_recovers(tmp_path: Path) -> None:
    """A migrated VM that answers no more after its migration is a verdict: `fail`, with what helps to understand it."""
    with Lab(tmp_path) as lab:

        def crash() -> None:
            (lab.guests / "cut").touch()
            lab.kubevirt.crash(lab.vm())

        lab.at("measure.recovering", crash)
        [result] = lab.measured(options=replace(OPTIONS, recovery_timeout_s=0.5))
        assert result.error is None
        assert (result.measurement.recovered, result.measurement.stuntime_s) == (False, None)
        assert judge(result).verdict is Verdict.FAIL
        assert "Failed" in (tmp_path / result.evidence[0].file).name or "diagnostics.txt" in lab.evidence(result)
        lab.require_nothing_left()


def test_a_vm_that_is_placed_elsewhere(tmp_path: Path) -> None:
    """A VM that the scheduler put on another node is brought to its start; a static one there is an error."""
    with Lab(tmp_path) as lab:
        lab.kubevirt.place(lab.vm(), "node-c")
        lab.kubevirt.place(lab.vm("static", 8), "node-b")
        results = lab.measured(SCENARIO, "linux-bridge.to-static-node.static.ipv4")
        told = {result.scenario: (_reason(result), result.migration) for result in results}
        assert told[SCENARIO][0] is None
        assert (told[SCENARIO][1].source, told[SCENARIO][1].ordinal) == ("node-a", 2)
        assert told["linux-bridge.to-static-node.static.ipv4"][0] == "vm-misplaced"


def test_a_vm_that_never_runs(tmp_path: Path) -> None:
    """A VM that no node takes is an error after the boot timeout, with the scheduler's words."""
    with Lab(tmp_path) as lab:
        lab.settings = replace(lab.settings, boot_timeout_s=0.5)
        lab.kubevirt.place(lab.vm(), "")
        [result] = lab.measured()
        assert _reason(result) == "vm-not-running"
        assert "ErrorUnschedulable" in result.error.message
        assert "nodes are available" in result.error.message
        lab.require_nothing_left()


# Guests.


@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        ({"cloud-init": "echo 'status: error - no datasource'; exit 1\n"}, "cloud-init-failed"),
        ({"ip": "exit 0\n"}, "guest-not-configured"),
        ({"ping": "echo 'sh: ping: not found'; exit 127\n"}, "ping-missing"),
        (
            {"ping": '[ "$1" = -V ] || { echo "minimal interval allowed for user is 200ms"; exit 2; }\n'},
            "interval-refused",
        ),
        ({"ip": '[ "$1" != neigh ] || { echo "$3 lladdr 02:de:ad:00:00:01"; exit; }\nOWN'}, "address-in-use"),
        ({"python3": "echo 'sh: python3: not found' >&2; exit 127\n"}, "observer-missing"),
    ],
)
def test_guests_that_are_not_fit(tmp_path: Path, programs: dict[str, str], reason: str) -> None:
    """A guest that cannot be measured says what it lacks before anything is migrated, and leaves nothing."""
    whole = {name: text.replace("OWN", GUEST_PROGRAMS["ip"]) for name, text in programs.items()}
    with Lab(tmp_path, programs=whole) as lab:
        [result] = lab.measured(MIGRATED)
        assert _reason(result) == reason, result.error
        assert result.error.way_out
        assert not lab.server.asked("POST", VMIM.resource)
        lab.require_nothing_left()


def test_a_static_initiator_needs_no_observer(tmp_path: Path) -> None:
    """Without Python in the guest a static initiator is still measured, by its own log."""
    with Lab(tmp_path, programs={"python3": "exit 127\n"}) as lab:
        [result] = lab.measured()
        assert _reason(result) is None
        assert lab.evidence(result) == {"ping.log"}


def test_a_login_that_is_refused(tmp_path: Path) -> None:
    """A guest whose cloud-init did not set the password refuses until the boot timeout; the error says so."""
    with Lab(tmp_path) as lab:
        lab.settings = replace(lab.settings, guest=Guest(image="guest"), boot_timeout_s=2.0)
        lab.kubevirt._password_late = True
        [result] = lab.measured()
        assert _reason(result) == "guest-login-refused"
        assert b"Login incorrect" in _console(lab, result)
        lab.require_nothing_left()


def test_a_guest_that_hangs_while_it_boots(tmp_path: Path) -> None:
    """A VM that runs and whose console says nothing is a guest that has not booted."""
    with Lab(tmp_path) as lab:
        lab.settings = replace(lab.settings, guest=Guest(image="guest"), boot_timeout_s=1.0)
        lab.at("vm.running", lambda: _stop(lab))
        [result] = lab.measured()
        assert _reason(result) == "guest-not-booted"
        lab.require_nothing_left()


def test_a_network_that_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that never answers, or stops to in the warm-up, is told before anything is migrated."""
    monkeypatch.setattr(measure, "_WARM_UP_S", 0.2)
    with Lab(tmp_path) as lab:
        cut = (lab.guests / "cut").touch
        lab.at("measure.warming-up", cut)
        results = lab.measured(repeat=2)
        assert [_reason(result) for result in results] == ["warm-up-failed", "peer-silent"]
        assert not lab.server.asked("POST", VMIM.resource)
        lab.require_nothing_left()


# Networks.


@pytest.mark.parametrize("for_good", [False, True])
def test_a_policy_that_degrades(tmp_path: Path, for_good: bool) -> None:
    """A node that cannot be configured ends its network's scenarios with its words; the other network goes on.

    Where the node cannot even be given back what it had, the first trouble is told, and
    the next network that needs the NIC has it given back first.
    """
    with Lab(tmp_path) as lab:
        lab.nmstate.refusals["node-b"] = "NmstateError: InvalidArgument: no such NIC eno2"

        def heal(change: Change) -> None:
            if change.kind == NNCE and condition(change.after, "Failing").get("status") == "True":
                lab.nmstate.refusals.clear()

        if not for_good:
            lab.server.store.listeners.append(heal)
        lab.at("network.failed", lab.nmstate.refusals.clear)
        localnet = SCENARIO.replace("linux-bridge", "ovn-localnet")
        results = {result.scenario: result for result in lab.measured(SCENARIO, MIGRATED, localnet)}
        for scenario in (SCENARIO, MIGRATED):
            assert _reason(results[scenario]) == "network-degraded"
            assert (
                "node-b could not be configured by the policy stuntime-linux-bridge" in results[scenario].error.message
            )
            assert "no such NIC eno2" in results[scenario].error.message
            assert results[scenario].error.exit_code == ExitCode.UNFIT
        [told] = lab.folder.rglob("nodenetworkconfigurationenactments.json")
        assert "no such NIC eno2" in told.read_text()
        assert told.name in lab.evidence(lab.results[0])
        assert _reason(results[localnet]) is None
        if for_good:
            assert lab.said("network.left")
            assert lab.said("network.stale")
        lab.require_nothing_left()


def test_a_nad_that_vanishes(tmp_path: Path) -> None:
    """A NAD that somebody deletes after the preflight is an error of the scenarios that need it."""
    with Lab(tmp_path) as lab:
        config = json.dumps({"plugins": [{"type": "bridge", "bridge": "br0"}]})
        lab.server.seed(NAD, {**NAD.object("theirs"), "spec": {"config": config}})
        lab.settings = replace(lab.settings, networks=NetworkSettings(nads={"linux-bridge": "theirs"}))
        with lab.testbed("linux-bridge") as testbed:
            lab.server.store.delete(NAD, "ns", "theirs")
            lab.run(testbed, lab.output())
        [result] = lab.results
        assert (_reason(result), result.error.exit_code) == ("nad-missing", ExitCode.UNFIT)
        assert not lab.server.asked("POST", VM.resource)
        lab.require_nothing_left()


def _booted(lab: Lab) -> vms.Machine:
    """Boot a pair and return the static VM."""
    testbed = lab.enter(lab.testbed("linux-bridge"))
    evidence = lab.folder / "evidence"
    pair = lab.enter(testbed.network("linux-bridge", evidence), testbed.pair(Scenario.parse(SCENARIO), evidence))
    return testbed._machines[pair.static.name]


def _console(lab: Lab, result: Result) -> bytes:
    [found] = lab.folder.rglob(f"{lab.vm('static')}.console.log")
    return found.read_bytes()


def _stop(lab: Lab) -> None:
    for guest in list(lab.kubevirt.guests.values()):
        for pid in guest.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
