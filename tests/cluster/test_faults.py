"""What goes wrong on a real cluster, and what the product's own command says of it.

Each fault ends in the right verdict or error, never in a pass, and nothing of the run is left. The account has the
rights of tasks/rbac and no others.
"""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websocket import WebSocketException

from stuntime.result import Result
from tests.cluster.lab import STUNTIME, Lab, bridged, ended, is_taken, laboratory, run_of
from tests.cluster.layout import NODES, SPARE_NICS
from tests.cluster.pipeline import LOST
from tests.cluster.running import Running
from tests.cluster.vms import migration, typed
from tests.sandbox.harness import Command, Finished, junit_kinds, results, wait_for

_BRIDGE = "br-faults"
_NIC = SPARE_NICS[1]
_NODE_NAMES = [node.name for node in NODES]
_PLAIN = "linux-bridge.from-static-node.static.ipv4"
_SLOW = "2Mi"
_SOON_S, _EVENT_S, _JOB_S = 60.0, 240.0, 600.0
_TOGETHER = 4
_MOST_LOST = 3
_ENDED_WITHIN_S = 25.0
_SHORT_LEASE_S = 12
_AWAY_S = 30.0
_NOT_READY_S = 90.0
_PASSED, _FAILED, _ERROR = "passed", "failure", "error"

# The product with Leases that are over sooner, for a holder that is going to be killed.
_HURRIED_PROGRAM = f"""
import sys
from stuntime import cli
from stuntime.kubevirt.window import Window
Window.__init__.__kwdefaults__["duration_s"] = {_SHORT_LEASE_S}
sys.exit(cli.main())
"""
_HURRIED = (STUNTIME[0], "-c", _HURRIED_PROGRAM)


@pytest.fixture(scope="module")
def bridge(cluster: Running) -> Iterator[str]:
    """Hold a bridge over the second spare NIC of every node."""
    with bridged(cluster, _BRIDGE, _NIC) as name:
        yield name


@pytest.fixture(scope="module")
def lab(cluster: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hold a laboratory for the tests that come one after the other, and leave nothing in it."""
    with laboratory(cluster, "faults", tmp_path_factory.mktemp("faults")) as held:
        yield held


# Runs that were killed. They come first, while no bridge of ours has the NIC.


def test_killed_run(cluster: Running, lab: Lab, tmp_path: Path) -> None:
    """What a run held that was killed is free after its lease's duration; `cleanup` removes what it left, no more."""
    wait_for(lambda: not any(is_taken(cluster, _NIC)), f"a spare {_NIC}", timeout_s=_EVENT_S)
    options = ["--nic", _NIC, "--nic-wait", "60"]
    killed = lab.start_measuring("run", _PLAIN, "--output", str(tmp_path / "killed"), *options, program=_HURRIED)
    _told(killed, "measure.warming-up")
    refused = lab.measure("run", _PLAIN, "--nic", _NIC, "--output", str(tmp_path / "refused"))
    assert refused.code == 3, refused.stderr
    assert "is taken by run" in refused.stderr
    second = lab.start_measuring("run", _PLAIN, "--output", str(tmp_path / "second"), *options)
    _told(second, "nic.waiting")
    killed.signal(signal.SIGKILL)
    ended(killed)
    theirs = {"app.kubernetes.io/name": "stuntime", "stuntime.io/run": "another"}
    for name, labels in (("of-nobody", {}), ("of-another-run", theirs)):
        lab.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}})
    finished = ended(second)
    result, verdict = _only(tmp_path / "second")
    assert "window.freed" in finished.stderr
    assert result.error is None
    assert (finished.code, verdict) == ((0, _PASSED) if result.valid else (4, _ERROR)), finished.stderr
    run = run_of(killed)
    assert run is not None
    cleaned = lab.run("cleanup", "--run", run, "--yes")
    assert cleaned.code == 0, cleaned.stderr
    lab.kept.update({"configmap/of-nobody", "configmap/of-another-run"})
    lab.until_nothing_is_left()
    assert {one["metadata"]["name"] for one in lab.items("configmaps")} >= {"of-nobody", "of-another-run"}
    assert not any(is_taken(cluster, _NIC))


