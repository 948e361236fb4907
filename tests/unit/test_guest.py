"""The shell on a console, with a real shell behind a real pseudo terminal."""

import os
import random
import shutil
from pathlib import Path

import pexpect
import pytest

from stuntime.errors import TestbedError
from stuntime.guest import ConsoleShell, GuestCommandError, Login


class Terminal:
    """Shells on pseudo terminals; `die_in` ends the current one while a command runs."""

    def __init__(self) -> None:
        self.spawned: list[pexpect.spawn] = []

    def connect(self, timeout_s: float) -> pexpect.spawn:
        environment = {"PATH": os.environ["PATH"], "PS1": "\x1b]0;title\x07[\x1b[32mguest\x1b[0m]# ", "TERM": "xterm"}
        shell = shutil.which("bash") or "/bin/sh"
        arguments = ["--norc", "-i"] if shell.endswith("bash") else ["-i"]
        self.spawned.append(pexpect.spawn(shell, arguments, env=environment, timeout=timeout_s, maxread=65536))
        return self.spawned[-1]


@pytest.fixture
def terminal():
    opened = Terminal()
    yield opened
    for console in opened.spawned:
        console.close(force=True)


@pytest.fixture
def shell(terminal: Terminal) -> ConsoleShell:
    return ConsoleShell("guest", terminal.connect)


def test_output_is_what_the_command_printed(shell: ConsoleShell) -> None:
    """Prompts, echoes and escape sequences are no output, also when it does not end with a newline."""
    assert shell.run("echo one; printf two") == "one\ntwo"
    assert shell.run("true") == ""


def test_a_command_that_fails_tells_its_status(shell: ConsoleShell) -> None:
    """A status other than 0 is an error with the last line that was printed."""
    with pytest.raises(GuestCommandError, match="ended with status 3: gone wrong") as failed:
        shell.run("echo gone wrong; (exit 3)")
    assert failed.value.status == 3


def test_a_silent_console_is_told(shell: ConsoleShell) -> None:
    """A command that does not end is an error after its deadline, and the shell can be used again."""
    with pytest.raises(TestbedError, match="did not answer within") as silent:
        shell.run("sleep 60", timeout_s=0.5)
    assert silent.value.reason == "console-silent"
    assert shell.run("echo back") == "back"


def test_a_dropped_console_is_connected_again(terminal: Terminal, shell: ConsoleShell) -> None:
    """A console that drops, at rest or under a command, costs a connection and nothing else."""
    assert shell.run("echo one") == "one"
    terminal.spawned[-1].kill(9)
    assert shell.run("echo two") == "two"
    assert len(terminal.spawned) == 2


def test_a_drop_under_a_command_runs_it_again(tmp_path: Path, terminal: Terminal, shell: ConsoleShell) -> None:
    """What dropped half-way is run again within the same deadline."""
    first = tmp_path / "first"
    assert shell.run(f"[ -e {first} ] || {{ touch {first}; kill -9 $$; }}; echo done") == "done"
    assert len(terminal.spawned) == 2


@pytest.mark.parametrize("size", [0, 1, 699, 700, 24_000, 150_000])
def test_files_travel_intact(tmp_path: Path, shell: ConsoleShell, size: int) -> None:
    """Any content of any size arrives as it was, in both directions, and nothing else is left in the guest."""
    content, path = random.Random(size).randbytes(size), tmp_path / "with space"
    shell.write(str(path), content)
    assert path.read_bytes() == content
    assert shell.read(str(path)) == content
    assert [file.name for file in tmp_path.iterdir()] == ["with space"]


def test_a_torn_file_is_refused(tmp_path: Path, shell: ConsoleShell) -> None:
    """A file whose digest differs on the other side is an error, not evidence."""
    (tmp_path / "gzip").write_text("#!/bin/sh\nexec /usr/bin/env -i PATH=/usr/bin:/bin gzip -c /dev/null\n")
    (tmp_path / "gzip").chmod(0o755)
    (tmp_path / "log").write_text("a log")
    shell.run(f"PATH={tmp_path}:$PATH")
    with pytest.raises(TestbedError) as torn:
        shell.read(str(tmp_path / "log"))
    assert torn.value.reason == "console-torn"


_GETTY = """
printf 'Booting...\\r\\nLast failed login: never\\r\\n'; sleep 0.2
while :; do
    printf 'guest login: '; read -r name; [ -n "$name" ] || continue
    stty -echo; printf 'Password: '; read -r password; stty echo; printf '\\r\\n'
    tries=$((tries + 1))
    [ "$name $password" = 'root right' ] && [ "$tries" -ge "$FROM" ] && break
    printf 'Login incorrect\\r\\n\\r\\n'
done
exec /bin/bash --norc -i
"""


class Getty(Terminal):
    """Terminals on which a login prompt waits first; the password is right from a certain try on."""

    def __init__(self, from_try: int) -> None:
        super().__init__()
        self.environment = {"PATH": os.environ["PATH"], "PS1": "root@guest:~# ", "FROM": str(from_try)}

    def connect(self, timeout_s: float) -> pexpect.spawn:
        self.spawned.append(pexpect.spawn("/bin/sh", ["-c", _GETTY], env=self.environment, timeout=timeout_s))
        return self.spawned[-1]


@pytest.mark.parametrize("from_try", [1, 2])
def test_a_login_prompt_is_answered(from_try: int) -> None:
    """A guest that asks for a name and a password gets them, again if its password was not set yet."""
    getty = Getty(from_try)
    try:
        shell = ConsoleShell("guest", getty.connect, Login("guest", "root", "right"))
        assert shell.run("echo in") == "in"
    finally:
        getty.spawned[-1].close(force=True)


def test_a_refused_login_is_told_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that lets nobody in is an error that tells how often, and never the password."""
    getty = Getty(1)
    login = Login("guest", "root", "wrong")
    try:
        with pytest.raises(TestbedError) as refused:
            ConsoleShell("guest", getty.connect, login).run("echo in", timeout_s=1.5)
    finally:
        getty.spawned[-1].close(force=True)
    assert refused.value.reason == "guest-login-refused"
    assert "wrong" not in str(refused.value) + repr(login)
