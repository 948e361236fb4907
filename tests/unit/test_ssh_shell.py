"""A shell over ssh, by a program `ssh` that reaches this machine (real ones: tests/ssh)."""

import os
import secrets
import time
from pathlib import Path

import pytest

from stuntime.errors import StuntimeError, TestbedError, UnfitError
from stuntime.guest import GuestCommandError
from stuntime.ssh.connection import Access, refusal
from stuntime.ssh.shell import SshShell
from tests.unit import fake_ssh


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the program; return the file of its calls."""
    return fake_ssh.install(tmp_path, monkeypatch)


@pytest.fixture
def shell(calls: Path):
    """Hold a shell."""
    made = SshShell(Access("guest"))
    yield made
    made.leave()


def test_output_status_and_errors(shell: SshShell) -> None:
    """A command's output, errors among it, comes whole, and a status that is not 0 is an error with it."""
    assert shell.run("echo out; echo err >&2; printf last") == "out\nerr\nlast"
    assert shell.run("cat") == ""
    assert shell.run("cd /; exit 0") == ""
    with pytest.raises(GuestCommandError) as caught:
        shell.run("echo so; exit 7")
    assert (caught.value.status, caught.value.output) == (7, "so")
    assert shell.run("echo $LC_ALL") == "C"


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_files_come_and_go_intact(shell: SshShell, tmp_path: Path, size: int) -> None:
    """A file of any bytes is the same after it was written into the guest and read from it."""
    content = b"\nSTUNTIME-END 0\n\0" + secrets.token_bytes(size) if size else b""
    path = str(tmp_path / "a file")
    shell.write(path, content)
    assert Path(path).read_bytes() == content
    assert shell.read(path) == content


def test_one_connection_serves_all(shell: SshShell, calls: Path) -> None:
    """Commands share one connection, made without asking anybody anything and without anything of the user's."""
    for _ in range(5):
        shell.run("true")
    lines = calls.read_text().splitlines()
    assert len(lines) == 1
    for option in ("BatchMode=yes", "ControlPath=none", "ClearAllForwardings=yes", "-- guest "):
        assert option in lines[0]


def test_a_dropped_connection_is_made_again(shell: SshShell, calls: Path, tmp_path: Path) -> None:
    """A connection that dies under a command is made again within its deadline, and the command is run again."""
    told = shell.run(f"[ -e {tmp_path}/once ] || {{ : > {tmp_path}/once; kill -KILL $$; }}; echo here")
    assert told == "here"
    assert len(calls.read_text().splitlines()) == 2


def test_what_runs_in_the_guest_outlives_the_connection(shell: SshShell, tmp_path: Path) -> None:
    """A process that was started in the background goes on when the connection is gone."""
    shell.run(f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 60' > {tmp_path}/out 2>&1 < /dev/null &")
    shell.disconnect()
    pid = int(shell.run(f"while ! [ -s {tmp_path}/pid ]; do sleep 0.01; done; cat {tmp_path}/pid"))
    os.kill(pid, 0)
    os.kill(pid, 15)


@pytest.mark.parametrize("host", ["mute", "refuses"])
def test_a_guest_out_of_reach(calls: Path, host: str) -> None:
    """A guest that cannot be reached is tried until the deadline, and then told with what ssh said."""
    shell, started = SshShell(Access(host)), time.monotonic()
    with pytest.raises(TestbedError) as caught:
        shell.run("true", timeout_s=1.5)
    assert caught.value.reason == "guest-unreachable"
    assert ("Connection refused" in str(caught.value)) == (host == "refuses")
    assert 1 <= time.monotonic() - started < 6
    assert (len(calls.read_text().splitlines()) > 1) == (host == "refuses")


def test_a_command_that_does_not_end(shell: SshShell) -> None:
    """A command that is not done in time is an error, and the next one gets its own answer."""
    with pytest.raises(TestbedError, match=r"did not answer over ssh within 0\.5 s"):
        shell.run("sleep 1; echo late", timeout_s=0.5)
    assert shell.run("echo next") == "next"


@pytest.mark.parametrize(
    ("host", "reason", "way_out"),
    [("unknown-key", "host-key-unknown", "compare the key"), ("denied", "permission-denied", "agent")],
)
def test_a_refusal_is_told_at_once(calls: Path, host: str, reason: str, way_out: str) -> None:
    """What trying again cannot mend is told at once, with the way out."""
    started = time.monotonic()
    with pytest.raises(UnfitError) as caught:
        SshShell(Access(host)).run("true", timeout_s=30)
    assert caught.value.reason == reason
    assert way_out in caught.value.way_out
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", "host-key-changed"),
        ("ssh: Could not resolve hostname vm: Name or service not known", "host-unknown"),
        (
            "/f: line 1: Bad configuration option: frob\n/f: terminating, 1 bad configuration options",
            "ssh-misconfigured",
        ),
        ("Can't open user config file /f: No such file or directory", "ssh-misconfigured"),
        ("Received disconnect from 192.0.2.1 port 22:2: Too many authentication failures", "permission-denied"),
        ("kex_exchange_identification: read: Connection reset by peer", None),
        ("ssh: connect to host vm port 22: Connection timed out", None),
        ("", None),
    ],
)
def test_what_is_a_refusal(said: str, reason: str | None) -> None:
    """What ssh says is a refusal only where trying again is in vain."""
    error = refusal(Access("vm"), 255, said, reached=False)
    assert (error.reason if error else None) == reason


def test_becoming_another_user(calls: Path) -> None:
    """The guest's shell is that of `become`; one that gives none is told with what it said."""
    shell = SshShell(Access("guest", become=("env", "BECAME=a b")))
    assert shell.run("echo $BECAME") == "a b"
    shell.leave()
    refused = SshShell(Access("guest", become=("sh", "-c", "echo 'sudo: a password is required' >&2; exit 1")))
    with pytest.raises(UnfitError, match="a password is required") as caught:
        refused.run("true")
    assert caught.value.reason == "become-refused"


def test_a_guest_that_greets(calls: Path) -> None:
    """What a guest's login says is no answer to a command, and the address it was reached by is known."""
    shell = SshShell(Access("talks"))
    assert shell.run("echo answer") == "answer"
    assert shell.over() == "192.0.2.1"
    shell.leave()


def test_leaving_ends_what_a_measurement_left(calls: Path) -> None:
    """A shell that is left ends the processes of the measurements it served, and removes their folders."""
    folder = Path(f"/tmp/stuntime-{secrets.token_hex(4)}")
    shell = SshShell(Access("guest"))
    shell.run(f"mkdir -p {folder}")
    shell.run(f"setsid sh -c 'echo $$ > {folder}/ping.pid; exec sleep 60' > {folder}/ping.out 2>&1 < /dev/null &")
    shell.run(f"while ! [ -s {folder}/ping.pid ]; do sleep 0.01; done")
    pid = int((folder / "ping.pid").read_text())
    shell.leave()
    assert not folder.exists()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_without_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without ssh is told what to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StuntimeError, match="ssh cannot be started") as caught:
        SshShell(Access("guest")).run("true")
    assert caught.value.reason == "program-missing"
