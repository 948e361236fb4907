"""What is measured on a platform of others: guests, nodes, networks, commands. Pure but for the one file it reads."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from stuntime.errors import UsageError
from stuntime.scenario import INITIATORS, IP_FAMILIES, PATHS, Scenario, scenarios
from stuntime.ssh.command import Template
from stuntime.testbed import Route
from stuntime.yaml_file import Value, read_yaml

ROLES = ("static", "migrated")
#: Host or node: it becomes an argument of programs, and none of their options.
_NAME = re.compile(r"[^\s\x00-\x1f-][^\s\x00-\x1f]*")
_OTHERS = 2


@dataclass(frozen=True)
class Platform:
    """What was measured. `facts` are further ones by name, such as of storage; `image` is the guests'."""

    name: str = "unknown"
    version: str = "unknown"
    cluster: str | None = None
    accelerator: str | None = None
    image: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network: the guests' addresses on it, by role and ip family, its NIC on the nodes, and what is known of it."""

    addresses: Mapping[str, Mapping[str, str]]
    nic: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def families(self) -> list[str]:
        """Return the ip families in which both guests have an address."""
        return [family for family in IP_FAMILIES if all(family in self.addresses[role] for role in ROLES)]


@dataclass(frozen=True)
class Commands:
    """How things are done on the platform; None: there is no command for it.

    `verify` and `verify_static` print the node that the migrated and the static VM are on, `capture` writes a capture
    at the static VM's port to its standard output, `become` makes the user of the guests one who may open raw sockets.
    """

    migrate: Template | None = None
    verify: Template | None = None
    verify_static: Template | None = None
    capture: Template | None = None
    become: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """All that is measured on a platform. `hosts` are what ssh is called with, by role; `nodes` have facts by name."""

    hosts: Mapping[str, str]
    networks: Mapping[str, MeasuredNetwork]
    routes: Mapping[str, Route]
    nodes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    commands: Commands = field(default_factory=Commands)
    platform: Platform = field(default_factory=Platform)

    def __post_init__(self) -> None:
        """Raise UsageError when both guests are the same one."""
        if self.hosts["static"] == self.hosts["migrated"]:
            raise UsageError(
                f"{self.hosts['static']} is given as both guests", "one stays, the other is migrated: name two VMs"
            )
        for name, network in self.networks.items():
            for family in network.families():
                if network.addresses["static"][family] == network.addresses["migrated"][family]:
                    raise UsageError(
                        f"both guests have the address {network.addresses['static'][family]} on {name}",
                        "name the address of each",
                    )

    def scenarios(self) -> list[Scenario]:
        """Return all that can be measured, in measuring order."""
        found = []
        for name, network in self.networks.items():
            paths = [path for path in PATHS if path in self.routes]
            found += scenarios([name], paths, INITIATORS, network.families())
        return found

    def require(self, scenario: Scenario) -> None:
        """Raise UsageError when this scenario cannot be measured."""
        if scenario.network not in self.networks:
            raise UsageError(f"no network {scenario.network} is named", f"known are {', '.join(self.networks)}")
        if scenario.ip_family not in self.networks[scenario.network].families():
            raise UsageError(
                f"on {scenario.network} not both guests have an {scenario.ip_family} address",
                "give one for each, or leave these scenarios out",
            )
        if scenario.path not in self.routes:
            raise UsageError(
                f"there are too few nodes for the path {scenario.path}",
                "name another node, or leave these scenarios out",
            )


def routes_among(static_node: str, others: list[str]) -> dict[str, Route]:
    """Return the nodes of each path that is possible with these: the static VM's, and others, of which two count.

    As in the sandbox the paths form a circle, so that each scenario begins where the one before it ended.
    """
    if not others:
        return {}
    routes = {"from-static-node": Route(static_node, static_node, others[0])}
    if len(others) >= _OTHERS:
        routes["between-other-nodes"] = Route(static_node, others[0], others[1])
    routes["to-static-node"] = Route(static_node, others[:_OTHERS][-1], static_node)
    return routes


def by_family(text: str, where: str) -> dict[str, str]:
    """Return addresses by ip family, of a comma list; raise UsageError, saying where, when there is none or two."""
    found: dict[str, str] = {}
    for word in text.split(","):
        try:
            address = ip_address(word.strip())
        except ValueError as error:
            raise UsageError(f"{where}: {word.strip()!r} is no IP address", "write it like 192.0.2.1") from error
        family = f"ipv{address.version}"
        if family in found:
            raise UsageError(f"{where}: there are two {family} addresses", "name the one that is to be measured")
        found[family] = str(address)
    return found


def named(text: str, what: str) -> str:
    """Return the name of a host or node; raise UsageError when it could not be one."""
    if not _NAME.fullmatch(text):
        raise UsageError(f"{what} {text!r} is no name", "it has no spaces and begins with no hyphen")
    return text


