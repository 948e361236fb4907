"""A run that is told to end, in each phase: within seconds all deletions are asked for, and a result is written."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from stuntime import suite
from stuntime.errors import ExitCode, TestbedError
from stuntime.kubevirt import cleanup, testbed
from stuntime.kubevirt.api import Api
from stuntime.kubevirt.kinds import CONFIG_MAP, LEASE, NAD, NAMESPACE_LABEL, NNCP, POD, RUN_LABEL, SECRET, VM, VMI, VMIM
from stuntime.kubevirt.plans import NETWORK_LABEL
from stuntime.kubevirt.settings import Guest, Owner
from stuntime.kubevirt.window import Window
from tests.unit.kubeapi.kubevirt import Times
from tests.unit.kubeapi.store import Change
from tests.unit.kubevirt_lab import SCENARIO, Lab, hurry

SECOND = SCENARIO.replace("from-static-node", "to-static-node")
SOON_S = 8.0


@pytest.fixture(autouse=True)
def _interruptible(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    hurry(monkeypatch)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupt:
    """Sends SIGINT to this process, once, and knows when."""

    at = 0.0

    def __call__(self) -> None:
        if not self.at:
            self.at = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    def when(self, condition: Callable[[], bool]) -> None:
        """Send it from a thread when the condition holds."""

        def watch() -> None:
            deadline = time.monotonic() + 20
            while not condition() and time.monotonic() < deadline:
                time.sleep(0.01)
            self()

        threading.Thread(target=watch, daemon=True, name="serving the interrupt").start()


def test_an_interrupt_that_another_thread_gets(tmp_path: Path) -> None:
    """A signal that the kernel gives to a thread that measures ends the run as soon as any other."""
    with Lab(tmp_path, times=Times(boot_s=0.02, step_s=0.01, move_s=6.0, delete_s=0.01)) as lab:
        lab.at("measure.migrating", lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            lab.measured(SCENARIO, SECOND)
        assert {result.error and result.error.reason for result in lab.results} == {"interrupted"}
        lab.require_nothing_left()


def _interrupted(lab: Lab, interrupt: Interrupt, *scenarios: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        lab.measured(*scenarios)
    assert time.monotonic() - interrupt.at < SOON_S


def _require_asked(lab: Lab, *names: str) -> None:
    """Fail unless the deletion of each VM and its instance was asked for without grace."""
    for kind in (VM, VMI):
        asked = {one.path.rsplit("/", 1)[-1]: one.body for one in lab.server.asked("DELETE", kind.resource)}
        assert set(names) <= set(asked)
        assert {asked[name]["gracePeriodSeconds"] for name in names} == {0}


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ("vm.running", {}),
        ("measure.warming-up", {}),
        ("migration.phase", {"phase": "Running"}),
        ("measure.collecting", {}),
    ],
)
def test_an_interrupt_while_it_is_measured(tmp_path: Path, event: str, told: dict[str, str]) -> None:
    """Whatever goes on ends within seconds, as a result that says so; VMs, networks and Leases are gone."""
    with Lab(tmp_path, times=Times(boot_s=0.02, step_s=0.01, move_s=3.0, delete_s=0.01)) as lab:
        interrupt = Interrupt()
        lab.at(event, interrupt, **told)
        _interrupted(lab, interrupt)
        [result] = lab.results
        assert (result.error.reason, result.error.exit_code) == ("interrupted", ExitCode.INTERRUPTED)
        _require_asked(lab, lab.vm(), lab.vm("static"))
        lab.require_nothing_left()


def test_an_interrupt_while_threads_are_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt that comes before all scenarios have begun ends those that have."""

    class Pool(ThreadPoolExecutor):
        def submit(self, *arguments, **named):
            going = super().submit(*arguments, **named)
            deadline = time.monotonic() + 10
            while not lab.said("measure.warming-up") and time.monotonic() < deadline:
                time.sleep(0.01)
            raise KeyboardInterrupt(going)

    monkeypatch.setattr(suite, "ThreadPoolExecutor", Pool)
    with Lab(tmp_path) as lab:
        with pytest.raises(KeyboardInterrupt):
            lab.measured(SCENARIO, SECOND)
        assert [result.error and result.error.reason for result in lab.results] == ["interrupted"]
        lab.require_nothing_left()