def test_network_that_a_dead_command_left(cluster: Running, lab: Lab) -> None:
    """`cleanup` gives the nodes back the NIC of a network that nobody took down, and its Lease."""
    wait_for(lambda: not any(is_taken(cluster, _NIC)), f"a spare {_NIC}", timeout_s=_EVENT_S)
    made = lab.run("network", "up", "linux-bridge", "--nic", _NIC, "--run", "forgotten")
    assert made.code == 0, made.stderr
    assert all(is_taken(cluster, _NIC))
    cleaned = lab.run("cleanup", "--run", "forgotten", "--yes")
    assert cleaned.code == 0, cleaned.stderr
    assert not any(is_taken(cluster, _NIC))
    lab.until_nothing_is_left()
    assert "stuntime.io/run=forgotten" not in cluster.kubectl("get", "nncp", "--show-labels")


def test_policy_that_is_degraded(cluster: Running, lab: Lab, tmp_path: Path) -> None:
    """A node that cannot be configured ends the run with its words; all others have their NIC back."""
    wait_for(lambda: not any(is_taken(cluster, _NIC)), f"a spare {_NIC}", timeout_s=_EVENT_S)
    node, in_the_way = _NODE_NAMES[1], f"st-{_NIC}"
    cluster.on(node, "ip", "link", "add", in_the_way, "type", "veth", "peer", "name", "in-the-way")
    try:
        output = tmp_path / "output"
        finished = lab.measure("run", _PLAIN, "--nic", _NIC, "--output", str(output))
        result, verdict = _only(output)
        assert (finished.code, verdict) == (3, _ERROR), finished.stderr
        assert result.error is not None
        assert result.error.reason == "network-degraded", result.error
        assert f"{node} could not be configured" in result.error.message
        assert in_the_way in result.error.message
        assert "network.left" in finished.stderr
        assert not any(is_taken(cluster, _NIC))
    finally:
        cluster.on(node, "ip", "link", "delete", in_the_way)
    cleaned = lab.run("cleanup", "--run", result.run, "--yes")
    assert cleaned.code == 0, cleaned.stderr
    lab.until_nothing_is_left()


# Runs that somebody disturbs, or ends: a few at once, each in a laboratory of its own.


@dataclass(frozen=True)
class _Victim:
    """A run that goes on, as those see it who do it harm."""

    lab: Lab
    command: Command

    def until(self, event: str) -> None:
        """Wait until it has told an event."""
        _told(self.command, event)

    def target(self) -> str:
        """Return the node that its migration goes to."""
        (node,) = re.findall(r"measure\.migrating .*target=(\S+)", self.command.stderr)
        return str(node)

    def migration(self) -> dict[str, Any]:
        """Wait until its migration runs; return it."""
        self.until("phase=Running")
        (found,) = self.lab.items("vmim")
        return found

    def vm(self, role: str) -> str:
        """Return the name of one of its VMs."""
        (name,) = [name for one in self.lab.items("vmi") if (name := str(one["metadata"]["name"])).endswith(role)]
        return name

    def homes(self) -> tuple[str, str]:
        """Wait for the warm-up; return the migrated VM's name and its node."""
        self.until("measure.warming-up")
        vm = self.vm("migrated")
        return vm, self.lab.kubectl("get", "vmi", vm, "-o", "jsonpath={.status.nodeName}")


def _abort(victim: _Victim) -> None:
    found = victim.migration()
    victim.lab.kubectl("delete", "vmim", found["metadata"]["name"], "--wait=false")


def _kill_target(victim: _Victim) -> None:
    vm, _ = victim.homes()
    victim.until("phase=Running")
    _kill(victim.lab, vm, victim.target())


def _delete_target(victim: _Victim) -> None:
    found = victim.migration()
    pods = victim.lab.items("pods", "-l", f"kubevirt.io/migrationJobUID={found['metadata']['uid']}")
    victim.lab.kubectl("delete", "pod", pods[0]["metadata"]["name"], "--force", "--grace-period=0", "--wait=false")


def _migrate_before(victim: _Victim) -> None:
    victim.until("vms.booted")
    endless = migration(victim.vm("migrated"), "nowhere")
    victim.lab.kubectl("create", "-f", "-", stdin=json.dumps(endless))


def _crash_before(victim: _Victim) -> None:
    vm, source = victim.homes()
    _kill(victim.lab, vm, source)


def _crash_during(victim: _Victim) -> None:
    vm, source = victim.homes()
    victim.until("phase=Running")
    _kill(victim.lab, vm, source)


