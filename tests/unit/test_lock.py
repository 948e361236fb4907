"""The image's packages: the lock against pyproject.toml."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
_DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
_LOCKED = re.compile(r"(?P<name>\S+)==(?P<version>\S+)(?: ; [^\\]+?)? \\\n(?P<hashes>(?:    --hash=.*\n)+)")


def _locked() -> dict[str, re.Match[str]]:
    text = "".join(
        line for line in (ROOT / "image" / "requirements.lock").read_text().splitlines(keepends=True) if line[0] != "#"
    )
    entries = re.split(r"\n(?=\S)", text)
    found = {}
    for entry in entries:
        match = _LOCKED.match(entry.rstrip("\n") + "\n")
        assert match, f"this is no locked requirement: {entry}"
        found[canonicalize_name(match["name"])] = match
    return found


def test_the_lock_holds_what_pyproject_asks_for():
    """Each dependency is locked in a version that pyproject.toml allows; otherwise `make lock` has been forgotten."""
    locked = _locked()
    for requirement in map(Requirement, _DEPENDENCIES):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]["version"]), requirement


def test_the_lock_holds_nothing_else():
    """Each locked package is needed by a dependency, or by what that needs."""
    needed: set[str] = set()
    waiting = list(map(Requirement, _DEPENDENCIES))
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in needed:
            continue
        needed.add(name)
        try:
            asked = map(Requirement, requires(name) or [])
        except PackageNotFoundError:
            continue  # another system's
        waiting += [one for one in asked if not (one.marker and "extra" in str(one.marker))]
    assert set(_locked()) <= needed


def test_every_locked_file_is_known_by_its_digest():
    """Each entry of the lock has at least one SHA-256, and no other kind of digest."""
    for name, match in _locked().items():
        hashes = re.findall(r"--hash=(\S+)", match["hashes"])
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), name
