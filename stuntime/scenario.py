"""The words: what can be measured, and how it is called.

A scenario is network x path x initiator x ip family. Its id, `linux-bridge.from-static-node.static.ipv4`, is
stable for ever: the history of every published number hangs on it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product

from stuntime.errors import UsageError

NETWORKS = ("linux-bridge", "ovn-localnet")
PATHS = ("from-static-node", "between-other-nodes", "to-static-node")
INITIATORS = ("static", "migrated")
IP_FAMILIES = ("ipv4", "ipv6")

_NETWORK_NAME = re.compile(r"[a-z0-9-]+")


@dataclass(frozen=True)
class Scenario:
    """One way a migration can run. `path` is seen from the static VM's node; `initiator` is the VM that pings."""

    network: str
    path: str
    initiator: str
    ip_family: str

    def __post_init__(self) -> None:
        """Raise UsageError when a part is not a known word (a network may have any name of [a-z0-9-]+)."""
        if not _NETWORK_NAME.fullmatch(self.network):
            raise UsageError(f"{self.network!r} is no name of a network", "use small letters, digits and hyphens")
        for part, value, known in (
            ("path", self.path, PATHS),
            ("initiator", self.initiator, INITIATORS),
            ("ip family", self.ip_family, IP_FAMILIES),
        ):
            if value not in known:
                raise UsageError(f"{value!r} is no {part}", f"known are {', '.join(known)}")

    @property
    def id(self) -> str:
        """The stable id: network.path.initiator.family."""
        return f"{self.network}.{self.path}.{self.initiator}.{self.ip_family}"

    @classmethod
    def parse(cls, text: str) -> "Scenario":
        """Return the scenario of an id; raise UsageError when it is none."""
        parts = text.split(".")
        if len(parts) != 4:  # noqa: PLR2004 - the four words of an id
            raise UsageError(
                f"{text!r} is no scenario id",
                "it has the form network.path.initiator.family; `stuntime scenarios` lists them",
            )
        return cls(*parts)


def scenarios(
    networks: Iterable[str] = NETWORKS,
    paths: Iterable[str] = PATHS,
    initiators: Iterable[str] = INITIATORS,
    ip_families: Iterable[str] = IP_FAMILIES[:1],
) -> list[Scenario]:
    """Return the scenarios of all combinations, in the order in which they are measured.

    Networks are waves. Inside one, the three paths form a circle (A to B, B to C, C to A with the static VM on A), so
    that each scenario ends where the next begins and no unmeasured migration is needed.
    """
    return [Scenario(n, p, i, f) for n, f, i, p in product(networks, ip_families, initiators, paths)]


def measuring_order(selected: Iterable[Scenario]) -> list[Scenario]:
    """Return the scenarios in the order of `scenarios()`; networks in the order in which they first appear."""
    listed = list(selected)
    waves = list(dict.fromkeys(scenario.network for scenario in listed))
    return sorted(
        listed,
        key=lambda s: (
            waves.index(s.network),
            IP_FAMILIES.index(s.ip_family),
            INITIATORS.index(s.initiator),
            PATHS.index(s.path),
        ),
    )


def select(selection: str, known: Sequence[Scenario]) -> list[Scenario]:
    """Return the scenarios of `known` that a selection names: a comma list of ids in which `*` stands for anything.

    The order is that of `known`. Raise UsageError when an item matches none of them.
    """
    patterns = [item.strip() for item in selection.split(",") if item.strip()]
    if not patterns:
        raise UsageError("the selection is empty", "name at least one scenario id; `stuntime scenarios` lists them")
    for pattern in patterns:
        if not any(_matches(scenario.id, pattern) for scenario in known):
            raise UsageError(
                f"{pattern!r} matches no scenario", "`stuntime scenarios` lists the ids; `*` may stand in them"
            )
    return [scenario for scenario in known if any(_matches(scenario.id, pattern) for pattern in patterns)]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern.replace("[", "[[]").replace("?", "[?]"))
