"""What inventories say of the sandbox as a platform of others, and of libvirt on its nodes."""

import subprocess
import sys
from pathlib import Path

from stuntime.sandbox.nodes import NODES

_HERE = Path(__file__).parent
ASK = f"{sys.executable} -I {_HERE / 'ask.py'}"
LIBVIRT = (sys.executable, "-m", "tests.ssh.libvirt")
PLATFORM = (sys.executable, "-m", "tests.ssh.platform")
_TCPDUMP = "tcpdump -Z root -i tap-static-1 -U --immediate-mode -w - 'icmp or icmp6'"

_INVENTORY = """\
platform: {{name: sandbox, version: "1", cluster: from-outside, accelerator: tcg}}
guests:
  static: {{ssh: vm-static, node: {nodes[0]}}}
  migrated: {{ssh: vm-migrated}}
nodes: {{{nodes[0]}: , {nodes[1]}: , {nodes[2]}: }}
networks:
  {network}: {{type: {network}, nic: veth, static: "10.200.0.1, fd00:200::1", migrated: "10.200.0.2, fd00:200::2"}}
commands:
  migrate: {ask} migrate {{target}}
  verify: {ask} where
  capture: nsenter --net=/run/netns/{nodes[0]} {tcpdump}
facts: {{purpose: tests}}
"""


def inventory(network: str) -> str:
    """Return the inventory of a sandbox with this network."""
    return _INVENTORY.format(nodes=[node.name for node in NODES], network=network, ask=ASK, tcpdump=_TCPDUMP)


_LIBVIRT_INVENTORY = """\
platform: {{name: libvirt, version: "{version}", cluster: sandbox-of-libvirt, accelerator: tcg}}
guests:
  static: {{ssh: vm-static, node: {nodes[0]}}}
  migrated: {{ssh: vm-migrated}}
nodes: {{{nodes[0]}: , {nodes[1]}: , {nodes[2]}: }}
networks:
  linux-bridge: {{type: linux-bridge, nic: veth, static: 10.200.0.1, migrated: 10.200.0.2}}
commands:
  migrate: virsh -q -c qemu+tcp://{{source}}/system migrate --live migrated qemu+tcp://{{target}}/system \
--migrateuri tcp://{{target}}
  verify: sh -c 'for n in {all}; do virsh -c qemu+tcp://$n/system domstate migrated 2>/dev/null | grep -q running \
&& echo $n; done; true'
  capture: nsenter --net=/run/netns/{name} {tcpdump}
"""


def libvirt_inventory() -> str:
    """Return the inventory of libvirt daemons on the sandbox's nodes, which are called by their addresses."""
    told = subprocess.run(["libvirtd", "--version"], capture_output=True, text=True, check=True).stdout
    addresses = [node.address for node in NODES]
    return _LIBVIRT_INVENTORY.format(
        version=told.split()[-1], nodes=addresses, all=" ".join(addresses), name=NODES[0].name, tcpdump=_TCPDUMP
    )
