"""The ssh testbed: nodes, belief and verification, and guests that must not be measured (real ones: tests/ssh)."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stuntime.cli import main
from stuntime.errors import MigrationError, StuntimeError, TestbedError, UnfitError
from stuntime.scenario import Scenario
from stuntime.ssh.command import Template
from stuntime.ssh.inventory import Commands, Inventory, MeasuredNetwork, Platform, routes_among
from stuntime.ssh.migration import ByCommand
from stuntime.ssh.testbed import SshTestbed
from tests.unit import fake_ssh

SCENARIO = Scenario("net", "from-static-node", "static", "ipv4")
FACTS = """\
{boot}
6.1.0
Debian GNU/Linux 12
1: lo    inet 127.0.0.1/8 scope host lo
2: eth0    inet {address}/24 scope global eth0
"""


class Guest:
    """A shell of a guest that says of itself what it is told to."""

    def __init__(self, boot: str, address: str, over: str = "198.51.100.1") -> None:
        self.said, self.reached_by = FACTS.format(boot=boot, address=address), over
        self.left = 0

    def run(self, command: str, *, timeout_s: float = 30.0) -> str:
        return self.said

    def over(self) -> str:
        return self.reached_by

    def leave(self) -> None:
        self.left += 1


def made(migrate: str = "true", verify: str | None = None, **guests: Guest) -> SshTestbed:
    """Return a testbed of nodes a, b, c and of two guests."""
    inventory = Inventory(
        hosts={"static": "vm-s", "migrated": "vm-m"},
        networks={
            "net": MeasuredNetwork(
                {"static": {"ipv4": "192.0.2.1"}, "migrated": {"ipv4": "192.0.2.2"}}, "mlx5", {"kind": "vlan"}
            )
        },
        routes=routes_among("a", ["b", "c"]),
        nodes={"a": {"cpu": "x"}, "b": {}, "c": {}},
        commands=Commands(verify=Template.parse(verify) if verify else None),
        platform=Platform("oVirt", "4.5", facts={"storage": "nfs"}),
    )
    testbed = SshTestbed(inventory, ByCommand(Template.parse(migrate)), limit_s=1.2)
    testbed._shells = {"static": Guest("1", "192.0.2.1"), "migrated": Guest("2", "192.0.2.2"), **guests}
    return testbed


def held(testbed: SshTestbed, use: Callable):
    with (
        TemporaryDirectory() as evidence,
        testbed.network("net", Path(evidence)),
        testbed.pair(SCENARIO, Path(evidence)) as pair,
    ):
        return use(pair)


def test_what_followed_from_the_users_word() -> None:
    """Without a verification the VM starts where the user says and is where its migrations took it."""
    testbed = made()

    def use(pair):
        assert (testbed.node_of(pair.static), testbed.node_of(pair.migrated)) == ("a", "a")
        moved = testbed.migrate(pair.migrated, "b", timeout_s=5)
        assert testbed.node_of(pair.migrated) == "b"
        return moved

    moved = held(testbed, use)
    assert (moved.source, moved.target, moved.mode, moved.proven) == ("a", "b", "by-command", False)
    assert moved.configuration["nodes"] == "the user's word"
    assert moved.requested <= moved.ended
    assert moved.started is None


def test_verified(tmp_path: Path) -> None:
    """The last line that the verify command prints is the node, before and after."""
    (tmp_path / "node").write_text("checking\na\n\n")
    testbed = made(f"sh -c 'echo {{target}} > {tmp_path}/node'", f"cat {tmp_path}/node")
    moved = held(testbed, lambda pair: testbed.migrate(pair.migrated, "b", timeout_s=5))
    assert (moved.source, moved.target, moved.proven) == ("a", "b", True)
    assert moved.configuration["nodes"] == "verified by a command"


def test_a_command_that_lies_about_the_target(tmp_path: Path) -> None:
    """A VM that turns up on another node than it was sent to is told at once."""
    (tmp_path / "node").write_text("a")
    testbed = made(f"sh -c 'echo c > {tmp_path}/node'", f"cat {tmp_path}/node")
    with pytest.raises(MigrationError, match="went from a to c, not to b") as caught:
        held(testbed, lambda pair: testbed.migrate(pair.migrated, "b", timeout_s=5))
    assert caught.value.reason == "migration-elsewhere"


@pytest.mark.parametrize(
    ("verify", "says"),
    [("true", "prints nothing"), ("sh -c 'echo no such VM >&2; exit 1'", "ended with status 1: no such VM")],
)
def test_a_verification_that_does_not_work(verify: str, says: str) -> None:
    """A verify command that fails or prints nothing is an error, and no node."""
    testbed = made(verify=verify)
    with pytest.raises(TestbedError, match=says) as caught:
        held(testbed, lambda pair: testbed.node_of(pair.migrated))
    assert caught.value.reason == "verify-failed"


def test_after_a_failure_nobody_knows() -> None:
    """After a migration that failed without a verification the VM's node is not known, and nothing is measured."""
    testbed = made("false")

    def use(pair):
        with pytest.raises(MigrationError):
            testbed.migrate(pair.migrated, "b", timeout_s=5)
        testbed.node_of(pair.migrated)

    with pytest.raises(TestbedError, match="nobody knows where the VM is"):
        held(testbed, use)


