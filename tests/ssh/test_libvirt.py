"""Plain libvirt, measured over ssh: daemons of its own on three nodes, and `virsh migrate --live` between them."""

from pathlib import Path

import pytest

from stuntime.result import Result
from stuntime.sandbox.nodes import NODES
from stuntime.scenario import scenarios
from tests.sandbox.harness import STUNTIME, Commands, agree, results
from tests.ssh.inventories import LIBVIRT, libvirt_inventory

pytestmark = pytest.mark.sandbox

ALL = {scenario.id: scenario for scenario in scenarios(["linux-bridge"])}


@pytest.fixture(scope="module")
def measured(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Measure all scenarios; again, once, what others on this machine made invalid."""
    folder = tmp_path_factory.mktemp("libvirt")
    file, output = folder / "inventory.yaml", folder / "output"
    file.write_text(libvirt_inventory())
    options = ("--inventory", str(file), "--ssh-config", str(folder / "ssh_config"))
    for argv in (
        ("suite", "--testbed", "ssh", *options, "--capture", "--output", str(output)),
        ("suite", *options, "--resume", str(output)),
    ):
        with commands.leaving_nothing():
            finished = commands.run(*LIBVIRT, str(_new(folder)), *STUNTIME, *argv)
        assert output.exists(), finished.stderr
        if all(result.valid for result in results(output).values()):
            break
    return results(output)


def _new(folder: Path) -> Path:
    """Return the folder without what a platform has put into it before."""
    for name in ("key", "key.pub", "host.key"):
        (folder / name).unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("scenario", ALL)
def test_as_the_packets_say(measured: dict[str, Result], scenario: str) -> None:
    """The stuntime of a migration by libvirt and that of the packets at the static VM's port differ by one probe."""
    result = measured[scenario]
    assert result.valid, result
    assert agree(result), (result.measurement, result.capture)
    assert result.environment is not None
    assert result.environment.product_versions["libvirt"]


def test_verified(measured: dict[str, Result]) -> None:
    """The migrated VM went round the nodes, as libvirt itself tells."""
    for scenario, result in measured.items():
        assert result.migration is not None
        static, *others = (node.address for node in NODES)
        assert (result.migration.source, result.migration.target) == {
            "from-static-node": (static, others[0]),
            "between-other-nodes": (others[0], others[1]),
            "to-static-node": (others[1], static),
        }[ALL[scenario].path]
        assert result.migration.configuration["nodes"] == "verified by a command"
