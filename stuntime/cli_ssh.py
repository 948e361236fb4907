"""Measuring on any platform over ssh, as the command line asks for it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from stuntime.cli_common import guarded, seconds
from stuntime.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stuntime.scenario import Scenario
    from stuntime.ssh.inventory import Commands, Inventory
    from stuntime.ssh.migration import Mover
    from stuntime.store import OutputDirectory
    from stuntime.testbed import Route

_GUESTS = ("static", "static_address", "migrated", "migrated_address")
_NODES = ("source", "target", "static_node")
_COMMANDS = ("migrate_command", "verify_command", "capture_command", "become", "shell")
_PLATFORM = ("platform", "platform_version")
#: The options that only this testbed has, by the names they have among the arguments.
OPTIONS = (
    "inventory", "ssh_config", "by_hand", "migration_timeout", *_GUESTS, *_NODES, *_COMMANDS, *_PLATFORM,
)  # fmt: skip
#: None of them is kept with a run: an inventory is repeated.
SETTINGS = ()

_BY_HAND_S = 600.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only this testbed has."""
    group = parser.add_argument_group("on any platform (--testbed ssh)")
    group.add_argument(
        "--inventory", type=Path, metavar="FILE", help="guests, nodes, networks and commands (YAML); `suite` needs one"
    )
    for role in ("static", "migrated"):
        group.add_argument(f"--{role}", metavar="HOST", help=f"what `ssh` is called with for the {role} VM")
        group.add_argument(
            f"--{role}-address", metavar="IP", help=f"the {role} VM's address on the measured network (or two: v4,v6)"
        )
    group.add_argument("--source", metavar="NODE", help="the node that the migrated VM starts on")
    group.add_argument("--target", metavar="NODE", help="the node that it goes to")
    group.add_argument("--static-node", metavar="NODE", help="the static VM's node, if it is neither of them")
    group.add_argument(
        "--migrate-command",
        metavar="COMMAND",
        help="migrates the VM, such as 'qm migrate 101 {target} --online'; {source} and {target} are replaced",
    )
    group.add_argument(
        "--verify-command",
        metavar="COMMAND",
        help="prints the node that the migrated VM is on; without it it is your word",
    )
    group.add_argument(
        "--capture-command",
        metavar="COMMAND",
        help="for --capture: writes a capture at the static VM's port to its standard output (tcpdump -U -w -)",
    )
    group.add_argument("--shell", action="store_true", help="the commands are lines for `sh` (default: no shell)")
    group.add_argument("--by-hand", action="store_true", help="you migrate: it says when, and asks for the end")
    group.add_argument(
        "--migration-timeout",
        type=seconds,
        metavar="S",
        help=f"how long a migration gets (default: 120; by hand {_BY_HAND_S:g})",
    )
    group.add_argument("--become", metavar="WORDS", help="makes root of the guest's user, such as 'sudo -n'")
    group.add_argument("--ssh-config", type=Path, metavar="FILE", help="a configuration of ssh (default: ssh's own)")
    group.add_argument("--platform", metavar="NAME", help="what it is that is measured, such as 'Proxmox VE'")
    group.add_argument("--platform-version", metavar="VERSION", help="its version")


def scenarios(arguments: argparse.Namespace) -> "list[Scenario]":
    """Return all scenarios that an inventory has guests, addresses and nodes for."""
    from stuntime.ssh.inventory import read_inventory

    if arguments.inventory is None:
        raise UsageError(
            "the testbed ssh knows no networks of its own", "name them, the guests and the nodes in an --inventory"
        )
    return read_inventory(arguments.inventory).scenarios()


def measured(arguments: argparse.Namespace, opened: "Callable[[], OutputDirectory]") -> "tuple[OutputDirectory, int]":
    """Measure what an output directory plans, opened when the arguments fit together; return it and the exit code.

    Raise a StuntimeError when nothing could be begun.
    """
    from stuntime.scenario import Scenario

    resumed = opened() if arguments.resume else None
    inventory = _inventory(arguments)
    planned = resumed.plan.scenarios if resumed else [arguments.scenario] if "scenario" in arguments else []
    for scenario in planned:
        inventory.require(Scenario.parse(scenario))
    mover = _mover(arguments, inventory.commands)
    if mover is None and (resumed.plan.migrate if resumed else arguments.migrate):
        raise UsageError("nothing is said that migrates the VM", "give a --migrate-command, or --by-hand")
    if arguments.capture and inventory.commands.capture is None:
        raise UsageError("nothing is said that takes a capture", "give a --capture-command, or leave --capture out")
    output = resumed or opened()
    return output, guarded(lambda: _measure(arguments, inventory, mover, output))


