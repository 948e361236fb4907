"""The sandbox measured from outside over ssh, against the packets at the static VM's port."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from stuntime.compare import MATCH, compare, read_side
from stuntime.result import Result
from stuntime.scenario import NETWORKS, scenarios
from tests.sandbox.harness import STUNTIME, Commands, Finished, agree, results
from tests.ssh.inventories import PLATFORM, inventory

pytestmark = pytest.mark.sandbox

ALL = {scenario.id: scenario for scenario in scenarios()}


@dataclass(frozen=True)
class Suites:
    """A suite of each network that has run."""

    finished: list[Finished]
    outputs: dict[str, Path]
    results: dict[str, Result]


@pytest.fixture(scope="module")
def suites(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Suites:
    """Measure all scenarios, one platform for each network; again, once, what others on this machine made invalid."""
    finished, outputs, found = [], {}, {}
    for network in NETWORKS:
        folder = tmp_path_factory.mktemp(network)
        file, output = folder / "inventory.yaml", folder / "output"
        file.write_text(inventory(network))
        options = ("--testbed", "ssh", "--inventory", str(file), "--ssh-config", str(folder / "ssh_config"))
        for argv in (
            ("suite", *options, "--capture", "--output", str(output)),
            ("suite", *options[2:], "--resume", str(output)),
        ):
            for made in ("key", "key.pub", "host.key"):
                (folder / made).unlink(missing_ok=True)
            with commands.leaving_nothing():
                finished.append(commands.run(*PLATFORM, network, str(folder), *STUNTIME, *argv))
            if all(result.valid for result in results(output).values()):
                break
        outputs[network] = output
        found.update(results(output))
    return Suites(finished, outputs, found)


def test_every_scenario_has_a_result(suites: Suites) -> None:
    """A suite over ssh writes one result for each scenario of its inventory that it was asked for."""
    assert set(suites.results) == set(ALL), [finished.stderr for finished in suites.finished]


@pytest.mark.parametrize("scenario", ALL)
def test_as_the_packets_say(suites: Suites, scenario: str) -> None:
    """The stuntime taken over ssh and that of the packets at the static VM's port differ by one probe at most."""
    result = suites.results[scenario]
    assert result.valid, result
    assert agree(result), (result.measurement, result.capture)


@pytest.mark.parametrize("scenario", ALL)
def test_verified(suites: Suites, scenario: str) -> None:
    """Source and target are those of the path, as the platform's own command tells."""
    moved = suites.results[scenario].migration
    assert moved is not None
    assert (moved.source, moved.target) == {
        "from-static-node": ("node-a", "node-b"),
        "between-other-nodes": ("node-b", "node-c"),
        "to-static-node": ("node-c", "node-a"),
    }[ALL[scenario].path]
    assert moved.configuration["nodes"] == "verified by a command"
    assert moved.mode == "by-command"


def test_environment(suites: Suites) -> None:
    """Each result names the platform, its facts, the network and what the guests say of themselves."""
    for scenario, result in suites.results.items():
        environment = result.environment
        assert environment is not None
        assert (environment.testbed, environment.cluster_id) == ("ssh", "from-outside")
        assert environment.product_versions == {"sandbox": "1", "purpose": "tests"}
        assert environment.network == {"kind": ALL[scenario].network}
        assert environment.guest_kernel
        assert "iputils" in environment.guests[ALL[scenario].initiator]["ping"]


def test_two_platforms_side_by_side(suites: Suites) -> None:
    """The results of two platforms whose networks differ by name are paired, and what makes them differ is told."""
    a, b = (read_side(output) for output in suites.outputs.values())
    found = compare(a, b, MATCH[1:])
    assert len(found.pairs) == len(ALL) / 2
    assert any("network type" in told for told in found.hard_to_compare)