def test_an_interrupt_while_a_removal_waits(tmp_path: Path) -> None:
    """VMs whose removal waits for another measurement are asked to go, too, when the run has to end."""
    with Lab(tmp_path) as lab:
        lab.kubevirt.next_migration(lab.vm(number=8), "hangs")

        def first_measures() -> None:
            deadline = time.monotonic() + 10
            while not lab.said("measure.warming-up") and time.monotonic() < deadline:
                time.sleep(0.01)

        def removal_waits() -> bool:
            return any(one["who"].endswith(f"provisioning {SCENARIO}") for one in lab.said("window.waiting")) and bool(
                lab.results
            )

        lab.at("vms.booted", first_measures, scenario=SECOND)
        interrupt = Interrupt()
        interrupt.when(removal_waits)
        _interrupted(lab, interrupt, SCENARIO, SECOND)
        assert removal_waits()
        _require_asked(lab, *(lab.vm(role, number) for role in ("static", "migrated") for number in (0, 8)))
        told = {result.scenario: result.error and result.error.reason for result in lab.results}
        assert told == {SCENARIO: None, SECOND: "interrupted"}
        lab.require_nothing_left()


@pytest.mark.parametrize("state", ["up", "absent"])
def test_an_interrupt_while_a_network_is_made_or_taken_away(tmp_path: Path, state: str) -> None:
    """A network that is half made, or half gone, is taken away all the same, without waiting for anybody."""
    with Lab(tmp_path) as lab:
        lab.nmstate._step_s = 0.1
        interrupt = Interrupt()

        def enacted(change: Change) -> None:
            if change.kind == NNCP and change.after["spec"]["desiredState"]["interfaces"][0]["state"] == state:
                threading.Thread(target=interrupt, name="serving the interrupt").start()

        lab.server.store.listeners.append(enacted)
        _interrupted(lab, interrupt)
        assert [bool(result.error) for result in lab.results] == ([] if state == "up" else [False])
        lab.require_nothing_left()


