"""Inventories: what they say, and that what cannot be is told with its line."""

import re
from pathlib import Path

import pytest

from stuntime.errors import UsageError
from stuntime.ssh.inventory import read_inventory, routes_among
from stuntime.testbed import Route

WHOLE = """\
platform:
  name: Proxmox VE
  version: 8.10
  cluster: lab-2
guests:
  static:
    ssh: vm-static
    node: pve1
  migrated:
    ssh: root@vm-migrated
nodes:
  pve1: {cpu: EPYC 9354}
  pve2:
  pve3:
networks:
  vmbr1:
    type: linux-bridge
    nic: mlx5
    static: 192.0.2.1, 2001:db8::1
    migrated: 192.0.2.2,2001:db8:0::2
    facts: {mtu: 9000}
  vlan-20:
    static: 192.0.2.17
    migrated: 192.0.2.18
commands:
  migrate: qm migrate 101 {target} --online
  verify: ssh pve1 where 101
  become: sudo -n
facts:
  storage: ceph 18.20
"""


def read(tmp_path: Path, text: str):
    file = tmp_path / "inventory.yaml"
    file.write_text(text)
    return read_inventory(file)


def test_all_that_it_says(tmp_path: Path) -> None:
    """An inventory says guests, nodes, networks of any name, commands and facts, numbers as they are written."""
    found = read(tmp_path, WHOLE)
    assert found.hosts == {"static": "vm-static", "migrated": "root@vm-migrated"}
    assert (found.platform.name, found.platform.version, found.platform.cluster) == ("Proxmox VE", "8.10", "lab-2")
    assert found.platform.facts == {"storage": "ceph 18.20"}
    assert found.nodes == {"pve1": {"cpu": "EPYC 9354"}, "pve2": {}, "pve3": {}}
    network = found.networks["vmbr1"]
    assert (network.nic, network.facts) == ("mlx5", {"kind": "linux-bridge", "mtu": "9000"})
    assert network.addresses["migrated"] == {"ipv4": "192.0.2.2", "ipv6": "2001:db8::2"}
    assert found.commands.become == ("sudo", "-n")
    assert found.commands.capture is None
    assert len(found.scenarios()) == 12 + 6
    assert found.scenarios()[0].id == "vmbr1.from-static-node.static.ipv4"


@pytest.mark.parametrize(
    ("others", "routes"),
    [
        ([], {}),
        (["b"], {"from-static-node": ("a", "a", "b"), "to-static-node": ("a", "b", "a")}),
        (
            ["b", "c", "d"],
            {
                "from-static-node": ("a", "a", "b"),
                "between-other-nodes": ("a", "b", "c"),
                "to-static-node": ("a", "c", "a"),
            },
        ),
    ],
)
def test_the_paths_form_a_circle(others: list[str], routes: dict) -> None:
    """The migrated VM goes round, as far as there are nodes, so that each path begins where the one before it ended."""
    assert routes_among("a", others) == {path: Route(*nodes) for path, nodes in routes.items()}


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("platform:", "platfrom:", 1, "'platfrom' is not known in an inventory"),
        ("  version: 8.10", "  release: 8", 3, "'release' is not known in platform"),
        ("    node: pve1", "    nodes: pve1", 8, "'nodes' is not known in the static guest"),
        ("    ssh: root@vm-migrated", "    ssh: x\n    node: pve2", 11, "'node' is not known in the migrated guest"),
        ("    nic: mlx5", "    nick: mlx5", 18, "'nick' is not known in the network vmbr1"),
        ("  verify: ssh", "  verfiy: ssh", 27, "'verfiy' is not known in commands"),
        ("    node: pve1", "    node: pve9", 8, "'pve9' is none of the nodes"),
        ("  vlan-20:", "  VLAN 20:", 22, "is no name of a network"),
        ("192.0.2.17", "192.0.2.300", 23, "'192.0.2.300' is no IP address"),
        ("192.0.2.17", "192.0.2.17, 192.0.2.19", 23, "there are two ipv4 addresses"),
        ("192.0.2.18", "2001:db8::18", 22, "no ip family in common"),
        ("    ssh: vm-static", "    ssh: -oProxyCommand=reboot", 7, "is no name"),
        ("    ssh: vm-static", "    ssh:", 7, "says nothing"),
        ("  pve3:", "  --all:", 14, "is no name"),
        ("  migrate: qm migrate 101", "  migrate: qm 'migrate 101", 26, "No closing quotation"),
        ("  become: sudo -n", "  shell: perhaps", 28, "neither yes nor no"),
        ("  storage: ceph 18.20", "  storage: [a, b]", 30, "a list is not expected"),
        ("  pve3:", "  pve2:", 14, "said twice"),
    ],
)
def test_what_cannot_be_is_told_with_its_line(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    """What an inventory says that is unknown or cannot be is told with the line it stands in."""
    assert WHOLE.count(old)
    with pytest.raises(UsageError, match=rf"inventory\.yaml:{line}: .*") as caught:
        read(tmp_path, WHOLE.replace(old, new, 1))
    assert says in str(caught.value)


@pytest.mark.parametrize("part", ["guests", "nodes", "networks"])
def test_what_is_needed(tmp_path: Path, part: str) -> None:
    """An inventory without guests, nodes or networks is told what it lacks."""
    with pytest.raises(UsageError, match=f"there is no '{part}'"):
        read(tmp_path, "\n".join(_without(WHOLE, part)))


def _without(text: str, part: str) -> list[str]:
    lines, kept, inside = text.splitlines(), [], False
    for line in lines:
        inside = line == f"{part}:" or (inside and line.startswith(" "))
        if not inside:
            kept.append(line)
    return kept


def test_the_same_guest_twice(tmp_path: Path) -> None:
    """One host, or one address, given for both guests is refused."""
    with pytest.raises(UsageError, match="vm-static is given as both guests"):
        read(tmp_path, WHOLE.replace("root@vm-migrated", "vm-static"))
    with pytest.raises(UsageError, match=r"both guests have the address 192\.0\.2\.1 on vmbr1"):
        read(tmp_path, WHOLE.replace("migrated: 192.0.2.2,", "migrated: 192.0.2.1,"))


_LAB = """\
guests:
  static: {ssh: a, node: NODE}
  migrated: {ssh: b}
networks:
  net: {static: 192.0.2.1, migrated: 192.0.2.2}
"""


def _documented() -> list[str]:
    blocks: list[list[str]] = [[]]
    for line in (Path(__file__).parents[2] / "docs" / "any-platform.md").read_text().splitlines():
        if line.startswith("    "):
            blocks[-1].append(line[4:])
        elif line and blocks[-1]:
            blocks.append([])
    return ["\n".join(block) for block in blocks if any(line.startswith(("platform:", "commands:")) for line in block)]


@pytest.mark.parametrize("text", _documented())
def test_what_is_documented_can_be_read(tmp_path: Path, text: str) -> None:
    """Every inventory in the documentation is one, its commands are commands, and the VM can go round."""
    block = text[text.index("platform:") if "platform:" in text else text.index("commands:") :]
    if "nodes:" not in block:
        block += "\nnodes: {pve1: , pve2: , pve3: }"
    if "guests:" not in block:
        first = re.search(r"^nodes: \{([^:]+):", block, re.MULTILINE)
        assert first is not None
        block += "\n" + _LAB.replace("NODE", first[1])
    found = read(tmp_path, block)
    assert found.commands.migrate is not None
    assert found.commands.migrate.names_nodes
    assert len(found.routes) == 3
