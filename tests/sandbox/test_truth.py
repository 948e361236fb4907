"""All scenarios, measured once by the command line, against the packets at the static VM's port."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from stuntime.result import Result
from stuntime.sandbox.nodes import NODES
from stuntime.scenario import IP_FAMILIES, NETWORKS, Scenario, scenarios
from tests.sandbox.harness import STUNTIME, Commands, Finished, agree, junit_kinds, results

pytestmark = pytest.mark.sandbox

ALL = {scenario.id: scenario for scenario in scenarios(ip_families=IP_FAMILIES)}
THRESHOLD_S = 5.0
_IN_JUNIT = {"pass": "passed", "fail": "failure", "error": "error"}


@dataclass(frozen=True)
class Suite:
    """A suite that has run."""

    output: Path
    finished: Finished
    results: dict[str, Result]


@pytest.fixture(scope="module")
def suite(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """Run one suite of all scenarios, for all tests here."""
    output = tmp_path_factory.mktemp("suite") / "output"
    with commands.leaving_nothing():
        families = ",".join(IP_FAMILIES)
        finished = commands.run(*STUNTIME, "suite", "--capture", "--ip-family", families, "--output", str(output))
    return Suite(output, finished, results(output))


def test_every_scenario_has_a_result(suite: Suite) -> None:
    """A suite writes one result for each scenario that it was asked for."""
    assert set(suite.results) == set(ALL), suite.finished.stderr


@pytest.fixture(scope="module")
def settled(suite: Suite, commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Measure again, once, what a machine that others disturb has made invalid: what a user would do."""
    if all(result.valid for result in suite.results.values()):
        return suite.results
    again = tmp_path_factory.mktemp("again") / "output"
    shutil.copytree(suite.output, again)
    with commands.leaving_nothing():
        commands.run(*STUNTIME, "suite", "--resume", str(again))
    return results(again)


@pytest.mark.parametrize("scenario", ALL)
def test_valid_and_recovered(settled: dict[str, Result], scenario: str) -> None:
    """A migration that comes through yields a valid measurement with a lasting recovery and no error."""
    result = settled[scenario]
    assert result.valid, result
    assert result.measurement is not None
    assert result.measurement.recovered


@pytest.mark.parametrize("scenario", ALL)
def test_as_the_packets_say(suite: Suite, scenario: str) -> None:
    """The stuntime and that of the packets at the static VM's port differ by one probe at most."""
    result = suite.results[scenario]
    assert agree(result), (result.measurement, result.capture)


@pytest.mark.parametrize("scenario", ALL)
def test_migrated_to_the_node_that_the_path_names(suite: Suite, scenario: str) -> None:
    """The migrated VM goes from and to the nodes that the path names, seen from the static VM's node."""
    moved = suite.results[scenario].migration
    assert moved is not None
    static_node, others = NODES[0].name, {node.name for node in NODES[1:]}
    match ALL[scenario].path:
        case "from-static-node":
            assert moved.source == static_node
            assert moved.target in others
        case "between-other-nodes":
            assert {moved.source, moved.target} == others
        case "to-static-node":
            assert moved.source in others
            assert moved.target == static_node