def _crash_after(victim: _Victim) -> None:
    vm, _ = victim.homes()
    victim.until("measure.recovering")
    _kill(victim.lab, vm, victim.target())


def _steal_console(victim: _Victim) -> None:
    for event in ("measure.warming-up", "measure.recovering"):
        victim.until(event)
        for role in ("static", "migrated"):
            with suppress(WebSocketException):  # it is taken back
                typed(victim.lab.cluster, victim.lab.namespace, victim.vm(role), "echo $((40 + 2))", r"\b42\b", 30)


def _terminate(event: str) -> Callable[[_Victim], float]:
    """Return what sends a run a SIGTERM when it has told an event, and returns when that was."""

    def fault(victim: _Victim) -> float:
        if event:
            victim.until(event)
        else:
            wait_for(lambda: len(victim.lab.items("pods")) > 1, "the launchers", timeout_s=_EVENT_S)
        victim.command.signal(signal.SIGTERM)
        return time.monotonic()

    return fault


# What a run tells when it has come to a phase.
_PHASES = {
    "booting": "",
    "warming-up": "measure.warming-up",
    "migrating": "phase=Running",
    "recovering": "measure.recovering",
    "collecting": "measure.collecting",
}
_MIGRATED = "linux-bridge.from-static-node.migrated.ipv4"
# By the name of the test that judges it: the scenario, and what is done to its run.
_JOBS: dict[str, tuple[str, Callable[[_Victim], float | None]]] = {
    "test_migration_that_somebody_aborts": (_PLAIN, _abort),
    "test_target_that_dies": (_MIGRATED, _kill_target),
    "test_target_that_is_deleted": ("linux-bridge.between-other-nodes.static.ipv4", _delete_target),
    "test_migration_of_somebody_else": (_PLAIN, _migrate_before),
    "test_vm_that_crashes_before": ("linux-bridge.to-static-node.static.ipv4", _crash_before),
    "test_vm_that_crashes_during": ("linux-bridge.to-static-node.migrated.ipv4", _crash_during),
    "test_vm_that_crashes_after": ("linux-bridge.from-static-node.static.ipv6", _crash_after),
    "test_console_that_somebody_takes": ("linux-bridge.from-static-node.migrated.ipv6", _steal_console),
    **{f"test_terminated[{phase}]": (_PLAIN, _terminate(event)) for phase, event in _PHASES.items()},
}


@dataclass(frozen=True)
class _Outcome:
    """What became of a run. `took_s` is from its signal to its end; `staying` was there then and not on its way out."""

    finished: Finished
    result: Result
    verdict: str
    took_s: float
    staying: list[str]
    left: str


@pytest.fixture(scope="module")
def jobs(
    cluster: Running, bridge: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[_Outcome]]]:
    """Do what has to be done for the tests that are to run, a few at once."""
    folder = tmp_path_factory.mktemp("jobs")
    wanted = [item.name for item in request.session.items if item.name in _JOBS]
    with ThreadPoolExecutor(_TOGETHER) as pool:
        going = {name: pool.submit(_outcome, cluster, name, bridge, folder) for name in wanted}
        yield going
        for job in going.values():
            job.cancel()


@pytest.fixture
def outcome(jobs: dict[str, Future[_Outcome]], request: pytest.FixtureRequest) -> _Outcome:
    """Return what became of the run that this test is about; nothing of it is left."""
    found = jobs[request.node.name].result(_JOB_S)
    assert not found.left, found.left
    return found


def _outcome(cluster: Running, name: str, bridge: str, folder: Path) -> _Outcome:
    """Return what became of a run that went wrong as it had to; KubeVirt loses a migration now and then by itself."""
    for attempt in range(_MOST_LOST):
        try:
            found = _disturbed(cluster, name, bridge, folder / str(attempt))
        except AssertionError as error:  # it ended before what was waited for
            if LOST not in str(error):
                raise
            continue
        if found.result.error is None or found.result.error.reason != LOST:
            return found
    return _disturbed(cluster, name, bridge, folder / "last")


