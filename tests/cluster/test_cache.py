"""What is built once: these tests need no cluster."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.cache import kept


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have a cache of the test's own; return the list of what was made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return []


def _maker(made: list[str], content: str) -> Callable[[Path], None]:
    def make(target: Path) -> None:
        made.append(content)
        (target / "program").write_text(content)

    return make


def test_the_same_inputs_are_made_once(made: list[str]) -> None:
    """What was made from the same inputs is found again."""
    first = kept("part", {"a": "1", "b": "2"}, _maker(made, "one"))
    again = kept("part", {"b": "2", "a": "1"}, _maker(made, "two"))
    assert (again, made) == (first, ["one"])


def test_other_inputs_replace_the_old(made: list[str]) -> None:
    """Other inputs are made anew, and what the old ones had made goes; parts with longer names are left alone."""
    longer = kept("part-b", {"a": "1"}, _maker(made, "longer"))
    old = kept("part", {"a": "1"}, _maker(made, "old"))
    new = kept("part", {"a": "2"}, _maker(made, "new"))
    assert (old.exists(), longer.exists(), (new / "program").read_text()) == (False, True, "new")


def test_what_fails_is_made_again(made: list[str]) -> None:
    """A build that failed leaves nothing that would be taken for its result, and its remains go with the next."""

    def fail(target: Path) -> None:
        (target / "half").touch()
        raise RuntimeError

    with pytest.raises(RuntimeError):
        kept("part", {}, fail)
    home = kept("part", {}, _maker(made, "whole"))
    assert [path.name for path in home.parent.glob("part-*")] == [home.name]
    assert (home / "program").read_text() == "whole"
