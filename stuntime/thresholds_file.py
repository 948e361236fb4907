"""The thresholds file: what a lab or a product asks for, by a person, in YAML. All numbers are seconds but `factor`.

    global:
      threshold: 5         # where neither an entry below nor a baseline says anything
      factor: 4            # from a baseline: max(floor, min(largest x factor, ceiling))
      floor: 0.5
      ceiling: 5
    networks:
      ovn-localnet:
        ceiling: 3
    scenarios:
      linux-bridge.from-static-node.static.ipv4:
        threshold: 1.5     # whatever a baseline says

The first that says something counts: the scenario, its network, the baseline, `global`, 5 s.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from stuntime.errors import UsageError
from stuntime.scenario import NETWORKS, Scenario
from stuntime.threshold import DEFAULT_CEILING_S, DEFAULT_FLOOR_S, Entry, Thresholds
from stuntime.yaml_file import Value, read_yaml

_PARTS = ("global", "networks", "scenarios")
_NUMBERS = ("threshold", "factor", "floor", "ceiling")
#: Nobody means more: a VM that is silent for an hour has not been migrated, and a factor of a thousand checks nothing.
_LARGEST_S, _LARGEST_FACTOR = 3600.0, 1000.0


@dataclass(frozen=True)
class ThresholdsFile:
    """The thresholds, and where each network and scenario was named that this tool does not have built in."""

    thresholds: Thresholds = field(default_factory=Thresholds)
    named: dict[str, str] = field(default_factory=dict)

    def require_used(self, scenarios: Iterable[Scenario]) -> None:
        """Raise UsageError when an entry is for a network that none of the scenarios is of: it is misspelt."""
        networks = {scenario.network for scenario in scenarios} | set(NETWORKS)
        for network, where in self.named.items():
            if network not in networks:
                raise UsageError(
                    f"{where}: there is no scenario of the network {network!r}",
                    f"known are {', '.join(sorted(networks))}",
                )


def read_thresholds(path: Path) -> ThresholdsFile:
    """Return what a thresholds file says; raise UsageError, with the line, when it says something that cannot be."""
    parts = read_yaml(path).mapping("a thresholds file", _PARTS)
    if not parts:
        raise UsageError(f"{path}:1: the file says nothing", "leave --thresholds out if nothing is to be said")
    everywhere = _entry(parts["global"], "global", Entry(), alone=False) if "global" in parts else Entry()
    named: dict[str, str] = {}
    networks: dict[str, Entry] = {}
    scenarios: dict[str, Entry] = {}
    for name, value in (parts["networks"].mapping("networks") if "networks" in parts else {}).items():
        _parsed(f"{name}.from-static-node.static.ipv4", value.where)
        networks[name] = _entry(value, name, everywhere)
        named.setdefault(name, value.where)
    for name, value in (parts["scenarios"].mapping("scenarios") if "scenarios" in parts else {}).items():
        network = _parsed(name, value.where).network
        scenarios[name] = _entry(value, name, _over(networks.get(network, Entry()), everywhere))
        named.setdefault(network, value.where)
    return ThresholdsFile(Thresholds(everywhere, networks, scenarios), named)


def _parsed(name: str, where: str) -> Scenario:
    try:
        return Scenario.parse(name)
    except UsageError as error:
        raise UsageError(f"{where}: {error}", error.way_out) from error


def _over(narrow: Entry, wide: Entry) -> Entry:
    """Return what holds where the narrow entry leaves something open."""
    return Entry(
        floor=wide.floor if narrow.floor is None else narrow.floor,
        ceiling=wide.ceiling if narrow.ceiling is None else narrow.ceiling,
    )


def _entry(value: Value, name: str, wider: Entry, *, alone: bool = True) -> Entry:
    """Return an entry; with `alone` a threshold stands alone in it, since it makes the other numbers void."""
    numbers = {key: _number(key, found) for key, found in value.mapping(name, _NUMBERS).items()}
    if not numbers:
        raise UsageError(f"{value.where}: {name} says nothing", f"give it one of {', '.join(_NUMBERS)}")
    others = [key for key in numbers if key != "threshold"]
    if alone and others and "threshold" in numbers:
        raise UsageError(
            f"{value.where}: {name} gives a threshold and also {', '.join(others)}",
            "a threshold counts whatever the baseline says: give one or the other",
        )
    entry = Entry(**numbers)
    whole = _over(entry, wider)
    floor = DEFAULT_FLOOR_S if whole.floor is None else whole.floor
    ceiling = DEFAULT_CEILING_S if whole.ceiling is None else whole.ceiling
    if floor > ceiling:
        raise UsageError(
            f"{value.where}: in {name} the floor, {floor:g} s, is above the ceiling, {ceiling:g} s",
            "lower the floor or raise the ceiling",
        )
    return entry


def _number(key: str, value: Value) -> float:
    number, where = value.content, value.where
    if not isinstance(number, float):
        shown = "nothing" if number is None else "a mapping" if isinstance(number, dict) else repr(number)
        raise UsageError(
            f"{where}: {key} is {shown}, not a number", f"write a plain number, `{key}: 0.5`; {_unit(key)}"
        )
    least, most = (1.0, _LARGEST_FACTOR) if key == "factor" else (0.0, _LARGEST_S)
    fits = isfinite(number) and least <= number <= most and (number > 0 or key == "floor")
    if not fits:
        raise UsageError(f"{where}: {key} cannot be {number:g}", f"give one from {least:g} to {most:g}; {_unit(key)}")
    return number


def _unit(key: str) -> str:
    return "it is how many times the baseline's largest value passes" if key == "factor" else "it is in seconds"