@pytest.mark.parametrize(
    ("guest", "reason"),
    [
        (Guest("1", "192.0.2.2"), "same-guest"),
        (Guest("2", "192.0.2.3"), "address-elsewhere"),
        (Guest("2", "192.0.2.2", over="192.0.2.2"), "management-network"),
        (Guest("2", "192.0.2.2", over="::ffff:192.0.2.2"), "management-network"),
    ],
)
def test_guests_that_must_not_be_measured(guest: Guest, reason: str) -> None:
    """One guest under two names, the wrong one, and one that ssh reaches over what is measured, are refused."""
    with pytest.raises(UnfitError) as caught:
        held(made(migrated=guest), lambda pair: None)
    assert caught.value.reason == reason


def test_a_capture(tmp_path: Path) -> None:
    """A capture command's output is the capture; one that ends or writes nothing is told with its words."""
    testbed = made()
    header = "printf '%24s' x"
    good = {"capture": Template.parse(f'sh -c "{header}; exec sleep 60"')}
    bad = {"capture": Template.parse("sh -c 'echo no such device >&2; exit 1'")}
    file = tmp_path / "capture.pcap"
    with pytest.raises(UnfitError, match="no capture command"), testbed.capture(None, file):
        pass
    object.__setattr__(testbed._inventory, "commands", Commands(**good))
    with testbed.capture(None, file):
        assert file.stat().st_size == 24
    object.__setattr__(testbed._inventory, "commands", Commands(**bad))
    with pytest.raises(TestbedError, match="ended with status 1: no such device"), testbed.capture(None, file):
        pass


def test_environment() -> None:
    """The environment tells platform, version, all facts, and what the guests say of themselves."""
    testbed = made()
    told = held(testbed, testbed.environment)
    assert (told["testbed"], told["cluster_id"], told["nic"]) == ("ssh", "oVirt", "mlx5")
    assert told["product_versions"] == {"oVirt": "4.5", "storage": "nfs"}
    assert told["network"] == {"kind": "vlan"}
    assert told["nodes"] == {"a": {"cpu": "x"}, "b": {}, "c": {}}
    assert (told["guest_image"], told["guest_kernel"]) == ("Debian GNU/Linux 12", "6.1.0")


@pytest.mark.parametrize("error", [KeyboardInterrupt, StuntimeError])
def test_guests_are_left(error: type[BaseException]) -> None:
    """Whatever ends a measurement, its guests are left as they were."""
    testbed = made()

    def fail(pair):
        raise error("what", "way out") if error is StuntimeError else error

    with pytest.raises(error):
        held(testbed, fail)
    assert all(guest.left for guest in testbed._shells.values())


