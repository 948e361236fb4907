"""Fixtures of the tests that run real migrations on this machine."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.sandbox.harness import Commands

_COMMANDS = pytest.StashKey[Commands]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_COMMANDS] = Commands(Path)


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Commands:
    """Start commands; what ran, and for how long, is told at the end."""
    base, numbers = tmp_path_factory.mktemp("commands"), count(1)

    def new_folder() -> Path:
        folder = base / str(next(numbers))
        folder.mkdir()
        return folder

    made = Commands(new_folder)
    request.config.stash[_COMMANDS] = made
    return made


@pytest.fixture(autouse=True)
def nothing_left(commands: Commands) -> Iterator[None]:
    """Fail a test that leaves a process, link, namespace, mount or file behind; end its commands if it failed."""
    with commands.leaving_nothing():
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    notes = config.stash[_COMMANDS].notes
    if notes:
        terminalreporter.section("what ran, and for how long")
    for note in notes:
        terminalreporter.write_line(note)
