"""`python -m tests.cluster`: start, stop and use the cluster of this machine."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from stuntime.errors import ExitCode, StuntimeError, TestbedError, UnfitError
from stuntime.sandbox.process import run
from tests.cluster.images import archives
from tests.cluster.inside import Built
from tests.cluster.layout import NODES, layout
from tests.cluster.parts import CNI, ENGINE_PARTS, ETCD, KUBERNETES, KUBEVIRT, MULTUS, PARTS, build
from tests.cluster.running import running
from tests.cluster.say import say
from tests.cluster.supervise import hold_lock, lock_holder, start, sweep

_UP_S = 900.0
_DOWN_S = 120.0
_INSTALL = Path(__file__).with_name("install.sh")


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks for and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("up", help="build what is missing, start the cluster, wait for it").set_defaults(do=_up)
    commands.add_parser("down", help="stop it, and remove all it has left").set_defaults(do=_down)
    commands.add_parser("status", help="say whether it runs and how to reach it").set_defaults(do=_status)
    command = commands.add_parser("build", help="build the parts, or those that are named")
    command.add_argument("part", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    command.set_defaults(do=_build)
    commands.add_parser("tekton", help="deploy Tekton on the running cluster, and build tkn").set_defaults(do=_tekton)
    command = commands.add_parser("import", help="import an OCI archive's image into all nodes")
    command.add_argument("archive", type=Path)
    command.add_argument("name", metavar="NAME:TAG")
    command.set_defaults(do=_import)
    command = commands.add_parser("token", help="write a kubeconfig for a ServiceAccount")
    command.add_argument("account", metavar="NAMESPACE/NAME")
    command.add_argument("target", type=Path, metavar="FILE")
    command.set_defaults(do=_token)
    command = commands.add_parser("exec", help="run a command in a node's namespaces, or the control plane's")
    command.add_argument("node", choices=["control", *(node.name for node in NODES)])
    command.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND")
    command.set_defaults(do=_exec)
    options = parser.parse_args(argv)
    try:
        if os.geteuid() != 0:
            raise UnfitError("the cluster needs root", "run it as root")
        return options.do(options)
    except StuntimeError as error:
        print(f"tests.cluster: {error}\n  {error.way_out}", file=sys.stderr)  # noqa: T201 - this is its terminal
        return error.exit_code


def _up(options: argparse.Namespace) -> int:
    if lock_holder():
        say("a cluster runs already")
        return _status(options)
    built = _build_all()
    lock = hold_lock()
    if lock is None:
        raise UnfitError("another cluster has just been started", "wait for it: `python -m tests.cluster status`")
    here = layout()
    say("starting")
    start(here, built, lock)
    shown, deadline = 0, time.monotonic() + _UP_S
    while time.monotonic() < deadline:
        time.sleep(0.3)
        text = here.log.read_text() if here.log.exists() else ""
        print(text[shown:], end="", flush=True)  # noqa: T201
        shown = len(text)
        if not lock_holder():
            raise TestbedError("the cluster did not start", f"its logs are in {here.logs}")
        if here.state.exists() and running().phase == "running":
            return _status(options)
    raise TestbedError(f"the cluster did not start within {_UP_S:g} s", f"its logs are in {here.logs}")


def _build_all() -> Built:
    run(["sh", str(_INSTALL)], timeout_s=1800, what="installing packages")
    parts = {part.name: build(part) for part in ENGINE_PARTS}
    small, large = archives()
    return Built(
        etcd=parts[ETCD.name],
        kubernetes=parts[KUBERNETES.name],
        cni=parts[CNI.name],
        multus=parts[MULTUS.name],
        kubevirt=parts[KUBEVIRT.name],
        small_images=small,
        kubevirt_images=large,
    )


def _down(_: argparse.Namespace) -> int:
    here, supervisor = layout(), lock_holder()
    if supervisor:
        say("stopping")
        os.kill(supervisor, signal.SIGTERM)
        deadline = time.monotonic() + _DOWN_S
        while lock_holder():
            if time.monotonic() > deadline:
                raise TestbedError(f"it did not stop within {_DOWN_S:g} s", f"end process {supervisor}")
            time.sleep(0.1)
    lock = hold_lock()
    if lock is not None:
        sweep(here)
        os.close(lock)
    say("no cluster runs")
    return ExitCode.OK


def _status(_: argparse.Namespace) -> int:
    if not lock_holder():
        say("no cluster runs")
        return 1
    here = layout()
    if not here.state.exists():
        say(f"a cluster is starting; its log is {here.log}")
        return 1
    cluster = running()
    say(f"the cluster is {cluster.phase}; logs are in {here.logs}")
    say(f"export KUBECONFIG={cluster.kubeconfig}")
    say("stop it with `make cluster-stop`")
    return 0 if cluster.phase == "running" else 1


def _build(options: argparse.Namespace) -> int:
    if not options.part:
        _build_all()
    for name in options.part:
        say(str(build(PARTS[name])))
    return 0


def _tekton(_: argparse.Namespace) -> int:
    from tests.cluster import tekton

    tekton.deploy(running())
    say(f"tkn is {tekton.tkn()}")
    return 0


def _import(options: argparse.Namespace) -> int:
    running().import_image(options.archive, options.name)
    return 0


def _token(options: argparse.Namespace) -> int:
    namespace, _, account = options.account.partition("/")
    running().service_account_kubeconfig(options.target, account, namespace)
    return 0


def _exec(options: argparse.Namespace) -> int:
    prefix = running().entering(None if options.node == "control" else options.node)
    argv = [*prefix, *options.argv]
    return subprocess.run(argv, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