def _disturbed(cluster: Running, name: str, bridge: str, folder: Path) -> _Outcome:
    """Measure in a laboratory of its own, do what has to go wrong, and look at what is left."""
    scenario, fault = _JOBS[name]
    short = re.sub(r"[^a-z]+", "-", name.removeprefix("test_")).strip("-")
    output = folder / short / "output"
    options = ["--recovery-timeout", "20", "--recovery-probes", "30", "--output", str(output)]
    with laboratory(cluster, f"faults-{short}", folder / short / "lab") as lab, _slow(lab):
        command = lab.start_measuring("run", scenario, *options, *lab.use_bridge("lan", bridge))
        signalled = fault(_Victim(lab, command))
        finished = ended(command)
        took_s = time.monotonic() - (signalled or time.monotonic())
        staying = [one["metadata"]["name"] for one in lab.items("vm,vmi,vmim") if not _is_going(one)]
        left = ""
        try:
            lab.until_nothing_is_left()
        except AssertionError as error:
            left = str(error)
        return _Outcome(finished, *_only(output), took_s, staying, left)


def test_migration_that_somebody_aborts(outcome: _Outcome) -> None:
    """A migration whose VirtualMachineInstanceMigration is deleted by somebody else is an error, and says so."""
    _assert_error(outcome, "migration-aborted")


def test_target_that_dies(outcome: _Outcome) -> None:
    """A migration whose target's QEMU dies is an error, though the VM runs on at its source."""
    _assert_error(outcome, "migration-failed")


def test_target_that_is_deleted(outcome: _Outcome) -> None:
    """A migration that failed by its own word is an error, whether the VM moved all the same, stayed or ended.

    What was measured is kept as evidence.
    """
    _assert_error(outcome, "migration-contradictory", "migration-failed", "vm-crashed")
    assert outcome.result.measurement is not None


def test_migration_of_somebody_else(outcome: _Outcome) -> None:
    """A VM that somebody else migrates meanwhile cannot be measured: an error that says so."""
    _assert_error(outcome, "migration-refused")
    assert "in-flight" in outcome.result.error.message


def test_vm_that_crashes_before(outcome: _Outcome) -> None:
    """A VM that ends before its migration is an error."""
    _assert_error(outcome, "vm-crashed", "warm-up-failed")


def test_vm_that_crashes_during(outcome: _Outcome) -> None:
    """A VM that ends while it is migrated is an error that says so."""
    _assert_error(outcome, "vm-crashed")


def test_vm_that_crashes_after(outcome: _Outcome) -> None:
    """A VM that ends after its migration, before it has recovered for good, never did: no number, and never a pass."""
    assert outcome.result.error is None
    assert outcome.result.measurement is not None
    assert not outcome.result.measurement.recovered
    assert outcome.result.measurement.stuntime_s is None
    expected = (1, _FAILED) if outcome.result.valid else (4, _ERROR)
    assert (outcome.finished.code, outcome.verdict) == expected


def test_console_that_somebody_takes(outcome: _Outcome) -> None:
    """A console that somebody else takes for a moment is taken back: the measurement goes on to its end.

    On a machine as busy as this one it may be noise that makes it invalid.
    """
    assert outcome.result.error is None
    assert outcome.result.measurement is not None
    assert outcome.result.measurement.recovered
    expected = (0, _PASSED) if outcome.result.valid else (4, _ERROR)
    assert (outcome.finished.code, outcome.verdict) == expected


@pytest.mark.parametrize("phase", _PHASES)
def test_terminated(outcome: _Outcome, phase: str) -> None:
    """SIGTERM ends a run in any phase: code 130, within 25 s, with a result, every deletion asked for without grace."""
    assert outcome.finished.code == 130, outcome.finished.stderr
    assert "Traceback" not in outcome.finished.stderr
    assert outcome.took_s < _ENDED_WITHIN_S
    assert outcome.staying == []
    assert outcome.result.error is not None
    assert outcome.result.error.reason == "interrupted"
    assert outcome.verdict == _ERROR


# Nodes and the API server.


