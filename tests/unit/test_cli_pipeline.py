"""The commands of the pipeline's tasks, against an API server over real HTTP."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stuntime import cli, cli_pipeline
from stuntime.cli_common import given
from stuntime.errors import ExitCode, TestbedError
from stuntime.kubevirt import api as api_module
from stuntime.kubevirt import deposit
from stuntime.kubevirt.cleanup import leftovers
from stuntime.kubevirt.deposit import Depository
from stuntime.kubevirt.kinds import CONFIG_MAP, NNCP, VM, Kind
from stuntime.result import parse_result
from stuntime.store import OutputDirectory, read_plan
from tests.results import SCENARIO, document
from tests.unit.kubeapi.server import TOKEN, FakeServer

RUN = "stuntime-run-x7k2p"
OTHER = "linux-bridge.to-static-node.static.ipv4"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "_PAUSE_S", 0.02)
    monkeypatch.setattr(cli.logs, "configure", lambda **_: None)  # loggers would keep this test's stderr


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(namespaces=["ns", "stuntime"]) as fake:
        yield fake


@pytest.fixture
def kubeconfig(server: FakeServer, tmp_path: Path) -> str:
    """Return the option that names the fake server's kubeconfig."""
    found = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}],
        "clusters": [{"name": "c", "cluster": {"server": server.host}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(found))
    return f"--kubeconfig={file}"


@pytest.fixture
def planned(kubeconfig: str) -> str:
    """Return the option of a cluster that knows what the run measures: two scenarios."""
    argv = ["plan", f"--run={RUN}", "--network", "linux-bridge", "--path", "from-static-node", "to-static-node"]
    assert cli.main([*argv, "--initiator", "static", kubeconfig]) == ExitCode.OK
    return kubeconfig


def measure(server: FakeServer, folder: Path, scenario: str, stuntime_s: float | None) -> None:
    """Leave in the cluster what a pod leaves that measured a scenario."""
    api = server.api("ns")
    plan = deposit.read(api, RUN).plan
    assert plan is not None
    output = OutputDirectory.create(folder / scenario, plan)
    (output.evidence(scenario, 1) / "ping.log").write_text("a log")
    found = document(scenario, run=RUN, stuntime_s=stuntime_s, evidence=[])
    Depository(api, RUN, None).put(output, output.write(parse_result(json.dumps(found).encode(), "a test")))


def test_a_run_is_planned_measured_and_fetched(server: FakeServer, planned: str, tmp_path: Path):
    """What pods left is fetched and judged as a suite is: documents, JUnit, page, and the exit code is the verdict."""
    for scenario in (SCENARIO, OTHER):
        measure(server, tmp_path, scenario, 0.3)
    root = tmp_path / "out"
    assert cli.main(["fetch", RUN, planned, f"--output={root}"]) == ExitCode.OK
    assert {path.name for path in root.iterdir()} == {
        "summary.json", "results", "evidence", "junit.xml", "report.html", "aggregate.json",
    }  # fmt: skip
    assert read_plan(root).scenarios == (SCENARIO, OTHER)
    assert (root / "evidence" / OTHER / "ping.log").read_text() == "a log"


def test_what_is_missing_is_an_error(server: FakeServer, planned: str, tmp_path: Path):
    """A scenario that was planned and left nothing is an error in the JUnit, and the exit code says so."""
    measure(server, tmp_path, SCENARIO, 0.3)
    root = tmp_path / "out"
    file = tmp_path / "result"
    argv = ["fetch", RUN, planned, f"--output={root}", f"--result-file={file}"]
    assert cli.main(argv) == ExitCode.INVALID
    assert "missing" in (root / "junit.xml").read_text()
    told = json.loads(file.read_text())
    assert (told["exit_code"], told["pass"], told["error"]) == (4, 1, 1)


def test_a_failure_is_the_exit_code(server: FakeServer, planned: str, tmp_path: Path):
    """A scenario over its threshold makes the command, and so the PipelineRun, fail."""
    measure(server, tmp_path, SCENARIO, 17.0)
    measure(server, tmp_path, OTHER, 0.3)
    assert cli.main(["fetch", RUN, planned, f"--output={tmp_path / 'out'}"]) == ExitCode.FAIL


def test_a_run_is_judged_by_the_policy_of_its_plan(server: FakeServer, kubeconfig: str, tmp_path: Path):
    """The ConfigMaps that the plan names judge the run wherever it is fetched, and those of the caller come first."""
    for name, threshold in (("strict", 0.1), ("lax", 9.0)):
        server.seed(
            CONFIG_MAP, CONFIG_MAP.object(name, data={"thresholds.yaml": f"global: {{threshold: {threshold}}}\n"})
        )
    argv = ["plan", f"--run={RUN}", "--network=linux-bridge", "--path=from-static-node", "--initiator=static"]
    assert cli.main([*argv, "--thresholds-from=strict", kubeconfig]) == ExitCode.OK
    measure(server, tmp_path, SCENARIO, 0.3)
    assert cli.main(["fetch", RUN, kubeconfig, f"--under={tmp_path}"]) == ExitCode.FAIL
    assert (tmp_path / f"results-{RUN}" / "junit.xml").exists()
    assert cli.main(["fetch", RUN, kubeconfig, f"--under={tmp_path}", "--thresholds-from=lax"]) == ExitCode.OK


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "is missing"),
        ({"a": "1", "b": "2"}, "has not one key"),
        ({"thresholds.yaml": "threshold: 1"}, "not known in a thresholds file"),
    ],
)
def test_a_policy_that_is_not_there_is_told(
    server: FakeServer, kubeconfig: str, data: dict[str, str] | None, told: str, capsys: pytest.CaptureFixture[str]
):
    """A ConfigMap that is missing or unclear is told before anything is measured, and never ignored."""
    if data:
        server.seed(CONFIG_MAP, CONFIG_MAP.object("strict", data=data))
    assert cli.main(["plan", f"--run={RUN}", "--thresholds-from=strict", kubeconfig]) == ExitCode.USAGE
    assert told in capsys.readouterr().err
    assert deposit.read(server.api("ns"), RUN).plan is None


