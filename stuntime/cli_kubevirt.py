"""Measuring on a cluster, as the command line asks for it; and the commands that only a cluster has."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stuntime import cli_cluster, cli_pipeline, cli_sandbox
from stuntime.cli_common import Command, Words, count, guarded, run_id, seconds, words
from stuntime.errors import ExitCode, StuntimeError, UnfitError, UsageError
from stuntime.scenario import NETWORKS, PATHS, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

    from stuntime.kubevirt.api import Api
    from stuntime.kubevirt.cleanup import Leftover
    from stuntime.kubevirt.preflight import Found
    from stuntime.kubevirt.settings import Settings
    from stuntime.kubevirt.window import Window
    from stuntime.store import OutputDirectory

#: Those of its options that decide what is measured: a run that is resumed has them again.
SETTINGS = (
    "nodes", "nic", "nic_wait", "vlan", "mtu", "nad",
    "node_selector", "guest_image", "guest_boot", "guest_memory", "boot_timeout", "ipv4_subnet", "ipv6_subnet",
)  # fmt: skip
#: The options that only this testbed has, by the names they have among the arguments.
OPTIONS = (*cli_cluster.OPTIONS, *SETTINGS, *cli_pipeline.OPTIONS, "concurrency")
_HOLD_S = 8 * 3600


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only this testbed has."""
    group = parser.add_argument_group("on a cluster")
    cli_cluster.add_options(group)
    _add_settings(group)
    group.add_argument(
        "--concurrency",
        type=count,
        metavar="N",
        help="how many scenarios hold VMs at once (default: all of a network), in all processes with the same --run",
    )
    cli_pipeline.add_options(group)


def add_commands(commands: Any, command: Command) -> None:
    """Add the commands to the parser's subcommands."""
    preflight = command(
        commands,
        "preflight",
        _preflight,
        "see whether a testbed is fit to measure",
        "stuntime preflight --testbed kubevirt --nodes worker-0,worker-1,worker-2 --boot",
    )
    preflight.add_argument("--testbed", choices=["sandbox", "kubevirt"], default="sandbox", help="default: sandbox")
    preflight.add_argument(
        "--network",
        type=words(NETWORKS),
        nargs="+",
        action=Words,
        default=list(NETWORKS),
        metavar="LIST",
        help="the networks that will be used",
    )
    preflight.add_argument(
        "--run", type=run_id, metavar="ID", default="preflight", help="the run it belongs to (default: preflight)"
    )
    preflight.add_argument("--boot", action="store_true", help="also boot a guest, and try its ping and the observer")
    preflight.add_argument("--json", action="store_true", help="the table as JSON")
    cli_cluster.add_options(preflight)
    _add_settings(preflight)

    network = command(
        commands,
        "network",
        _network,
        "make a network on a cluster's nodes, or take it away",
        "stuntime network up linux-bridge --nic ens2f1",
    )
    network.add_argument("action", choices=["up", "down"])
    network.add_argument("network", choices=NETWORKS)
    network.add_argument(
        "--run", type=run_id, metavar="ID", default="by-hand", help="the run it belongs to (default: by-hand)"
    )
    cli_cluster.add_options(network)
    _add_settings(network)

    cleanup = command(
        commands,
        "cleanup",
        _cleanup,
        "remove what runs left on a cluster",
        "stuntime cleanup --testbed kubevirt --older-than 7200",
    )
    cleanup.add_argument("--testbed", choices=["kubevirt"], default="kubevirt", help="default: kubevirt")
    cleanup.add_argument("--run", type=run_id, metavar="ID", help="only of this run (default: of all)")
    cleanup.add_argument(
        "--older-than", type=seconds, default=0.0, metavar="S", help="only what is at least so old (default: all)"
    )
    cleanup.add_argument(
        "--settle", type=seconds, metavar="S", help="wait at most so long for the pods of PipelineRun ID that measure"
    )
    cleanup.add_argument("--results", action="store_true", help="also remove the results that are kept in the cluster")
    cleanup.add_argument("--yes", action="store_true", help="do not ask; without a terminal nobody is asked")
    cleanup.add_argument("--dry-run", action="store_true", help="only list it")
    cli_cluster.add_options(cleanup)