def test_target_node_that_takes_no_pods(cluster: Running, bridge: str, tmp_path: Path) -> None:
    """A cordoned target makes an error that names it; a target whose kubelet is away for a while makes none.

    Both at once: they take their time, and use different nodes.
    """
    source, away, cordoned = _NODE_NAMES
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        labs = {
            node: stack.enter_context(laboratory(cluster, f"faults-{node}", tmp_path / node))
            for node in (away, cordoned)
        }
        runs = {
            node: labs[node].start_measuring(
                *("run", _PLAIN, "--nodes", f"{source},{node}", "--output", str(tmp_path / f"output-{node}")),
                *labs[node].use_bridge("lan", bridge),
            )
            for node in labs
        }
        stack.callback(cluster.kubectl, "uncordon", cordoned)
        kubelet = _kubelet(cluster, away)
        stack.callback(os.kill, kubelet, signal.SIGCONT)

        def cordon() -> None:
            _told(runs[cordoned], "measure.warming-up")
            cluster.kubectl("cordon", cordoned)

        def stop_kubelet() -> None:
            _told(runs[away], "measure.migrating")
            os.kill(kubelet, signal.SIGSTOP)
            wait_for(lambda: not _is_ready(cluster, away), f"NotReady of {away}", timeout_s=_NOT_READY_S)
            os.kill(kubelet, signal.SIGCONT)

        for done in [pool.submit(cordon), pool.submit(stop_kubelet)]:
            done.result()
        finished = {node: ended(runs[node]) for node in labs}
        result, verdict = _only(tmp_path / f"output-{cordoned}")
        assert (finished[cordoned].code, verdict) == (5, _ERROR), finished[cordoned].stderr
        assert result.error is not None
        assert result.error.reason == "migration-unschedulable", result.error
        assert "unschedulable" in result.error.message
        result, verdict = _only(tmp_path / f"output-{away}")
        assert (finished[away].code, verdict) in {(0, _PASSED), (5, _ERROR), (4, _ERROR)}, finished[away].stderr
        assert result.valid or result.error is not None
        for lab in labs.values():
            lab.until_nothing_is_left()


def test_api_server_that_is_away(cluster: Running, lab: Lab, bridge: str, tmp_path: Path) -> None:
    """An API server that is away for 30 s while a VM is migrated makes a valid number or an error that is told."""
    output = tmp_path / "output"
    with _slow(lab):
        command = lab.start_measuring("run", _PLAIN, "--output", str(output), *lab.use_bridge("lan", bridge))
        _told(command, "phase=Running")
        server = _api_server(cluster)
        os.kill(server, signal.SIGSTOP)
        try:
            time.sleep(_AWAY_S)
        finally:
            os.kill(server, signal.SIGCONT)
        finished = ended(command)
    result, verdict = _only(output)
    if finished.code:
        assert finished.code in {4, 5}, finished.stderr
        assert verdict == _ERROR
        assert result.error is not None
    else:
        assert (result.valid, verdict) == (True, _PASSED)
    lab.until_nothing_is_left()


# What the preflight sees, and networks that do not come.


def test_nad_that_is_missing(lab: Lab, tmp_path: Path) -> None:
    """A NAD that does not exist makes the cluster unfit: exit code 3, and its name is told."""
    finished = lab.measure("run", _PLAIN, "--nad", "linux-bridge=nowhere", "--output", str(tmp_path / "output"))
    assert finished.code == 3, finished.stderr
    assert "there is no NAD nowhere" in finished.stderr
    assert lab.left() == []


def test_nic_that_is_missing(lab: Lab, tmp_path: Path) -> None:
    """A NIC that the nodes do not have makes the cluster unfit: exit code 3, and who lacks it is told."""
    finished = lab.measure("run", _PLAIN, "--nic", "nic9", "--output", str(tmp_path / "output"))
    assert finished.code == 3, finished.stderr
    assert f"nic9, which {', '.join(_NODE_NAMES)} has not" in finished.stderr
    assert lab.left() == []


def test_nic_that_is_in_use(lab: Lab, bridge: str, tmp_path: Path) -> None:
    """A NIC that another bridge has is not taken from it: exit code 3, and whose it is is told."""
    finished = lab.measure("run", _PLAIN, "--nic", _NIC, "--output", str(tmp_path / "output"))
    assert finished.code == 3, finished.stderr
    assert f"{_NIC} is in use: on {_NODE_NAMES[0]} it is a port of {bridge}" in finished.stderr
    assert lab.left() == []
    assert all(is_taken(lab.cluster, _NIC))