def test_fetching_nothing_is_a_mistake(kubeconfig: str, capsys: pytest.CaptureFixture[str]):
    """A PipelineRun that left nothing is told to whoever fetches it."""
    assert cli.main(["fetch", "nobody", kubeconfig]) == ExitCode.USAGE
    assert "keeps nothing of run nobody" in capsys.readouterr().err


def test_a_portal_that_does_not_take_it_changes_no_verdict(
    server: FakeServer, planned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The verdict of a run is its exit code also when the JUnit could not be sent; of a good one it is told."""
    monkeypatch.setenv("STUNTIME_REPORTPORTAL_TOKEN", "key")
    away = ["--reportportal-endpoint=http://127.0.0.1:9", "--reportportal-project=lab"]
    measure(server, tmp_path, SCENARIO, 17.0)
    assert cli.main(["fetch", RUN, planned, f"--output={tmp_path / 'a'}", *away]) == ExitCode.FAIL
    measure(server, tmp_path / "again", SCENARIO, 0.3)
    measure(server, tmp_path, OTHER, 0.3)
    assert cli.main(["fetch", RUN, planned, f"--output={tmp_path / 'b'}", *away]) == ExitCode.TESTBED
    assert (tmp_path / "b" / "junit.xml").exists()


def test_why_nothing_was_measured_is_kept(server: FakeServer, planned: str, tmp_path: Path):
    """A scenario that an unfit cluster did not let begin leaves a result that says why, and a line for the task."""
    file = tmp_path / "verdict"
    argv = ["run", SCENARIO, "--testbed=kubevirt", f"--run={RUN}", "--deposit", f"--output={tmp_path / 'pod'}"]
    assert cli.main([*argv, f"--result-file={file}", planned]) == ExitCode.UNFIT
    told = json.loads(file.read_text())
    assert (told["scenario"], told["verdict"], told["stuntime_s"]) == (SCENARIO, "error", None)
    assert "\n" not in file.read_text()
    assert len(file.read_bytes()) < 3000
    root = tmp_path / "out"
    assert cli.main(["fetch", RUN, planned, f"--output={root}"]) == ExitCode.INVALID
    result = json.loads((root / "results" / f"{SCENARIO}.json").read_text())
    assert result["error"]["reason"] == "testbed-unfit"


def test_cleaning_up_leaves_what_was_measured(server: FakeServer, planned: str, tmp_path: Path):
    """Removing what a run left takes its VMs and leaves its results, unless these are asked for."""
    measure(server, tmp_path, SCENARIO, 0.3)
    server.seed(VM, VM.object("vm", labels={"stuntime.io/run": RUN}, spec={}))
    assert cli.main(["cleanup", f"--run={RUN}", "--yes", "--settle=0.2", planned]) == ExitCode.OK
    assert server.api("ns").find(VM) == []
    assert len(deposit.read(server.api("ns"), RUN).kept) == 1
    found, _ = leftovers(
        server.api("ns"), run=RUN, older_than_s=0.0, now=time.time(), window_namespace="stuntime", results=True
    )
    assert len(found) == 2


@pytest.mark.parametrize(("kind", "code"), [(NNCP, ExitCode.OK), (VM, ExitCode.TESTBED)])
def test_only_what_a_run_could_have_made_must_be_seen(server: FakeServer, planned: str, kind: Kind, code: ExitCode):
    """An account without the rights of networks cleans up all the same, and one that may not see VMs is told of it."""
    server.forbid("list", kind.resource)
    assert cli.main(["cleanup", f"--run={RUN}", "--yes", planned]) == code


def test_time_is_limited():
    """A body that takes longer than its limit is left with an error, and one that does not is not disturbed later."""
    with pytest.raises(TestbedError, match=r"time limit of 0\.1 s"), cli_pipeline.time_limit(0.1):
        time.sleep(5)
    with cli_pipeline.time_limit(0.1), cli_pipeline.time_limit(None):
        pass
    time.sleep(0.15)


def test_an_empty_option_is_as_if_not_given():
    """`--nic=` is dropped; an option's separate value, a positional and `--nic=a` stay."""
    argv = ["run", "--nic=", "--vlan", "7", "--nad=linux-bridge=", "--nic=a", "-p=", ""]
    assert given(argv) == ["run", "--vlan", "7", "--nad=linux-bridge=", "--nic=a", "-p=", ""]
