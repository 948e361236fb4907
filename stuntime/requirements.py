"""Which requirement the scenarios prove, and which test cases they are elsewhere: the file requirements.yaml."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from stuntime.errors import UsageError
from stuntime.scenario import Scenario
from stuntime.yaml_file import Value, read_yaml

BUILT_IN = Path(__file__).with_name("requirements.yaml")
_WORD = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Requirements:
    """What a reader of the JUnit file asks for; `cases` are the ids of test cases by scenario id."""

    requirement: str | None = None
    tier: str | None = None
    priority: str | None = None
    cases: dict[str, str] = field(default_factory=dict)


def read_requirements(path: Path = BUILT_IN) -> Requirements:
    """Return what the file says; raise UsageError, with the line, when it says something that cannot be."""
    parts = read_yaml(path).mapping("a requirements file", ("requirement", "tier", "priority", "cases"))
    cases: dict[str, str] = {}
    for name, value in (parts["cases"].mapping("cases") if "cases" in parts else {}).items():
        try:
            Scenario.parse(name)
        except UsageError as error:
            raise UsageError(f"{value.where}: {error}", error.way_out) from error
        case = _word(name, value)
        if case in cases.values():
            raise UsageError(f"{value.where}: {case} is the case of two scenarios", "give each its own")
        cases[name] = case
    words = {name: _word(name, value) for name, value in parts.items() if name != "cases"}
    return Requirements(cases=cases, **words)


def _word(name: str, value: Value) -> str:
    content = f"{value.content:g}" if isinstance(value.content, float) else value.content
    if not isinstance(content, str) or not _WORD.fullmatch(content):
        raise UsageError(f"{value.where}: {name} is no word of letters, digits and hyphens", f"write `{name}: CNV-1`")
    return content
