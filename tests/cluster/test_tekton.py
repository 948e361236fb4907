"""The pipeline on a real Tekton: started by tkn, run by the ServiceAccount that is shipped, judged by its exit code.

Each PipelineRun takes a minute, most of it for the two VMs to boot and to be migrated.
"""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stuntime.documents import load, usable
from stuntime.scenario import Scenario, scenarios
from tests.cluster import tekton
from tests.cluster.lab import ACCOUNT, STUNTIME, ended
from tests.cluster.pipeline import LOST, ONE_SCENARIO, RUN_S, SCENARIO, Pipeline, installed
from tests.cluster.running import Running
from tests.image.inside import RANDOM_UID
from tests.sandbox.harness import Command, Finished, wait_for

_SECCOMP = {"seccompProfile": {"type": "RuntimeDefault"}}
_RANDOM = {"runAsUser": RANDOM_UID, "runAsGroup": 0, **_SECCOMP}
_RESTRICTED = {"runAsNonRoot": True, **_SECCOMP}
_BOOTED_S = 180.0
_REPORTED_S = 120.0
_MOST_LOST = 6  # of twelve
_TRIES = 5
#: What a report says of a scenario that KubeVirt lost or noise spoilt.
_SPOILT = re.compile(rf"error (\S+): (?:{LOST}|invalid: )")