def measured(arguments: argparse.Namespace, opened: "Callable[..., OutputDirectory]") -> "tuple[OutputDirectory, int]":
    """Measure what an output directory plans, opened when the cluster is known to be fit; return it and the exit code.

    It is opened with the paths that there are too few nodes for, which nobody has to plan.
    Raise a StuntimeError when nothing could be begun.
    """
    from stuntime.kubevirt import preflight
    from stuntime.kubevirt.testbed import NO_CAPTURE, KubevirtTestbed

    if arguments.capture and not KubevirtTestbed.captures:
        raise UnfitError(*NO_CAPTURE, reason="capture-unavailable")
    with cli_cluster.connected(arguments) as api:
        settings = _settings(arguments, arguments.run or "preflight")
        planned, paths = _asked(arguments)
        try:
            found = preflight.examine(api, settings, planned, paths, pull=False, owned=bool(arguments.run)).require()
        except StuntimeError as error:
            if arguments.deposit:
                cli_pipeline.deposit_failure(arguments, api, opened(), error)
            raise
        for check in found.checks:
            if check.note:
                print(f"stuntime: note: {check.note}", file=sys.stderr)
        output = opened(*found.without_nodes)
        settings = replace(settings, run=output.plan.run)
        if getattr(arguments, "resume", None):
            _remove_vms(api, settings)
        return output, guarded(lambda: _inside(arguments, api, settings, found, output))


def _inside(
    arguments: argparse.Namespace, api: "Api", settings: "Settings", found: "Found", output: "OutputDirectory"
) -> int:
    """Run the plan on the cluster that the preflight found fit."""
    from stuntime.suite import options_of, run_plan
    from stuntime.terminal import progress

    scenarios = output.plan.scenarios
    with (
        cli_pipeline.time_limit(arguments.time_limit),
        cli_pipeline.kept(arguments, api, output) as keep,
        _slot(arguments, api, settings, scenarios),
        _testbed(arguments, api, settings, found) as testbed,
        progress(len(output.missing())) as report,
    ):
        together = arguments.concurrency or len(scenarios)
        run_plan(testbed, output, options_of(output.plan), keep(report), together=together)
    return ExitCode.OK


def _slot(
    arguments: argparse.Namespace, api: "Api", settings: "Settings", scenarios: Sequence[str]
) -> AbstractContextManager[None]:
    """Hold one of the run's slots, where each of its scenarios has a process of its own and they are limited."""
    from stuntime.kubevirt.slots import Slots

    if not (arguments.run and arguments.concurrency and len(scenarios) == 1):
        return nullcontext()
    slots = Slots(api, namespace=settings.window_namespace, run=settings.run_name, limit=arguments.concurrency)
    return slots.holding(scenarios[0])


def _asked(arguments: argparse.Namespace) -> tuple[list[str], tuple[str, ...]]:
    """Return the networks and paths that will be measured."""
    if getattr(arguments, "scenario", None):
        only = Scenario.parse(arguments.scenario)
        return [only.network], (only.path,)
    if getattr(arguments, "resume", None):
        from stuntime.store import read_plan

        planned = [Scenario.parse(scenario) for scenario in read_plan(arguments.resume).scenarios]
    else:
        from stuntime.cli_measure import selected

        planned = selected(arguments)
    return list(dict.fromkeys(s.network for s in planned)), tuple(dict.fromkeys(s.path for s in planned))


def _preflight(arguments: argparse.Namespace) -> int:
    if arguments.testbed == "sandbox":
        cli_sandbox.require()
        from stuntime.sandbox import preflight as sandbox

        sandbox.check(capture=True)
        sandbox.check_memory()
        print('{"fit": true, "checks": []}' if arguments.json else "this machine is fit to be a sandbox")
        return ExitCode.OK
    from stuntime import terminal
    from stuntime.kubevirt import preflight
    from stuntime.kubevirt.kinds import NAD
    from stuntime.result import to_json

    with cli_cluster.connected(arguments) as api:
        settings = _settings(arguments, arguments.run)
        given = settings.networks
        own = {network: name for network, name in given.nads.items() if name != f"stuntime-{network}"}
        settings = replace(settings, networks=replace(given, nads=own))  # those that are ours will be made
        found = preflight.examine(api, settings, arguments.network, PATHS)
        if arguments.boot and found.fit:
            there = {network: name for network, name in given.nads.items() if network in own or api.get(NAD, name)}
            found = _tried(arguments, api, replace(settings, networks=replace(given, nads=there)), found)
        if arguments.json:
            sys.stdout.write(to_json(preflight.as_json(found)).decode())
        else:
            terminal.preflight(found)
    return ExitCode.OK if found.fit else ExitCode.UNFIT


def _tried(arguments: argparse.Namespace, api: "Api", settings: "Settings", found: "Found") -> "Found":
    from stuntime.kubevirt.trial import boot

    with _testbed(arguments, api, settings, found) as testbed:
        return boot(testbed, found, arguments.network[0])