def _measure(
    arguments: argparse.Namespace, inventory: "Inventory", mover: "Mover | None", output: "OutputDirectory"
) -> int:
    from stuntime.ssh.testbed import SshTestbed
    from stuntime.suite import options_of, run_plan
    from stuntime.terminal import progress

    limit_s = arguments.migration_timeout or (_BY_HAND_S if arguments.by_hand else None)
    testbed = SshTestbed(inventory, mover, config=arguments.ssh_config, limit_s=limit_s)
    with progress(len(output.missing()), live=not arguments.by_hand) as report:
        run_plan(testbed, output, options_of(output.plan), report)
    return ExitCode.OK


def _inventory(arguments: argparse.Namespace) -> "Inventory":
    """Return the inventory: of the file, or of the options; commands that are given count before the file's."""
    import dataclasses

    from stuntime.ssh.inventory import read_inventory

    if arguments.inventory is None:
        return _of_options(arguments)
    if given := [f"--{name.replace('_', '-')}" for name in (*_GUESTS, *_NODES, *_PLATFORM) if getattr(arguments, name)]:
        raise UsageError(f"an inventory says it all; not with {', '.join(given)}", "say it there")
    found = read_inventory(arguments.inventory)
    return dataclasses.replace(found, commands=_commands(arguments, found.commands))


def _of_options(arguments: argparse.Namespace) -> "Inventory":
    from stuntime.scenario import Scenario
    from stuntime.ssh.inventory import Commands, Inventory, MeasuredNetwork, Platform, by_family, named

    if "scenario" not in arguments:
        raise UsageError("the testbed ssh needs an --inventory here", "the documentation has examples")
    missing = [f"--{name.replace('_', '-')}" for name in _GUESTS if not getattr(arguments, name)]
    if missing:
        raise UsageError(f"missing: {', '.join(missing)}", "give them, or an --inventory")
    scenario = Scenario.parse(arguments.scenario)
    addresses = {
        role: by_family(getattr(arguments, f"{role}_address"), f"--{role}-address") for role in ("static", "migrated")
    }
    platform = Platform(arguments.platform or "unknown", arguments.platform_version or "unknown")
    commands = _commands(arguments, Commands())
    return Inventory(
        hosts={role: named(getattr(arguments, role), f"--{role}: the host") for role in ("static", "migrated")},
        networks={scenario.network: MeasuredNetwork(addresses)},
        routes={scenario.path: _route(arguments, scenario.path, commands)},
        commands=commands,
        platform=platform,
    )


def _route(arguments: argparse.Namespace, path: str, commands: "Commands") -> "Route":
    from stuntime.ssh.inventory import named
    from stuntime.testbed import Route

    source, target = arguments.source, arguments.target
    if not (source and target):
        told = [command for command in (commands.migrate, commands.verify) if command is not None]
        if commands.verify is not None or any(command.names_nodes for command in told):
            raise UsageError("the commands tell of nodes, and no nodes are named", "give --source and --target")
        source, target = source or "source", target or "target"
    static_node = {"from-static-node": source, "to-static-node": target}.get(path)
    if static_node is None:
        static_node = arguments.static_node or "static-node"
    elif arguments.static_node not in (None, static_node):
        raise UsageError(
            f"on the path {path} the static VM is on {static_node}, not on {arguments.static_node}",
            "leave --static-node out, or name another path",
        )
    for node in (source, target, static_node):
        named(node, "the node")
    if source == target or (path == "between-other-nodes" and static_node in (source, target)):
        raise UsageError(
            f"a VM on {source} that goes to {target}, the other one on {static_node}: this is not the path {path}",
            "name the nodes that the path asks for",
        )
    return Route(static_node, source, target)


def _commands(arguments: argparse.Namespace, known: "Commands") -> "Commands":
    """Return the commands that are known, but those that are given."""
    import dataclasses

    from stuntime.ssh.command import Template

    given: dict[str, object] = {
        name: Template.parse(text, shell=arguments.shell)
        for name in ("migrate", "verify", "capture")
        if (text := getattr(arguments, f"{name}_command")) is not None
    }
    if arguments.become is not None:
        given["become"] = Template.parse(arguments.become).words
    return dataclasses.replace(known, **given)  # type: ignore[arg-type]


def _mover(arguments: argparse.Namespace, commands: "Commands") -> "Mover | None":
    from stuntime.ssh.migration import ByCommand, ByHand

    if not arguments.by_hand:
        return ByCommand(commands.migrate) if commands.migrate is not None else None
    if arguments.migrate_command is not None:
        raise UsageError("a migration is started by hand or by a command", "leave one of them out")
    from stuntime.cli_person import TerminalPerson

    return ByHand(TerminalPerson())
