"""Measuring in the sandbox, as the command line asks for it."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stuntime.cli_common import guarded
from stuntime.errors import ExitCode, UnfitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stuntime.sandbox.image import GuestImage
    from stuntime.store import OutputDirectory

#: The options that only this testbed has, by the names they have among the arguments.
OPTIONS = ("keep", "accelerator")
#: Those of them that decide what is measured: a run that is resumed has them again.
SETTINGS = ("accelerator",)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that only this testbed has."""
    group = parser.add_argument_group("in the sandbox")
    group.add_argument("--keep", action="store_true", help="leave the VMs of a failure to look at, until Ctrl-C")
    group.add_argument(
        "--accelerator",
        choices=["auto", "kvm", "tcg"],
        default="auto",
        help="how the guests run (default: KVM if a guest proves that it boots, else software emulation)",
    )


def require() -> None:
    """Raise UnfitError where stuntime is installed without its sandbox, as in the image."""
    if find_spec("stuntime.sandbox") is None:
        raise UnfitError(
            "there is no sandbox in this image",
            "measure a cluster with --testbed kubevirt; the sandbox runs from a checkout, by `make sandbox`",
            reason="sandbox-missing",
        )


def measured(arguments: argparse.Namespace, opened: "Callable[[], OutputDirectory]") -> "tuple[OutputDirectory, int]":
    """Measure what an output directory plans, opened when the machine is known to be fit; return it and the exit code.

    Raise a StuntimeError when nothing could be begun.
    """
    require()
    from stuntime.sandbox import image, lock, namespaces, preflight

    preflight.check(capture=arguments.capture)
    namespaces.require_visible(arguments.output or arguments.resume or Path())
    with lock.only_sandbox():
        preflight.check_memory()
        built = image.guest_image()
        output = opened()
        return output, namespaces.run_inside(lambda: guarded(lambda: _inside(arguments, built, output)))


def _inside(arguments: argparse.Namespace, built: "GuestImage", output: "OutputDirectory") -> int:
    """Run the plan inside the sandbox's namespaces."""
    from stuntime.sandbox.testbed import SandboxTestbed
    from stuntime.suite import options_of, run_plan
    from stuntime.terminal import progress

    testbed = SandboxTestbed(built, accelerator=arguments.accelerator, keep=arguments.keep)
    with progress(len(output.missing())) as report:
        run_plan(testbed, output, options_of(output.plan), report)
    return ExitCode.OK