def _network(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments, arguments.run)
    if arguments.network in settings.networks.nads:
        raise UsageError("a NAD by name is there already", "leave --nad out: it is for measuring")
    if arguments.action == "down":
        _network_down(cli_cluster.client(arguments), settings, arguments.network)
    else:
        with cli_cluster.connected(arguments) as api:
            _network_up(api, settings, arguments.network)
    return ExitCode.OK


def _network_up(api: "Api", settings: "Settings", network: str) -> None:
    from stuntime.kubevirt import networks, plans, preflight
    from stuntime.kubevirt.manifests import run_labels
    from stuntime.kubevirt.window import Window

    found = preflight.examine(api, settings, [network], (), pull=False).require()
    if found.nic is None:
        raise UnfitError("no spare NIC is known", "name one with --nic", reason="nic-missing")
    plan = plans.plan(network, api.namespace, settings.networks, found.nic)
    window = Window(api, namespace=settings.window_namespace, run=settings.run_name)
    holder, wait_s = settings.holder(api.namespace), settings.networks.nic_wait_s
    try:
        held = networks.hold_nics(
            api, plan, lambda nic: window.take_nic(nic, holder, duration_s=_HOLD_S, wait_s=wait_s)
        )
        with window.provisioning(f"network {network}"):
            window.require_nics(held, holder)
            made = networks.up(api, plan, found.nodes, run_labels(settings.run_name), held)
    except BaseException:
        guarded(lambda: _give_nics(api, window, settings))  # there is something else to tell
        raise
    _give_nics(api, window, settings)
    print(f"{made.nad} is up on {found.nic} of {', '.join(node.name for node in found.nodes)}")
    print(f"measure with --nad {network}={plan.name}")


def _network_down(api: "Api", settings: "Settings", network: str) -> None:
    from stuntime.kubevirt import networks
    from stuntime.kubevirt.kinds import cleanup_command
    from stuntime.kubevirt.window import Window

    run, window = settings.run_name, Window(api, namespace=settings.window_namespace, run=settings.run_name)
    makers = networks.makers_of(api, network)
    _remove_vms(api, settings)
    if (api.namespace, run) in makers:
        with window.provisioning(f"network {network}"):
            networks.down(api, network, run=run)
    _give_nics(api, window, settings)
    for namespace, other in makers:
        if (namespace, other) != (api.namespace, run):
            command = cleanup_command(namespace, other)
            told = f"{network} of another run stays; it is taken away by `{command}`"
            print(f"stuntime: note: {told}", file=sys.stderr)
    print(f"run {settings.run} has no {network}")


def _give_nics(api: "Api", window: "Window", settings: "Settings") -> int:
    """Give back the NICs that this run holds and has no network on."""
    from stuntime.kubevirt import networks

    window.give_nics(settings.holder(api.namespace), but=networks.nics_of_run(api, settings.run_name))
    return ExitCode.OK


def _remove_vms(api: "Api", settings: "Settings") -> None:
    """Remove the VMs that processes of this run which were killed have left."""
    import time

    from stuntime.kubevirt import cleanup
    from stuntime.kubevirt.window import Window

    found = cleanup.machines(api, run=settings.run_name, now=time.time())
    if not found:
        return
    cleanup.remove(api, found, Window(api, namespace=settings.window_namespace, run=settings.run_name))
    cleanup.wait_gone(api, run=settings.run_name)
    for one in found:
        print(f"removed {_in_a_line(one)}")


def _cleanup(arguments: argparse.Namespace) -> int:
    import time

    from stuntime.kubevirt import cleanup, collect
    from stuntime.kubevirt.window import Window

    api = cli_cluster.client(arguments)
    if arguments.run and arguments.settle:
        collect.settle(api, arguments.run, arguments.settle)
    found, unseen = cleanup.leftovers(
        api,
        run=_settings_run(arguments.run),
        older_than_s=arguments.older_than,
        now=time.time(),
        window_namespace=arguments.window_namespace,
        results=arguments.results,
    )
    for one in found:
        print(_in_a_line(one))
    for kind in unseen:
        print(f"stuntime: not looked for: {kind}", file=sys.stderr)
    if not found:
        print("nothing of ours is there")
    elif not arguments.dry_run and (arguments.yes or not sys.stdin.isatty() or _confirmed(len(found))):
        cleanup.remove(api, found, Window(api, namespace=arguments.window_namespace, run=arguments.run or "cleanup"))
        print(f"{len(found)} objects removed")
    return ExitCode.TESTBED if any(kind.matters for kind in unseen) else ExitCode.OK