def test_an_interrupt_while_the_api_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no API server to ask, the run ends within seconds; what it left is found and removed by `cleanup`."""
    monkeypatch.setattr(testbed, "_LAST_PATIENCE_S", 0.3)
    with Lab(tmp_path) as lab:
        interrupt, gone = Interrupt(), lab.server.away()

        def both() -> None:
            gone.__enter__()
            interrupt()

        lab.at("measure.warming-up", both)
        with pytest.raises(KeyboardInterrupt):
            lab.measured(SCENARIO, SECOND)
        assert time.monotonic() - interrupt.at < SOON_S
        assert [result.error.reason for result in lab.results] == ["interrupted", "interrupted"]
        gone.__exit__(None, None, None)
        assert {one.split()[0] for one in lab.left()} >= {"VirtualMachine", "ConfigMap", NNCP.name}
        _clean(lab)
        lab.require_nothing_left(but="Lease stuntime-window")


def test_what_a_refused_deletion_left_is_cleaned_up(tmp_path: Path) -> None:
    """Deletions that are refused stop none of the others, are said, and are made up for by `cleanup`."""
    with Lab(tmp_path) as lab:
        interrupt = Interrupt()

        def refuse() -> None:
            for kind in (VM, CONFIG_MAP, LEASE):
                lab.server.forbid("delete", kind.resource)
            interrupt()

        lab.at("measure.warming-up", refuse)
        _interrupted(lab, interrupt, SCENARIO, SECOND)
        assert len(lab.said("vm.left")) >= 2
        assert lab.said("run.left")
        kept = {lab.vm(role, number) for role in ("static", "migrated") for number in (0, 8)}
        assert {one.split()[1] for one in lab.left() if one.startswith("VirtualMachine ")} == kept
        lab.server.forbidden.clear()
        _clean(lab)
        lab.require_nothing_left()


# Cleaning up.


def test_cleanup_touches_nothing_else(tmp_path: Path) -> None:
    """Only objects with our labels, of this namespace, of the run that is named and of the age are removed."""
    with Lab(tmp_path) as lab:
        theirs = CONFIG_MAP.object("theirs")
        theirs["metadata"]["labels"] = {RUN_LABEL: "a-run"}
        lab.server.seed(CONFIG_MAP, theirs)
        lab.server.seed(CONFIG_MAP, CONFIG_MAP.object("of-no-run"))
        for run in ("a-run", "another"):
            for kind in (VM, POD, CONFIG_MAP, NAD):
                of_a_network = {NETWORK_LABEL: "linux-bridge"} if kind == NAD else {}
                one = kind.object(f"stuntime-{run}", labels={RUN_LABEL: run, **of_a_network})
                lab.server.seed(
                    kind, {**one, **({"spec": {"runStrategy": "Halted", "template": {}}} if kind == VM else {})}
                )
        lab.server.seed(
            LEASE, LEASE.object("stuntime-nic-eno2", labels={RUN_LABEL: "a-run", NAMESPACE_LABEL: "ns"}), "stuntime"
        )
        lab.server.seed(LEASE, LEASE.object("stuntime-window"), "stuntime")
        assert not _found(lab, older_than_s=3600)
        assert len(_found(lab, older_than_s=3600, now=time.time() + 7200)) == 9
        assert {one.run for one in _found(lab, run="a-run")} == {"a-run"}
        cleanup.remove(lab.api, _found(lab, run="a-run"), _window(lab.api))
        left = set(lab.left())
        assert {"ConfigMap of-no-run", "ConfigMap stuntime-another", "VirtualMachine stuntime-another"} <= left
        assert lab.api.get(CONFIG_MAP, "theirs") is not None
        assert not {"ConfigMap stuntime-a-run", "VirtualMachine stuntime-a-run", "Lease stuntime-nic-eno2"} & left


def test_cleanup_takes_the_password_of_a_step_that_was_killed(tmp_path: Path) -> None:
    """Also where a PipelineRun, which stays for its results, owns what a run makes: nothing of the guests is left."""
    with Lab(tmp_path) as lab:
        owner = Owner("PipelineRun", lab.settings.run_name, "uid")
        lab.settings = replace(lab.settings, guest=Guest(image="guest"), owner=owner)
        lab.enter(lab.testbed())
        [anchor] = lab.api.find(CONFIG_MAP)
        assert anchor["metadata"]["ownerReferences"] == [owner.reference]
        assert lab.api.find(SECRET)
        cleanup.remove(lab.api, _found(lab, run=lab.settings.run_name), _window(lab.api))
        lab.require_left()


def test_cleanup_says_what_it_could_not_do(tmp_path: Path) -> None:
    """A kind that may not be listed is said; what may not be removed is an error, after all the rest is gone."""
    with Lab(tmp_path) as lab:
        for kind in (POD, CONFIG_MAP):
            lab.server.seed(kind, kind.object("stuntime-a-run", labels={RUN_LABEL: "a-run"}))
        lab.server.forbid("list", VMIM.resource)
        lab.server.forbid("delete", POD.resource)
        found, unseen = cleanup.leftovers(
            lab.api, run=None, older_than_s=0, now=time.time(), window_namespace="stuntime"
        )
        assert [(one.kind, one.matters) for one in unseen] == [(VMIM, True)]
        assert VMIM.resource in str(unseen[0])
        with pytest.raises(TestbedError, match="not all could be removed") as failed:
            cleanup.remove(lab.api, found, _window(lab.api))
        assert "pods" in str(failed.value)
        lab.require_left("Pod stuntime-a-run")


def _found(lab: Lab, **asked) -> list[cleanup.Leftover]:
    told = {"run": None, "older_than_s": 0.0, "now": time.time(), "window_namespace": "stuntime", **asked}
    found, unseen = cleanup.leftovers(lab.api, **told)
    assert not unseen
    return found


def _clean(lab: Lab) -> None:
    """Clean up as a later process does."""
    api = lab.server.api("ns")
    found, unseen = cleanup.leftovers(api, run=None, older_than_s=0, now=time.time(), window_namespace="stuntime")
    assert not unseen
    cleanup.remove(api, found, _window(api))
    api.stop()


def _window(api: Api) -> Window:
    return Window(api, namespace="stuntime", run="cleanup")
