"""Commands of the user: what is replaced in them, and that they end."""

import time
from pathlib import Path

import pytest

from stuntime.errors import UnfitError, UsageError
from stuntime.ssh.command import CommandHangsError, Template, run_command


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("qm migrate 101 {target} --online", ["qm", "migrate", "101", "b", "--online"]),
        ("move --from={source} '{target}.lab local'", ["move", "--from=a", "b.lab local"]),
        ("move {target} {vm} {} ${source} {source}{target}", ["move", "b", "{vm}", "{}", "$a", "ab"]),
        ("move {target}; rm -rf $HOME", ["move", "b;", "rm", "-rf", "$HOME"]),
    ],
)
def test_the_nodes_are_replaced_and_nothing_else(text: str, argv: list[str]) -> None:
    """A command is an argument list in which `{source}` and `{target}` are replaced and nothing else."""
    assert Template.parse(text).argv("a", "b") == argv


def test_the_name_of_a_node_is_never_looked_into() -> None:
    """A node whose name looks like a place, or like a part of a shell's line, stays one word."""
    assert Template.parse("m {source} {target}").argv("{target}", "{source}") == ["m", "{target}", "{source}"]
    argv = Template.parse("printf '<%s>' {source} {target}", shell=True).argv("a b; echo x", "$HOME")  # noqa: S604 - asked for
    assert run_command(argv, "it", timeout_s=5).stdout == "<a b; echo x><$HOME>"


@pytest.mark.parametrize("text", ["", "  ", "move 'it"])
def test_what_is_no_command_is_refused(text: str) -> None:
    """A command that is empty, or whose quotes are open, is wrong usage."""
    with pytest.raises(UsageError):
        Template.parse(text)


def test_how_it_ended() -> None:
    """The status and the last line of errors, else of the output, are told."""
    told = run_command(["sh", "-c", "echo out; echo first >&2; echo no such VM >&2; exit 3"], "it", timeout_s=5)
    assert (told.status, told.stdout, told.last_words) == (3, "out\n", "no such VM")
    assert run_command(["true"], "it", timeout_s=5).last_words == "it says nothing"


def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    """After the deadline neither the command nor what it started runs, heed it signals or not."""
    script = f"trap '' TERM; sleep 600 & echo $! > {tmp_path}/pid; echo asked; wait; sleep 600"
    started = time.monotonic()
    with pytest.raises(CommandHangsError, match=r"did not end within 0\.5 s and was ended: asked"):
        run_command(["sh", "-c", script], "it", timeout_s=0.5)
    assert time.monotonic() - started < 10
    assert _ended(int((tmp_path / "pid").read_text()))


def _ended(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_a_command_that_leaves_something_running_has_ended(tmp_path: Path) -> None:
    """A command has ended when it has, though something it started keeps its output open."""
    started = time.monotonic()
    told = run_command(["sh", "-c", f"sleep 3 & echo $! > {tmp_path}/pid; echo done"], "it", timeout_s=10)
    assert told.stdout == "done\n"
    assert time.monotonic() - started < 2


def test_a_program_that_is_not_there() -> None:
    """A command whose program is missing is told before anything is measured by it."""
    with pytest.raises(UnfitError, match="cannot be started: No such file") as caught:
        run_command(["no-such-program-anywhere"], "the migrate command", timeout_s=5)
    assert caught.value.reason == "command-missing"
