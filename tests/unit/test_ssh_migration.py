"""Migrations by command and by hand: what counts as an end, and what is told of one that does not come."""

import os
import pty
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stuntime import cli_person
from stuntime.errors import MigrationError, TestbedError, UsageError
from stuntime.ssh.command import Template
from stuntime.ssh.migration import Answer, Arrived, ByCommand, ByHand, Mover


class Sitter:
    """A person who gives answers that were thought of before."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.told: list[str] = []

    def tell(self, text: str) -> None:
        self.told.append(text)

    def answer(self, timeout_s: float) -> Answer:
        if self.answers:
            return self.answers.pop(0)
        time.sleep(timeout_s)
        return Answer.NOTHING_YET


def moved(mover: Mover, arrived: Arrived = None, limit_s: float = 0.3):
    started: list[float] = []
    found = mover.move("a", "b", time.monotonic() + limit_s, arrived, lambda: started.append(time.monotonic()))
    assert len(started) == 1
    return found


def looks(*answers: bool) -> Arrived:
    left = list(answers)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_a_command_that_ends_well(tmp_path: Path) -> None:
    """A command gets the nodes; its end is the migration's, and the verification vouches for it."""
    found = moved(ByCommand(Template.parse(f"touch {tmp_path}/{{source}}-{{target}}")), looks(True), 5)
    assert (tmp_path / "a-b").exists()
    assert found.proven
    assert found.ended <= time.monotonic()
    assert found.configuration["program"] == "touch"


def test_a_command_alone_proves_nothing() -> None:
    """Without a verification a command's word is believed, and does not vouch for a migration that nobody noticed."""
    assert not moved(ByCommand(Template.parse("true")), None, 5).proven


def test_a_command_that_does_not_wait() -> None:
    """A command that only asks for the migration is waited for by the verification, whose look is the end."""
    begun = time.monotonic()
    found = moved(ByCommand(Template.parse("true")), looks(False, True), 5)
    assert found.ended - begun >= 1


@pytest.mark.parametrize(
    ("command", "limit_s", "reason", "says"),
    [
        ("sh -c 'echo no such VM >&2; exit 255'", 5, "migration-failed", "ended with status 255: no such VM"),
        ("sleep 60", 0.3, "migration-timeout", "did not end within 0.3 s"),
        ("true", 0.3, "migration-elsewhere", "ended well, and the VM is still on a, not on b"),
    ],
)
def test_a_command_that_fails_hangs_or_lies(command: str, limit_s: float, reason: str, says: str) -> None:
    """A command that fails, hangs, or says that it is done when it is not, is a migration that failed."""
    with pytest.raises(MigrationError) as caught:
        moved(ByCommand(Template.parse(command)), looks(False), limit_s)
    assert caught.value.reason == reason
    assert says in str(caught.value)


def test_by_hand_it_says_when_to_start_and_asks_for_the_end() -> None:
    """A person is told when to start, and the confirmed end is the migration's."""
    person = Sitter(Answer.NOTHING_YET, Answer.YES)
    found = moved(ByHand(person), None, 5)
    assert "NOW start the live migration from a to b" in person.told[0]
    assert found.proven
    assert found.ended is not None


@pytest.mark.parametrize("answers", [(), (Answer.GONE,)])
def test_by_hand_without_an_end(answers: tuple[Answer, ...]) -> None:
    """Neither confirmed in time nor verified, a migration by hand has no known end and nothing vouches for it."""
    found = moved(ByHand(Sitter(*answers)))
    assert (found.ended, found.proven) == (None, False)


def test_by_hand_it_failed() -> None:
    """A person may say that it failed, with a verification or without."""
    for arrived in (None, looks(False)):
        with pytest.raises(MigrationError, match="says who started it"):
            moved(ByHand(Sitter(Answer.NO)), arrived, 5)


def test_by_hand_the_verification_sees_it() -> None:
    """Where a verification sees the VM arrive, nobody has to confirm it."""
    assert moved(ByHand(Sitter(Answer.GONE)), looks(False, False, True), 5).proven


@pytest.mark.parametrize("answers", [(), (Answer.YES,), (Answer.GONE,)])
def test_by_hand_the_migration_never_comes(answers: tuple[Answer, ...]) -> None:
    """A migration that the verification does not see in time is one that never came, whoever says that it did."""
    with pytest.raises(MigrationError, match="no migration brought the VM from a to b") as caught:
        moved(ByHand(Sitter(*answers)), looks(False))
    assert caught.value.reason == "migration-timeout"


def test_by_hand_the_start_is_asked_for() -> None:
    """Where nothing verifies it, a person says that the VM is at its start, or nothing is measured."""
    person = Sitter(Answer.YES)
    ByHand(person).begin("a", time.monotonic() + 1)
    assert "has to be on a now" in person.told[0]
    for answers in ((), (Answer.NO,), (Answer.GONE,)):
        with pytest.raises(TestbedError, match="nobody said that the VM is on a"):
            ByHand(Sitter(*answers)).begin("a", time.monotonic() + 0.2)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Hold a terminal that is stdin; return the side of who types."""
    typing, ours = pty.openpty()
    with os.fdopen(ours) as stdin:
        monkeypatch.setattr(cli_person.sys, "stdin", stdin)
        yield typing
    os.close(typing)


def test_somebody_at_a_terminal(terminal: int, capsys: pytest.CaptureFixture) -> None:
    """What was typed before a question is no answer to it; Enter is yes, `no` is no, and silence is neither."""
    person = cli_person.TerminalPerson()
    os.write(terminal, b"too early\n")
    time.sleep(0.1)
    person.tell("NOW")
    assert "NOW" in capsys.readouterr().err
    assert person.answer(0.1) is Answer.NOTHING_YET
    for typed, answer in ((b"\n", Answer.YES), (b"No\n", Answer.NO), (b"done\n", Answer.YES), (b"\x04", Answer.GONE)):
        os.write(terminal, typed)
        assert person.answer(2) is answer


def test_nobody_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand without a terminal is wrong usage."""
    with Path("/dev/null").open() as nothing:
        monkeypatch.setattr(cli_person.sys, "stdin", nothing)
        with pytest.raises(UsageError, match="needs a terminal"):
            cli_person.TerminalPerson()
