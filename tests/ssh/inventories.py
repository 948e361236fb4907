"""What an inventory says of the sandbox as a platform of others."""

import sys
from pathlib import Path

from stuntime.sandbox.nodes import NODES

_HERE = Path(__file__).parent
ASK = f"{sys.executable} -I {_HERE / 'ask.py'}"
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