def _settings_run(run: str | None) -> str | None:
    from stuntime.kubevirt.settings import Settings

    return Settings(run=run).run_name if run else None


def _in_a_line(one: "Leftover") -> str:
    place = f"{one.namespace}/" if one.kind.namespaced else ""
    return f"{one.kind.name} {place}{one.name} of run {one.run}, {one.age_s / 60:.0f} min old"


def _confirmed(number: int) -> bool:
    return input(f"remove these {number} objects? [y/N] ").strip().lower() in ("y", "yes")


@contextmanager
def _testbed(arguments: argparse.Namespace, api: "Api", settings: "Settings", found: "Found") -> Iterator[Any]:
    from functools import partial

    from stuntime.kubevirt.diagnostics import diagnose
    from stuntime.kubevirt.testbed import KubevirtTestbed

    if found.cluster is None:
        raise UnfitError("nothing is known of the cluster", "see `stuntime preflight --testbed kubevirt`")
    explaining = partial(diagnose, api, kubeconfig=arguments.kubeconfig, context=arguments.context)
    testbed = KubevirtTestbed(api, settings, found.cluster, tuple(found.nodes), found.nic, explaining)
    with testbed.opened():
        yield testbed


def _settings(arguments: argparse.Namespace, run: str) -> "Settings":
    from stuntime.kubevirt.settings import Addresses, Guest, NetworkSettings, Owner, Settings

    return Settings(
        run=run,
        guest=Guest(image=arguments.guest_image, boot=arguments.guest_boot, memory=arguments.guest_memory),
        networks=NetworkSettings(
            nic=arguments.nic,
            vlan=arguments.vlan,
            mtu=arguments.mtu,
            nads=_nads(arguments.nad),
            nic_wait_s=arguments.nic_wait,
        ),
        addresses=Addresses(arguments.ipv4_subnet, arguments.ipv6_subnet),
        nodes=tuple(name.strip() for name in (arguments.nodes or "").split(",") if name.strip()),
        boot_timeout_s=arguments.boot_timeout,
        window_namespace=arguments.window_namespace,
        node_selector=arguments.node_selector or "",
        owner=Owner.parse(owner) if (owner := getattr(arguments, "owner", None)) else None,
    )


def _nads(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        network, equals, name = text.partition("=")
        if not equals or not network:
            raise UsageError(f"{text!r} names no NAD", "write --nad linux-bridge=my-nad")
        if name:
            found[network] = name
    return found


def _add_settings(parser: Any) -> None:
    from stuntime.kubevirt.settings import DEFAULT_IMAGE

    for option, kind, default, metavar, meaning in (
        (
            "nodes",
            str,
            None,
            "A,B,C",
            "the static VM's node, and two others (default: the first three that can run VMs)",
        ),
        ("node-selector", str, None, "LABELS", "choose among the nodes with these labels (default: all)"),
        (
            "nic",
            str,
            None,
            "NAME",
            "the spare NIC (default: the last one that is up, unused and alike everywhere)",
        ),
        ("nic-wait", float, 0.0, "S", "how long to wait for a NIC that another run holds (default: 0)"),
        ("vlan", int, None, "ID", "the VLAN of the networks that are made (default: untagged)"),
        ("mtu", int, None, "BYTES", "the MTU of the networks that are made (default: the NIC's)"),
        ("guest-image", str, DEFAULT_IMAGE, "IMAGE", f"what the VMs boot from (default: {DEFAULT_IMAGE})"),
        ("guest-memory", str, "1Gi", "SIZE", "each VM's memory (default: 1Gi)"),
        ("boot-timeout", seconds, 600.0, "S", "how long VMs may take to boot (default: 600)"),
        ("ipv4-subnet", str, "10.200.0.0/16", "SUBNET", "the VMs' IPv4 addresses (default: 10.200.0.0/16)"),
        ("ipv6-subnet", str, "fd00:200::/64", "SUBNET", "the VMs' IPv6 addresses (default: fd00:200::/64)"),
    ):
        parser.add_argument(f"--{option}", type=kind, default=default, metavar=metavar, help=meaning)
    parser.add_argument(
        "--nad",
        action="append",
        default=[],
        metavar="NETWORK=NAME",
        help="use an existing NAD of the namespace for this network; nothing is made (may be repeated;"
        " without a name it is as if not given)",
    )
    parser.add_argument(
        "--guest-boot",
        choices=["disk", "kernel"],
        default="disk",
        help="disk: a containerDisk with cloud-init; kernel: a container with /boot/vmlinuz and /boot/initrd.img",
    )