@pytest.mark.parametrize("scenario", ALL)
def test_evidence(suite: Suite, scenario: str) -> None:
    """The result names every file of its evidence, each with the digest and the size that it has."""
    told = {file.file: (file.sha256, file.bytes) for file in suite.results[scenario].evidence}
    folder = suite.output / "evidence" / scenario
    found = {
        str(path.relative_to(suite.output)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert told == found
    assert {"ping.log", "observer.log", "capture.pcap"} <= {Path(file).name for file in told}


def test_what_it_was_measured_with(suite: Suite) -> None:
    """Each result names the accelerator, the network's datapath, and the versions of all that took part."""
    for scenario, result in suite.results.items():
        environment = result.environment
        assert environment is not None
        assert environment.accelerator in {"kvm", "tcg"}
        assert environment.network["kind"] == ALL[scenario].network
        assert set(environment.nodes) == {node.name for node in NODES}
        for product in ("qemu", "openvswitch", "ovn"):
            assert environment.product_versions[product][0].isdigit()
        initiator = environment.guests[ALL[scenario].initiator]
        assert "iputils" in initiator["ping"], initiator
        assert initiator["kernel"] == environment.guest_kernel


@pytest.mark.parametrize("scenario", [s for s, words in ALL.items() if words.initiator == "migrated"])
def test_a_pause_of_the_initiator_counts(suite: Suite, scenario: str) -> None:
    """A migrated initiator that lost nothing was still cut off for as long as nothing of it arrived.

    Its own log does not see that it was paused: so the stuntime is never shorter than its view, nor than the silence of
    its requests at the static VM's port, by more than one probe.
    """
    measured, captured = suite.results[scenario].measurement, suite.results[scenario].capture
    assert measured is not None
    assert captured is not None
    assert measured.stuntime_s is not None
    assert measured.initiator_view_s is not None
    assert captured.requests_only_s is not None
    assert measured.stuntime_s >= measured.initiator_view_s - measured.spacing_s
    assert measured.stuntime_s >= captured.requests_only_s - measured.spacing_s


def test_numbers_are_inside_their_bounds(suite: Suite) -> None:
    """The bounds that a result states hold its stuntime, and the outages hold its lost probes."""
    for result in suite.results.values():
        measured = result.measurement
        assert measured is not None
        assert measured.bounds_s is not None
        assert measured.bounds_s.lower <= (measured.stuntime_s or 0.0) <= (measured.bounds_s.upper or 0.0)
        assert sum(outage.probes_lost for outage in measured.outages) == measured.probes_lost
        parts = measured.probes_answered + measured.probes_lost + measured.probes_in_flight
        assert parts == measured.probes_sent


def test_junit(suite: Suite) -> None:
    """The JUnit file holds every scenario once, in measuring order, each with its verdict."""
    told = junit_kinds(suite.output)
    assert list(told) == list(ALL)
    assert told == {scenario: _IN_JUNIT[_verdict(suite.results[scenario])] for scenario in ALL}
    assert (suite.output / "junit.xml").read_text().count("<testcase ") == len(ALL)


def test_table(suite: Suite) -> None:
    """The table on stdout has a line for each scenario: stuntime, view, what the packets say, and the verdict."""
    rows = _rows(suite.finished.stdout)
    assert set(rows) == set(ALL)
    for scenario, result in suite.results.items():
        measured, captured = result.measurement, result.capture
        assert measured is not None
        assert captured is not None
        numbers = [f"{n:.3f}" for n in (measured.stuntime_s, measured.initiator_view_s, captured.stuntime_s)]
        assert [word for word in rows[scenario] if "." in word][: len(numbers)] == numbers
        assert rows[scenario][-1] == _verdict(result)


def _rows(table: str) -> dict[str, list[str]]:
    """Return the words after each scenario: a heading names network and ip family, a line the rest of the id."""
    rows, network, family = {}, "", ""
    for words in filter(None, map(str.split, table.splitlines())):
        if words[0] in NETWORKS:
            network, family = words[:2]
        elif (scenario := f"{network}.{words[0]}.{family}") in ALL:
            rows[scenario] = words[1:]
    return rows


def test_exit_code(suite: Suite) -> None:
    """The exit code is 0 when all are within the threshold, 1 when one is over it, else 4 when one is not valid."""
    verdicts = {_verdict(result) for result in suite.results.values()}
    expected = 1 if "fail" in verdicts else 4 if "error" in verdicts else 0
    assert suite.finished.code == expected, suite.finished.stderr


def test_each_scenario_ends_where_the_next_begins(suite: Suite) -> None:
    """The order of a suite needs no migration but the measured ones: each VM's are numbered without a hole."""
    for network in {scenario.network for scenario in ALL.values()}:
        ordinals = [moved.ordinal for s, r in suite.results.items() if s.startswith(network) and (moved := r.migration)]
        assert sorted(ordinals) == list(range(1, len(_of(network)) + 1))


def test_how_close(suite: Suite, commands: Commands) -> None:
    """Over all scenarios the median difference to the packets is below half a probe: they time the same packets."""
    differences, spacings = [], []
    for result in suite.results.values():
        measured, captured = result.measurement, result.capture
        assert measured is not None
        assert captured is not None
        differences.append(abs((measured.stuntime_s or 0.0) - (captured.stuntime_s or 0.0)))
        spacings.append(measured.spacing_s)
    told = f"median {median(differences) * 1000:.0f} ms, largest {max(differences) * 1000:.0f} ms of {len(differences)}"
    commands.notes.append(f"difference to the packets: {told}")
    assert median(differences) < median(spacings) / 2


def _of(network: str) -> list[Scenario]:
    return [scenario for scenario in ALL.values() if scenario.network == network]


def _verdict(result: Result) -> str:
    if not result.valid or result.measurement is None:
        return "error"
    stuntime_s = result.measurement.stuntime_s
    return "fail" if stuntime_s is None or stuntime_s > THRESHOLD_S else "pass"