def read_inventory(path: Path) -> Inventory:
    """Return what an inventory says; raise UsageError, with the line, when it says something that cannot be."""
    whole = read_yaml(path)
    parts = whole.mapping("an inventory", ("platform", "guests", "nodes", "networks", "commands", "facts"))
    for needed in ("guests", "nodes", "networks"):
        if needed not in parts:
            raise UsageError(
                f"{whole.where}: there is no {needed!r}", f"say `{needed}:`; the documentation has examples"
            )
    nodes = {named(name, f"{value.where}: the node"): _facts(name, value)
             for name, value in parts["nodes"].mapping("nodes").items()}  # fmt: skip
    hosts, static_node = _guests(parts["guests"], nodes)
    return Inventory(
        hosts=hosts,
        networks={name: _network(name, value) for name, value in parts["networks"].mapping("networks").items()},
        routes=routes_among(static_node, [node for node in nodes if node != static_node]),
        nodes=nodes,
        commands=_commands(parts["commands"]) if "commands" in parts else Commands(),
        platform=_platform(parts.get("platform"), parts.get("facts")),
    )


def _guests(value: Value, nodes: Mapping[str, object]) -> tuple[dict[str, str], str]:
    guests = value.mapping("guests", ROLES)
    hosts = {}
    for role in ROLES:
        if role not in guests:
            raise UsageError(f"{value.where}: there is no {role!r} guest", "name both")
        known = ("ssh", "node") if role == "static" else ("ssh",)
        guest = guests[role].mapping(f"the {role} guest", known)
        for word in known:
            if word not in guest:
                raise UsageError(f"{guests[role].where}: the {role} guest has no {word!r}", f"say `{word}: NAME`")
        hosts[role] = named(_text("ssh", guest["ssh"]), f"{guest['ssh'].where}: the host")
    told = guests["static"].mapping("the static guest")["node"]
    static_node = _text("node", told)
    if static_node not in nodes:
        raise UsageError(f"{told.where}: {static_node!r} is none of the nodes", f"known are {', '.join(nodes)}")
    return hosts, static_node


def _network(name: str, value: Value) -> MeasuredNetwork:
    try:
        Scenario(name, PATHS[0], INITIATORS[0], IP_FAMILIES[0])
    except UsageError as error:
        raise UsageError(f"{value.where}: {error}", error.way_out) from error
    parts = value.mapping(f"the network {name}", (*ROLES, "type", "nic", "facts"))
    addresses = {}
    for role in ROLES:
        if role not in parts:
            raise UsageError(
                f"{value.where}: the network {name} has no address of the {role} guest", f"say `{role}: ADDRESS`"
            )
        addresses[role] = by_family(_text(role, parts[role]), parts[role].where)
    facts = _facts("facts", parts["facts"]) if "facts" in parts else {}
    kind = {"kind": _text("type", parts["type"])} if "type" in parts else {}
    network = MeasuredNetwork(addresses, _text("nic", parts["nic"]) if "nic" in parts else None, {**kind, **facts})
    if not network.families():
        raise UsageError(f"{value.where}: the guests have no ip family in common", "give both an address of one family")
    return network


def _commands(value: Value) -> Commands:
    parts = value.mapping("commands", ("migrate", "verify", "verify-static", "capture", "become", "shell"))
    shell = False
    if "shell" in parts:
        word = _text("shell", parts["shell"]).lower()
        if word not in ("yes", "no", "true", "false"):
            raise UsageError(f"{parts['shell'].where}: shell is neither yes nor no", "say `shell: yes` or leave it out")
        shell = word in ("yes", "true")
    found = {}
    for name in ("migrate", "verify", "verify-static", "capture"):
        if name in parts:
            try:
                found[name.replace("-", "_")] = Template.parse(_text(name, parts[name]), shell=shell)
            except UsageError as error:
                raise UsageError(f"{parts[name].where}: {error}", error.way_out) from error
    become = Template.parse(_text("become", parts["become"])).words if "become" in parts else ()
    return Commands(**found, become=become)


def _platform(value: Value | None, facts: Value | None) -> Platform:
    parts = value.mapping("platform", ("name", "version", "cluster", "accelerator", "image")) if value else {}
    return Platform(
        **{name: _text(name, part) for name, part in parts.items()},
        facts=_facts("facts", facts) if facts else {},
    )


def _facts(name: str, value: Value) -> dict[str, str]:
    if value.content is None:
        return {}
    return {fact: _text(fact, told) for fact, told in value.mapping(name).items()}


def _text(name: str, value: Value) -> str:
    if value.content is None or isinstance(value.content, dict) or not value.text.strip():
        raise UsageError(f"{value.where}: {name} says nothing that can be used", f"write `{name}: TEXT`")
    return value.text.strip()