@pytest.fixture(scope="module")
def pipeline(cluster: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Hold the pipeline where VMs are admitted."""
    with installed(cluster, "tekton-runs", tmp_path_factory.mktemp("tekton"), enforce="baseline") as held:
        yield held


@pytest.mark.parametrize("pod", [None, _RANDOM], ids=["own-user", "random-user"])
def test_a_scenario_passes(pipeline: Pipeline, tmp_path: Path, pod: dict[str, object] | None) -> None:
    """A scenario runs to a pass that tkn's exit code tells, as the image's user and as any, and leaves only results."""
    run, told = pipeline.run(params=ONE_SCENARIO, pod=pod)
    assert told.code == 0, told.stdout
    assert pipeline.reason(run) in ("Succeeded", "Completed")
    pods = pipeline.pods(run)
    assert {one["spec"]["serviceAccountName"] for one in pods} == {ACCOUNT}
    steps = [container for one in pods for container in one["spec"]["containers"]]
    assert all(step["securityContext"]["readOnlyRootFilesystem"] for step in steps)
    assert {one["spec"]["securityContext"].get("runAsUser") for one in pods} == {pod and RANDOM_UID}
    assert _asked(pipeline.verdicts(run, tmp_path / "fetched")) == {SCENARIO: "pass"}
    pipeline.until_nothing_is_left(run)


def test_all_scenarios_by_the_bare_command(pipeline: Pipeline, tmp_path: Path) -> None:
    """What a person or a job types measures all 12 scenarios, and all pass.

    But for those that KubeVirt loses or that noise makes invalid: they are errors, and pass when measured again.
    """
    told = pipeline.run_by_the_bare_command()
    (run,) = set(re.findall(r"PipelineRun started: (\S+)", told.stdout))
    lost = _require_measured(pipeline, run, told, tmp_path / "fetched", *scenarios())
    assert told.code == bool(lost)
    assert {one["spec"]["serviceAccountName"] for one in pipeline.pods(run)} == {tekton.ACCOUNT}
    assert {path.name for path in (tmp_path / "fetched").iterdir()} >= {"junit.xml", "report.html"}
    pipeline.until_nothing_is_left(run)


def test_the_sample_measures_both_ip_families(pipeline: Pipeline, tmp_path: Path) -> None:
    """The sample PipelineRun measures all 24 scenarios in the time that it has, and all pass, as above."""
    run, told = pipeline.run_sample("pipelinerun.yaml")
    _require_measured(pipeline, run, told, tmp_path / "fetched", *scenarios(), *scenarios(ip_families=("ipv6",)))
    assert {one["spec"]["serviceAccountName"] for one in pipeline.pods(run)} == {ACCOUNT}
    pipeline.until_nothing_is_left(run)


def test_tasks_are_usable_alone(pipeline: Pipeline) -> None:
    """Each task that is started by itself does its part of one run, as its README says."""
    run = "by-task"
    for name, params in (
        ("preflight", ONE_SCENARIO),
        ("network", {"action": "up", "network": "linux-bridge"}),
    ):
        done, told = pipeline.task(f"stuntime-{name}", run=run, **params)
        assert done, told.stdout
    for _ in range(_TRIES):
        done, told = pipeline.task("stuntime-scenario", run=run, network="linux-bridge", nad="stuntime-linux-bridge")
        if done or not _SPOILT.search(told.stdout):
            break
    assert done, told.stdout
    done, told = pipeline.task("stuntime-report", run=run)
    assert done, told.stdout
    assert "1 pass" in told.stdout
    for name, params in (("network", {"action": "down", "network": "linux-bridge"}), ("cleanup", {})):
        done, told = pipeline.task(f"stuntime-{name}", run=run, **params)
        assert done, told.stdout
    pipeline.until_nothing_is_left(run)


def test_repetitions_become_a_baseline(pipeline: Pipeline, tmp_path: Path) -> None:
    """With the timeouts of ten repetitions, an hour as a minute, all of a scenario are kept and become a baseline.

    But for those that noise made invalid, which are no part of it.
    """
    limits = ("--pipeline-timeout", "11m", "--tasks-timeout", "10m", "--finally-timeout", "1m")
    run, told = pipeline.run(*limits, params={**ONE_SCENARIO, "repeat": "10", "time-limit": "540"})
    fetched, file = tmp_path / "fetched", tmp_path / "baseline.json"
    pipeline.verdicts(run, fetched)
    found = [usable(document.result) for document in load([fetched]).documents]
    assert len(found) == 10, told.stdout
    create = (*STUNTIME, "baseline", "create", str(fetched), "--author", "A. Person", "--output", str(file))
    made = Command((*create, "--at-least", "7"), tmp_path, {}).finish()
    assert made.code == 0, made.stderr
    assert [one["n"] for one in json.loads(file.read_text())["scenarios"].values()] == [found.count(None)]
    pipeline.until_nothing_is_left(run)


def test_an_evicted_scenario_stops_no_other(pipeline: Pipeline, tmp_path: Path) -> None:
    """A scenario whose pod is evicted is an error and leaves no VMs; the other one of its wave is measured."""
    run, command = pipeline.start(params={**ONE_SCENARIO, "initiators": "static,migrated"})
    _until_a_vm_is_there(pipeline, command)
    pipeline.evict(run, initiator="static")
    told = ended(command, RUN_S)
    assert told.code != 0
    other = SCENARIO.replace("static.ipv4", "migrated.ipv4")
    assert _asked(pipeline.verdicts(run, tmp_path / "fetched")) == {SCENARIO: "error", other: "pass"}, told.stdout
    pipeline.until_nothing_is_left(run)


def test_a_restarted_controller_goes_on(pipeline: Pipeline, tmp_path: Path) -> None:
    """Tekton's controller may end in the middle of a measurement: the next one goes on, and the scenario passes."""
    run, command = pipeline.start(params=ONE_SCENARIO)
    _until_a_vm_is_there(pipeline, command)
    tekton.restart_controller(pipeline.lab.cluster)
    told = ended(command, RUN_S)
    assert told.code == 0, told.stdout
    assert _asked(pipeline.verdicts(run, tmp_path / "fetched")) == {SCENARIO: "pass"}
    pipeline.until_nothing_is_left(run)


def test_a_threshold_of_a_configmap_fails_the_run(pipeline: Pipeline) -> None:
    """Over the threshold of a ConfigMap the verdict is `fail` and tkn's exit code 1, and all is taken away as ever."""
    thresholds = "global: {threshold: 0.001}\n"
    pipeline.lab.kubectl("create", "configmap", "strict", f"--from-literal=thresholds.yaml={thresholds}")
    run, told = pipeline.run(params={**ONE_SCENARIO, "thresholds": "strict"})
    assert told.code == 1
    assert f"fail {SCENARIO}: over-threshold" in told.stdout
    assert pipeline.reason(run) == "Failed"
    tasks = pipeline.tasks(run)
    assert (tasks["linux-bridge"], tasks["linux-bridge-down"]) == ("FailureIgnored", "Succeeded")
    assert (tasks["report"], tasks["cleanup"]) == ("StepFailed", "Succeeded")
    pipeline.until_nothing_is_left(run)


def test_a_cancelled_run_is_reported_and_leaves_nothing(pipeline: Pipeline, tmp_path: Path) -> None:
    """A run that is cancelled with VMs up is still judged, its scenario an error, and its VMs and network are gone."""
    run, command = pipeline.start(params=ONE_SCENARIO)
    _until_a_vm_is_there(pipeline, command)
    pipeline.cancel(run)
    assert ended(command, RUN_S).code != 0
    wait_for(lambda: pipeline.tasks(run).get("report") == "StepFailed", "the report", timeout_s=_REPORTED_S)
    wait_for(lambda: pipeline.tasks(run).get("cleanup") == "Succeeded", "the cleanup", timeout_s=_REPORTED_S)
    assert _asked(pipeline.verdicts(run, tmp_path / "fetched")) == {SCENARIO: "error"}
    pipeline.until_nothing_is_left(run)


def test_a_run_out_of_time_is_reported_and_leaves_nothing(pipeline: Pipeline, tmp_path: Path) -> None:
    """Where Tekton ends the tasks for their time, `finally` has its own: the scenario is an error, nothing is left."""
    limits = ("--pipeline-timeout", "4m", "--tasks-timeout", "20s", "--finally-timeout", "3m40s")
    run, told = pipeline.run(*limits, params=ONE_SCENARIO)
    assert told.code != 0
    tasks = pipeline.tasks(run)
    assert (tasks["report"], tasks["cleanup"]) == ("StepFailed", "Succeeded"), tasks
    assert _asked(pipeline.verdicts(run, tmp_path / "fetched")) == {SCENARIO: "error"}
    pipeline.until_nothing_is_left(run)


def test_two_runs_at_once_do_not_disturb_each_other(pipeline: Pipeline) -> None:
    """Of two runs that are started together one waits for the other's NIC, and both pass."""
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(pipeline.run, params=ONE_SCENARIO) for _ in range(2)]
        ends = [one.result() for one in both]
    assert [told.code for _, told in ends] == [0, 0], "\n".join(told.stdout for _, told in ends)
    assert sum('"event": "nic.waiting"' in told.stdout for _, told in ends) == 1
    for run, _ in ends:
        pipeline.until_nothing_is_left(run)


