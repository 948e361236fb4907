"""What pods measure is kept in the cluster, and comes out of it as if it had been measured here."""

import base64
import io
import json
import secrets
import tarfile
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from stuntime.errors import InvalidError, TestbedError, UsageError
from stuntime.kubevirt import api as api_module
from stuntime.kubevirt import collect, deposit, parcel
from stuntime.kubevirt.api import Api
from stuntime.kubevirt.deposit import Depository
from stuntime.kubevirt.kinds import CONFIG_MAP, POD
from stuntime.kubevirt.settings import Owner
from stuntime.result import parse_result
from stuntime.store import OutputDirectory, Plan, read_plan
from tests.results import SCENARIO, document
from tests.unit.kubeapi.server import FakeServer

RUN = "stuntime-run-x7k2p"
OTHER = "ovn-localnet.to-static-node.migrated.ipv4"
OWNER = Owner("PipelineRun", RUN, "b7b7")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "_PAUSE_S", 0.02)
    monkeypatch.setattr(deposit, "_LAST_PATIENCE_S", 0.3)


@pytest.fixture
def server():
    with FakeServer(namespaces=["ns"]) as fake:
        yield fake


@pytest.fixture
def api(server: FakeServer) -> Api:
    return server.api("ns", patience_s=0.5)


def plan(*scenarios: str, repeat: int = 1) -> Plan:
    return Plan(
        run=RUN,
        tool_version="0.1.0",
        testbed="kubevirt",
        started="2026-03-04T10:11:12+00:00",
        scenarios=scenarios,
        repeat=repeat,
        interval_s=0.1,
        recovery_probes=None,
        recovery_timeout_s=60.0,
        migrate=True,
        capture=False,
    )


def measured(root: Path, scenario: str = SCENARIO, repetition: int = 1, evidence: bytes = b"64 bytes from") -> tuple:
    """Return an output directory as a pod has it, and the result that was just written into it."""
    made = root / "summary.json"
    output = OutputDirectory.resume(root) if made.exists() else OutputDirectory.create(root, plan(scenario, repeat=9))
    folder = output.evidence(scenario, repetition)
    (folder / "ping.log").write_bytes(evidence)
    found = document(scenario, run=RUN, repetition=repetition, evidence=[])
    return output, output.write(parse_result(json.dumps(found).encode(), "a test"))


def kept(server: FakeServer) -> dict:
    return {name: found for (_, name), found in server.store._objects.get(CONFIG_MAP, {}).items()}


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_a_pod_measured_comes_out_as_it_was(api: Api, tmp_path: Path):
    """Results and evidence that are deposited are the same, byte for byte, once they are fetched."""
    output, result = measured(tmp_path / "pod")
    Depository(api, RUN, OWNER).put(output, result)
    fetched, wrong = collect.bring(deposit.read(api, RUN), RUN, tmp_path / "laptop")
    assert not wrong
    assert contents(fetched.root) == contents(output.root)


def test_a_deposit_belongs_to_its_pipeline_run(api: Api, server: FakeServer, tmp_path: Path):
    """Each deposit is owned by the run's owner, and can be found by the labels of run and scenario."""
    output, result = measured(tmp_path)
    Depository(api, RUN, OWNER).put(output, result)
    (metadata,) = (found["metadata"] for found in kept(server).values())
    assert metadata["ownerReferences"] == [
        {"apiVersion": "tekton.dev/v1", "kind": "PipelineRun", "name": RUN, "uid": "b7b7"}
    ]
    assert metadata["labels"] == {
        "app.kubernetes.io/name": "stuntime",
        "stuntime.io/run": RUN,
        "stuntime.io/scenario": SCENARIO,
        "stuntime.io/deposit": "result",
    }


