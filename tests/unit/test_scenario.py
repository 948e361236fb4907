"""The words and the ids that history hangs on."""

import pytest

from stuntime.errors import UsageError
from stuntime.scenario import Scenario, measuring_order, scenarios, select

#: Published ids never change.
IDS = [
    "linux-bridge.from-static-node.static.ipv4",
    "linux-bridge.between-other-nodes.static.ipv4",
    "linux-bridge.to-static-node.static.ipv4",
    "linux-bridge.from-static-node.migrated.ipv4",
    "linux-bridge.between-other-nodes.migrated.ipv4",
    "linux-bridge.to-static-node.migrated.ipv4",
    "ovn-localnet.from-static-node.static.ipv4",
    "ovn-localnet.between-other-nodes.static.ipv4",
    "ovn-localnet.to-static-node.static.ipv4",
    "ovn-localnet.from-static-node.migrated.ipv4",
    "ovn-localnet.between-other-nodes.migrated.ipv4",
    "ovn-localnet.to-static-node.migrated.ipv4",
]


def test_the_twelve_ids_are_stable() -> None:
    """The ids are these, in the order in which each scenario ends where the next begins."""
    assert [scenario.id for scenario in scenarios()] == IDS
    assert len(scenarios(ip_families=("ipv4", "ipv6"))) == 24


def test_ids_parse_back() -> None:
    """An id names exactly one scenario."""
    for scenario in scenarios(ip_families=("ipv4", "ipv6")):
        assert Scenario.parse(scenario.id) == scenario


@pytest.mark.parametrize(
    "text",
    ["", "linux-bridge", "a.b.c.d", "Linux.from-static-node.static.ipv4", IDS[0] + ".x", IDS[0].replace("4", "5")],
)
def test_no_id_is_refused(text: str) -> None:
    """What is no id is refused with a way out."""
    with pytest.raises(UsageError) as refused:
        Scenario.parse(text)
    assert refused.value.way_out


def test_networks_from_elsewhere_have_any_name() -> None:
    """Results of other platforms carry their own networks' names."""
    assert Scenario.parse("vswitch-7.from-static-node.static.ipv4").network == "vswitch-7"


@pytest.mark.parametrize(
    ("selection", "count"),
    [("*", 12), ("linux-bridge.*", 6), ("*.static.*", 6), (f"{IDS[0]}, {IDS[5]}", 2), ("*.to-static-node.*.ipv4", 4)],
)
def test_selection(selection: str, count: int) -> None:
    """A selection is a comma list of ids in which `*` stands for anything."""
    assert len(select(selection, scenarios())) == count


@pytest.mark.parametrize("selection", ["", ",", "linux-bridge", "*.ipv6", f"{IDS[0]},nothing", "linux-bridge.[f]*"])
def test_a_selection_that_matches_nothing_is_refused(selection: str) -> None:
    """An item that names no scenario is a mistake, not an empty set."""
    with pytest.raises(UsageError):
        select(selection, scenarios())


def test_measuring_order_does_not_depend_on_the_input() -> None:
    """Whatever order scenarios come in, inside a network they are measured in a circle."""
    shuffled = sorted(scenarios(), key=lambda scenario: scenario.id[::-1])
    ordered = measuring_order(shuffled)
    for network in ("linux-bridge", "ovn-localnet"):
        of_one = [scenario.id for scenario in ordered if scenario.network == network]
        assert of_one == [text for text in IDS if text.startswith(network)]