@pytest.fixture
def logs_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the command line from sending the logs of all tests to a stderr that goes away."""
    monkeypatch.setattr("stuntime.logs.configure", lambda *, verbose: None)


RUN = ("run", "net.from-static-node.static.ipv4", "--testbed", "ssh")
GUESTS = (
    "--static",
    "guest",
    "--static-address",
    "192.0.2.1",
    "--migrated",
    "talks",
    "--migrated-address",
    "192.0.2.2",
)
NODES = ("--source", "a", "--target", "b")


@pytest.mark.usefixtures("logs_as_they_are")
@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((*RUN,), "missing: --static, --static-address, --migrated, --migrated-address"),
        ((*RUN, *GUESTS), "nothing is said that migrates the VM"),
        ((*RUN, *GUESTS, "--by-hand"), "--by-hand needs a terminal"),
        ((*RUN, *GUESTS, "--by-hand", "--migrate-command", "true"), "started by hand or by a command"),
        ((*RUN, *GUESTS, "--migrate-command", "m {target}"), "no nodes are named"),
        ((*RUN, *GUESTS, *NODES, "--migrate-command", "m", "--static-node", "b"), "the static VM is on a, not on b"),
        ((*RUN, *GUESTS, "--source", "a", "--target", "a", "--migrate-command", "m"), "not the path from-static-node"),
        ((*RUN, *GUESTS, "--migrate-command", "m", "--capture"), "nothing is said that takes a capture"),
        ((*RUN, *GUESTS[:4], "--migrated", "guest", *GUESTS[6:], "--migrate-command", "m"), "given as both guests"),
        ((*RUN, *GUESTS, "--migrate-command", "m 'x"), "No closing quotation"),
        ((RUN[0], RUN[1].replace("ipv4", "ipv6"), *RUN[2:], *GUESTS, "--migrate-command", "m"), "ipv6 address"),
        (("suite", "--testbed", "ssh"), "name them, the guests and the nodes in an --inventory"),
        (("suite", "--by-hand"), "the testbed sandbox knows no --by-hand"),
    ],
)
def test_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, argv: tuple[str, ...], says: str
) -> None:
    """What does not fit together is told in two lines, with exit code 2, before anything is made."""
    monkeypatch.chdir(tmp_path)
    with Path("/dev/null").open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert main(argv) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("logs_as_they_are")
def test_the_same_host_under_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """One guest under two names is found out by what it says of itself, and the run is not fit."""
    fake_ssh.install(tmp_path, monkeypatch)
    output = tmp_path / "output"
    assert main((*RUN, *GUESTS, "--migrate-command", "true", "--output", str(output))) == 3
    assert "guest and talks are the same guest" in capsys.readouterr().err


INVENTORY = """\
guests:
  static: {ssh: vm-s, node: a}
  migrated: {ssh: vm-m}
nodes: {a: , b: }
networks:
  vlan-20: {static: 192.0.2.1, migrated: 192.0.2.2}
  six: {static: "2001:db8::1", migrated: "2001:db8::2"}
"""


@pytest.mark.usefixtures("logs_as_they_are")
def test_what_an_inventory_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A suite is offered what the inventory has networks, families and nodes for, and nothing else."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "inventory.yaml"
    file.write_text(INVENTORY)
    suite = ("suite", "--testbed", "ssh", "--inventory", str(file))
    for argv, says in (
        (("--network", "linux-bridge"), "there is no network linux-bridge"),
        (("vlan-20.between-other-nodes.*",), "matches no scenario"),
        (("--path", "between-other-nodes"), "no scenario is left"),
        (("vlan-20.*.ipv6",), "matches no scenario"),
        (("--network", "six", "--ip-family", "ipv4"), "no scenario is left"),
        ((), "nothing is said that migrates the VM"),
        (("six.*",), "nothing is said that migrates the VM"),
        (("--static", "x"), "an inventory says it all; not with --static"),
    ):
        assert main((*suite, *argv)) == 2
        assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["inventory.yaml"]