def test_account_without_a_right(lab: Lab, bridge: str, tmp_path: Path) -> None:
    """An account that lacks a right is told which one by the preflight, and by a run before it makes anything."""
    role = json.loads(lab.kubectl("get", "role", "stuntime", "-o", "json"))
    del role["metadata"]["resourceVersion"]
    rules = [rule for rule in role["rules"] if "virtualmachineinstances/console" not in rule["resources"]]
    nad = lab.use_bridge("lan", bridge)
    lab.apply({**role, "rules": rules})
    try:
        asked = lab.run("preflight", "--json", "--network", "linux-bridge", "--testbed", "kubevirt", *nad)
        finished = lab.measure("run", _PLAIN, "--output", str(tmp_path / "output"), *nad)
    finally:
        lab.apply(role)
    lacking = {check["name"]: check["found"] for check in json.loads(asked.stdout)["checks"] if not check["fit"]}
    assert asked.code == 3, asked.stderr
    assert "get virtualmachineinstances/console.subresources.kubevirt.io in faults" in lacking["permissions"]
    assert finished.code == 3, finished.stderr
    assert "virtualmachineinstances/console" in finished.stderr
    lab.until_nothing_is_left()


# Helpers.


@contextmanager
def _slow(lab: Lab) -> Iterator[None]:
    """Let migrations in the laboratory take their time."""
    policy = {
        "apiVersion": "migrations.kubevirt.io/v1alpha1",
        "kind": "MigrationPolicy",
        "metadata": {"name": lab.namespace},
        "spec": {
            "bandwidthPerMigration": _SLOW,
            "selectors": {"namespaceSelector": {"kubernetes.io/metadata.name": lab.namespace}},
        },
    }
    lab.apply(policy)
    try:
        yield
    finally:
        lab.kubectl("delete", "migrationpolicy", lab.namespace)


def _told(command: Command, event: str) -> None:
    """Wait until a command has told an event."""
    deadline = time.monotonic() + _EVENT_S
    while event not in command.stderr:
        assert command.running(), f"ended before {event}: {command.stderr}"
        assert time.monotonic() < deadline, f"{event} did not come: {command.stderr}"
        time.sleep(0.05)


def _processes(*words: str) -> Iterator[tuple[int, str]]:
    """Yield the pids of this machine whose command line has all the words, each with its control groups."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            said = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if all(word in said for word in words):
                yield int(process.name), (process / "cgroup").read_text()


def _qemus(lab: Lab, vm: str, node: str) -> list[int]:
    """Return the pid of a VM's QEMU on a node, if there is one: while it is migrated there are two, on two nodes."""
    running = _processes("qemu-system", f"guest={lab.namespace}_{vm},")
    return [pid for pid, groups in running if f"/{node}/" in groups and _is_qemu(pid)]


def _kill(lab: Lab, vm: str, node: str) -> None:
    """Kill a VM's QEMU on a node, as soon as there is one: a migration runs a little earlier than its target's QEMU."""
    wait_for(lambda: bool(_qemus(lab, vm, node)), f"QEMU of {vm} on {node}", timeout_s=_SOON_S)
    for pid in _qemus(lab, vm, node):
        os.kill(pid, signal.SIGKILL)


def _is_qemu(pid: int) -> bool:
    """Tell QEMU from what starts it and has its command line, too."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("qemu-system")
    except OSError:
        return False


def _kubelet(cluster: Running, node: str) -> int:
    return next(pid for pid, _ in _processes(f"{cluster.layout.home}/bin/kubelet", f"--hostname-override={node}"))


def _api_server(cluster: Running) -> int:
    return next(pid for pid, _ in _processes(f"{cluster.layout.home}/bin/kube-apiserver "))


def _is_ready(cluster: Running, node: str) -> bool:
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    return cluster.kubectl("get", "node", node, "-o", f"jsonpath={path}") == "True"


def _is_going(one: dict[str, Any]) -> bool:
    """Tell whether an object's deletion has been asked for, without grace."""
    metadata = one["metadata"]
    return "deletionTimestamp" in metadata and metadata.get("deletionGracePeriodSeconds", 0) == 0


def _only(output: Path) -> tuple[Result, str]:
    """Return the one result of an output directory, and its verdict."""
    (result,) = results(output).values()
    return result, junit_kinds(output)[result.scenario]


def _assert_error(outcome: _Outcome, *reasons: str) -> None:
    """Check that a run ended as its error says, which is one of these."""
    assert outcome.verdict == _ERROR
    assert outcome.result.error is not None
    assert outcome.result.error.reason in reasons, outcome.result.error
    assert outcome.finished.code == outcome.result.error.exit_code, outcome.finished.stderr
