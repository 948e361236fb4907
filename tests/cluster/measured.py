"""The product's command line, with a packet capture at the static VM's tap: `python -m tests.cluster.measured ARGS`.

A capture needs rights on the nodes that the product does not ask for; from outside this cluster it is easy. Everything
else is the product's own way, so that its `--capture` compares each stuntime with the truth.
"""

import sys
from contextlib import AbstractContextManager
from pathlib import Path

from stuntime import cli
from stuntime.kubevirt.testbed import KubevirtTestbed
from stuntime.testbed import VirtualMachine
from tests.cluster.tap import captured


def _capture(testbed: KubevirtTestbed, vm: VirtualMachine, file: Path) -> AbstractContextManager[None]:
    return captured(testbed._api.namespace, vm.name, file)


if __name__ == "__main__":
    KubevirtTestbed.captures = True
    KubevirtTestbed.capture = _capture
    sys.exit(cli.main())