def test_one_run_is_made_of_many_pods(api: Api, tmp_path: Path):
    """What several processes of a run deposited is one run, with the plan that was told before them."""
    depository = Depository(api, RUN, OWNER)
    depository.put_plan(plan(SCENARIO, OTHER, repeat=2), {"baseline": "good"})
    for number, (scenario, repetition) in enumerate([(SCENARIO, 1), (SCENARIO, 2), (OTHER, 1)]):
        depository.put(*measured(tmp_path / f"pod{number}", scenario, repetition))
    found = deposit.read(api, RUN)
    output, _ = collect.bring(found, RUN, tmp_path / "all")
    assert found.policy == {"baseline": "good"}
    assert read_plan(output.root).scenarios == (SCENARIO, OTHER)
    assert output.missing() == [(OTHER, 2)]


def test_without_a_plan_the_pods_plans_are_united(api: Api, tmp_path: Path):
    """Where nobody has told what is planned, it is what the processes themselves had planned."""
    depository = Depository(api, RUN, None)
    for scenario in (OTHER, SCENARIO):
        depository.put(*measured(tmp_path / scenario, scenario))
    output, _ = collect.bring(deposit.read(api, RUN), RUN, tmp_path / "all")
    assert set(output.plan.scenarios) == {SCENARIO, OTHER}
    assert output.plan.repeat == 9


def test_fetching_twice_changes_nothing(api: Api, tmp_path: Path):
    """A run can be fetched again into the directory that holds it, and into none that holds another."""
    depository = Depository(api, RUN, OWNER)
    depository.put(*measured(tmp_path / "pod"))
    output, _ = collect.bring(deposit.read(api, RUN), RUN, tmp_path / "all")
    before = contents(output.root)
    collect.bring(deposit.read(api, RUN), RUN, tmp_path / "all")
    assert contents(output.root) == before
    OutputDirectory.create(tmp_path / "other", msgspec.structs.replace(plan(SCENARIO), run="another"))
    with pytest.raises(UsageError, match="holds a run already"):
        collect.bring(deposit.read(api, RUN), RUN, tmp_path / "other")


