"""Whether the numbers of two platforms mean the same: what each was measured on and how, side by side. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from stuntime.conditions import Conditions, NetworkConditions
from stuntime.result import Result

#: What is known of where and how a set of results was measured: each fact with all values that occur.
Surroundings = Mapping[str, Sequence[str]]

#: Facts in which two sets may differ only at the cost of comparing them, and that cost.
HARD = {
    "interval": "what is shorter than two probes is not seen, so the one with the longer interval sees less",
    "spacing": "a number is true to one spacing, and the two are not true to the same",
    "guest kernel": "its clock and its scheduler send the probes, and its network stack answers them",
    "capture": "only one was checked against the packets, and taking them costs a host time",
    "network type": "another kind of network hands a VM over in another way",
}
_ALIKE_SPACINGS = 1.1
_NAMES = (
    "platform", "testbed", "versions", "guest image", "guest kernel", "accelerator", "network type", "NIC", "interval",
    "spacing", "capture",
)  # fmt: skip


def of_results(results: Iterable[Result]) -> dict[str, tuple[str, ...]]:
    """Return where and how results were measured."""
    facts = [fact for result in results for fact in _facts_of(result)]
    spacings = [result.measurement.spacing_s for result in results if result.measurement]
    if spacings:
        facts.append(("spacing", f"{median(spacings):.3f} s"))
    return _gathered(facts)


def of_conditions(conditions: Iterable[Conditions], spacings_s: Sequence[float] = ()) -> dict[str, tuple[str, ...]]:
    """Return what the conditions of a set whose results are not at hand say of it."""
    facts = []
    for found in conditions:
        facts += [
            *_platform(found.testbed, found.cluster_id, found.product_versions, found.guest_image, found.accelerator),
            ("interval", f"{found.interval_s:g} s"),
        ]
        facts += _networks(found.networks.values())
    if spacings_s:
        facts.append(("spacing", f"{median(spacings_s):.3f} s"))
    return _gathered(facts)


def of_networks(networks: Iterable[NetworkConditions]) -> dict[str, tuple[str, ...]]:
    """Return what is known of networks alone."""
    return _gathered(_networks(networks))


def hard_to_compare(a: Surroundings, b: Surroundings, names: tuple[str, str] = ("A", "B")) -> list[str]:
    """Return, for a person, each difference that makes the numbers of two sets hard to compare.

    What is not known of one set is told only of two platforms: on one it is most likely the same.
    """
    told = []
    one_platform = a.get("platform") == b.get("platform")
    for name, why in HARD.items():
        ones, others = a.get(name, ()), b.get(name, ())
        if not ones and not others:
            continue
        if not ones or not others:
            if not one_platform:
                told.append(f"the {name} is not known of {names[1] if ones else names[0]}")
        elif not _alike(name, ones, others):
            told.append(f"the {name} is {shown(ones)} in {names[0]} and {shown(others)} in {names[1]}: {why}")
    return told


def shown(values: Sequence[str]) -> str:
    """Return the values of a fact in one line."""
    return "; ".join(values) or "unknown"


def _alike(name: str, ones: Sequence[str], others: Sequence[str]) -> bool:
    if name == "spacing":
        one, other = (float(values[0].split()[0]) for values in (ones, others))
        return max(one, other) <= _ALIKE_SPACINGS * min(one, other)
    return set(ones) == set(others)


def _facts_of(result: Result) -> Iterable[tuple[str, str]]:
    yield "interval", f"{result.interval_s:g} s"
    yield "capture", "no" if result.capture is None else "yes"
    found = result.environment
    if found is None:
        return
    yield from _platform(found.testbed, found.cluster_id, found.product_versions, found.guest_image, found.accelerator)
    yield "guest kernel", found.guest_kernel or ""
    yield from _networks([NetworkConditions(found.network, found.nic)])


def _networks(networks: Iterable[NetworkConditions]) -> Iterable[tuple[str, str]]:
    for network in networks:
        yield "network type", str(network.configuration.get("kind", "unknown"))
        yield "NIC", network.nic or ""


def _platform(
    testbed: str, cluster: str, versions: Mapping[str, str], image: str, accelerator: str | None
) -> Iterable[tuple[str, str]]:
    yield "platform", cluster
    yield "testbed", testbed
    yield "versions", ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    yield "guest image", image
    yield "accelerator", accelerator or ""


def _gathered(facts: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for name, value in facts:
        if value:
            found.setdefault(name, {})[value] = None
    return {name: tuple(found[name]) for name in _NAMES if name in found}