def test_a_volume_gets_the_report(cluster: Running, tmp_path: Path) -> None:
    """Where the pipeline is patched to have a workspace, JUnit, page and evidence are in its volume, too."""
    name, path = "tekton-volume", f"/var/tmp/{tmp_path.name}"
    try:
        with installed(cluster, name, tmp_path / "volume", enforce="baseline") as pipeline:
            pipeline.give_volume(name, path)
            run, told = pipeline.run("-w", f"name=results,claimName={name}", params=ONE_SCENARIO)
            assert told.code == 0, told.stdout
            (report,) = [one for one in pipeline.pods(run) if one["metadata"]["name"].endswith("-report-pod")]
            node = report["spec"]["nodeName"]
            found = cluster.on(node, "find", f"{path}/results-{run}", "-type", "f").split()
            assert {Path(one).name for one in found} >= {"junit.xml", "report.html", f"{SCENARIO}.json", "ping.log"}
            pipeline.until_nothing_is_left(run)
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "persistentvolume", name)
        for node in cluster.nodes:
            cluster.on(node, "rm", "-rf", path)


def test_our_pods_are_restricted(cluster: Running, tmp_path: Path) -> None:
    """Where `restricted` is enforced our pods are admitted, and the preflight says that KubeVirt's would not be."""
    with installed(cluster, "tekton-restricted", tmp_path / "restricted", enforce="restricted") as pipeline:
        run, told = pipeline.run(params=ONE_SCENARIO, pod=_RESTRICTED)
        assert told.code == 1
        assert "enforces restricted" in told.stdout
        assert pipeline.tasks(run) == {"preflight": "StepFailed", "report": "StepFailed", "cleanup": "Succeeded"}
        assert not pipeline.left(run)


def _require_measured(pipeline: Pipeline, run: str, told: Finished, folder: Path, *asked: Scenario) -> set[str]:
    """Fail unless all that was asked for has passed, by itself where KubeVirt or noise spoilt it; return that.

    Nothing was forbidden.
    """
    verdicts = _asked(pipeline.verdicts(run, folder))
    lost = set(_SPOILT.findall(told.stdout))
    assert verdicts == {one.id: "error" if one.id in lost else "pass" for one in asked}, told.stdout
    assert len(lost) <= _MOST_LOST * len(asked) / 12
    assert "api-forbidden" not in told.stdout
    for scenario in sorted(lost):
        _require_pass(pipeline, scenario)
    return lost


def _require_pass(pipeline: Pipeline, scenario: str) -> None:
    """Fail unless a scenario passes, within a few runs of its own."""
    one = Scenario.parse(scenario)
    params = {"networks": one.network, "paths": one.path, "initiators": one.initiator, "ip-families": one.ip_family}
    for _ in range(_TRIES):
        run, told = pipeline.run(params=params)
        pipeline.until_nothing_is_left(run)
        if not told.code or not _SPOILT.search(told.stdout):
            break
    assert told.code == 0, told.stdout


def _until_a_vm_is_there(pipeline: Pipeline, command: Command) -> None:
    """Wait for a run's first VM, or for tkn's end."""
    wait_for(lambda: bool(pipeline.lab.items("vmi")) or not command.running(), "a VM", timeout_s=_BOOTED_S)


def _asked(verdicts: dict[str, str]) -> dict[str, str]:
    """Return the verdicts of the scenarios that were asked for."""
    return {scenario: verdict for scenario, verdict in verdicts.items() if verdict != "skipped"}