def test_a_run_that_left_nothing_is_said_so(api: Api, tmp_path: Path):
    """A run of which the cluster keeps nothing is a mistake of the caller, and no directory is made."""
    with pytest.raises(UsageError, match="keeps nothing of run nobody"):
        collect.bring(deposit.read(api, "nobody"), "nobody", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_measurement_taken_again_replaces_the_first(api: Api, server: FakeServer, tmp_path: Path):
    """The last deposit of a measurement is the one that counts."""
    depository = Depository(api, RUN, OWNER)
    depository.put(*measured(tmp_path / "pod", evidence=b"first"))
    depository.put(*measured(tmp_path / "pod", evidence=b"second"))
    output, _ = collect.bring(deposit.read(api, RUN), RUN, tmp_path / "all")
    assert len(kept(server)) == 1
    assert (output.root / "evidence" / SCENARIO / "ping.log").read_bytes() == b"second"


def test_what_could_not_be_kept_is_tried_again(api: Api, server: FakeServer, tmp_path: Path):
    """A deposit that fails stops no measurement, and is made as soon as the server is there again."""
    depository = Depository(api, RUN, OWNER)
    with server.away():
        depository.put(*measured(tmp_path / "pod"))
    assert not kept(server)
    depository.settle()
    assert len(kept(server)) == 1


def test_what_can_never_be_kept_is_in_the_log(
    api: Api, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A result that cannot be deposited at all is in the log, whole, and the command fails."""
    log = Mock()
    monkeypatch.setattr(deposit, "_log", log)
    depository = Depository(api, RUN, OWNER)
    server.forbid("create", CONFIG_MAP.resource)
    output, result = measured(tmp_path / "pod")
    depository.put(output, result)
    with pytest.raises(TestbedError, match="1 results could not be kept"):
        depository.settle()
    (lost,) = log.error.call_args_list
    assert parse_result(lost.kwargs["document"].encode(), "the log") == result


def test_a_stopped_run_still_deposits(api: Api, server: FakeServer, tmp_path: Path):
    """What was measured when the run was told to stop is kept all the same."""
    api.stop()
    Depository(api, RUN, OWNER).put(*measured(tmp_path / "pod"))
    assert len(kept(server)) == 1


def test_a_deposit_fits_into_a_config_map(api: Api, server: FakeServer, tmp_path: Path):
    """Evidence that would make a deposit larger than 1 MiB is left out whole, and named; the result never is."""
    output, _ = measured(tmp_path / "pod")
    (output.root / "evidence" / SCENARIO / "console.log").write_bytes(secrets.token_bytes(2 << 20))
    result = output.write(output.results()[0])
    Depository(api, RUN, OWNER).put(output, result)
    (found,) = kept(server).values()
    size = sum(len(base64.b64decode(value)) for value in found["binaryData"].values())
    size += sum(len(value) for value in found["data"].values())
    assert size < 1 << 20
    assert found["data"]["left-out"] == f"evidence/{SCENARIO}/console.log"
    fetched, _ = collect.bring(deposit.read(api, RUN), RUN, tmp_path / "all")
    assert [known.evidence for known in fetched.results()] == [result.evidence]


def test_torn_deposits_stop_nobody(api: Api, server: FakeServer, tmp_path: Path):
    """A deposit that cannot be unpacked is told, and the others come in."""
    depository = Depository(api, RUN, OWNER)
    for scenario in (SCENARIO, OTHER):
        depository.put(*measured(tmp_path / scenario, scenario))
    torn = next(name for name in kept(server) if OTHER in name)
    half = base64.b64encode(b"\x1f\x8b torn").decode()
    server.store.merge(CONFIG_MAP, "ns", torn, {"binaryData": {"parcel.tar.gz": half}})
    output, wrong = collect.bring(deposit.read(api, RUN), RUN, tmp_path / "all")
    assert [error.reason for error in wrong] == ["deposit-torn"]
    assert [result.scenario for result in output.results()] == [SCENARIO]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "summary.json", "results/../../outside", "elsewhere/a"])
def test_a_parcel_writes_nowhere_else(tmp_path: Path, name: str):
    """A parcel with a file outside the folders of an output directory is refused, and nothing of it is written."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for member in ("results/a.json", name):
            info = tarfile.TarInfo(member)
            info.size = 2
            archive.addfile(info, io.BytesIO(b"{}"))
    with pytest.raises(InvalidError, match="no place in an output directory"):
        parcel.unpack(packed.getvalue(), tmp_path / "root", "a test")
    assert not (tmp_path / "root").exists()


def test_a_parcel_holds_no_links(tmp_path: Path):
    """A link in a parcel is refused: it could lead anywhere."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        info = tarfile.TarInfo("results/link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(info)
    with pytest.raises(InvalidError, match="no place"):
        parcel.unpack(packed.getvalue(), tmp_path, "a test")


def test_the_report_waits_for_pods_that_measure(api: Api, server: FakeServer):
    """Waiting ends when no pod of the run measures any more, and names those that still do after its time."""
    labels = {"tekton.dev/pipelineRun": RUN, "stuntime.io/measures": "true"}
    for name, more in (
        ("mine", {}),
        ("report", {"stuntime.io/measures": "false"}),
        ("other", {"tekton.dev/pipelineRun": "x"}),
    ):
        server.seed(POD, {**POD.object(name, labels={**labels, **more}, spec={}), "status": {"phase": "Running"}})
    assert collect.settle(api, RUN, 0.3) == ("mine",)
    server.store.delete(POD, "ns", "mine")
    assert collect.settle(api, RUN, 5.0) == ()


def test_an_owner_is_named_in_full():
    """An owner is KIND/NAME/UID of a Tekton run; anything else is refused."""
    assert Owner.parse("PipelineRun/a/b") == Owner("PipelineRun", "a", "b")
    for text in ("", "PipelineRun/a", "PipelineRun//b", "Pod/a/b", "PipelineRun/a/b/c"):
        with pytest.raises(UsageError):
            Owner.parse(text)
