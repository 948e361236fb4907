"""What goes wrong on a platform of others, with real guests, real ssh and real migrations."""

import json
from pathlib import Path

import pytest

from stuntime.result import ErrorRecord, Result
from tests.sandbox.harness import Commands, agree, results
from tests.ssh.inventories import PLATFORM, inventory
from tests.ssh.session import MIGRATED, STATIC

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def session(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Go through all faults on one platform; return the folder of what they left to read."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "inventory.yaml").write_text(inventory("linux-bridge"))
    with commands.leaving_nothing():
        finished = commands.run(
            *PLATFORM, "linux-bridge", str(folder), PLATFORM[0], "-m", "tests.ssh.session", str(folder)
        )
    assert finished.code == 0, finished.stderr
    return folder


def left(session: Path, name: str) -> dict:
    found = json.loads((session / f"{name}.json").read_text())
    assert "Traceback" not in found["stderr"]
    return found


def result(session: Path, name: str, scenario: str = STATIC) -> Result:
    return results(session / name)[scenario]


def error(session: Path, name: str, scenario: str = STATIC) -> ErrorRecord:
    found = result(session, name, scenario).error
    assert found is not None, left(session, name)
    return found


@pytest.mark.parametrize(
    ("name", "scenario", "reason", "code", "says", "way_out"),
    [
        ("host-key", STATIC, "host-key-unknown", 3, "Host key verification failed", "compare the key"),
        ("denied", STATIC, "permission-denied", 3, "Permission denied", "agent"),
        ("no-ping", STATIC, "ping-missing", 3, "no iputils ping", "iputils"),
        ("no-python-migrated", MIGRATED, "observer-missing", 3, "observer", "python3"),
        ("fails", STATIC, "migration-failed", 5, "status 9: quota exceeded", "platform"),
        ("hangs", STATIC, "migration-timeout", 5, "did not end within 2 s", "platform"),
        ("lies", STATIC, "migration-elsewhere", 5, "from node-a to node-c, not to node-b", "heeds {target}"),
        ("does-nothing", STATIC, "migration-elsewhere", 5, "still on node-a", "verify command"),
        ("by-hand-never", STATIC, "migration-timeout", 5, "no migration brought the VM", "--migration-timeout"),
        ("by-hand-unverified", STATIC, "migration-unproven", 4, "there was no outage", "--verify-command"),
    ],
)
def test_what_is_told(session: Path, name: str, scenario: str, reason: str, code: int, says: str, way_out: str) -> None:
    """Each fault is an error of its own, with its exit code, what happened and what to do."""
    told = error(session, name, scenario)
    assert (told.reason, told.exit_code) == (reason, code), told
    assert says in told.message
    assert way_out in told.way_out
    assert left(session, name)["code"] == code


def test_no_number_where_nothing_shows_a_migration(session: Path) -> None:
    """By hand with neither a verification nor a confirmed end, no outage is invalid, and no 0 stands anywhere."""
    measured = result(session, "by-hand-unverified").measurement
    assert measured is not None
    assert measured.stuntime_s is None


def test_a_static_initiator_needs_no_observer(session: Path) -> None:
    """A guest without python3 is measured where the static VM pings, and agrees with the packets."""
    found = result(session, "no-python-static")
    assert found.valid, found
    assert agree(found)


def test_the_connection_dies_at_the_hand_over(session: Path) -> None:
    """A connection to the migrated VM that is cut costs nothing: its log is fetched by another one afterwards."""
    found = result(session, "cut", MIGRATED)
    assert found.valid, found
    assert agree(found)
    assert "ssh.dropped" in left(session, "cut")["stderr"]


def test_by_hand(session: Path) -> None:
    """A migration by hand, started when it says so, is measured like any other."""
    found = result(session, "by-hand")
    assert found.valid, (found, left(session, "by-hand"))
    assert found.migration is not None
    assert found.migration.mode == "by-hand"


def test_interrupted(session: Path) -> None:
    """An interrupted run leaves neither a process nor a file in the guests."""
    told = left(session, "interrupted")
    assert told["code"] == 130
    inside = json.loads(told["stdout"])
    assert "/tmp/stuntime-" in inside["busy"]
    assert not inside["left"].strip()
