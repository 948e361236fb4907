"""What guests say of themselves, and whether they are two that may be measured."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from stuntime.errors import UnfitError
from stuntime.ssh.shell import SshShell
from stuntime.testbed import Pair

_QUESTION = (
    "cat /proc/sys/kernel/random/boot_id && uname -r"
    " && ( [ ! -r /etc/os-release ] || . /etc/os-release; echo ${PRETTY_NAME:-unknown} )"
    " && ( ip -o address show 2>/dev/null || true )"
)


@dataclass(frozen=True)
class GuestFacts:
    """A guest: which boot of which machine it is, its kernel and system, its addresses as far as it tells them.

    `over` is the address that ssh reached it by; empty when that is not known.
    """

    boot: str
    kernel: str
    system: str
    addresses: frozenset[str]
    over: str

    @classmethod
    def parse(cls, said: str, over: str) -> "GuestFacts":
        """Return what a guest answered to the question."""
        boot, kernel, system, *links = [*said.splitlines(), "", ""]
        words = [line.split() for line in links]
        addresses = {line[3].partition("/")[0] for line in words if line[2:3] in (["inet"], ["inet6"])}
        return cls(boot, kernel, system, frozenset(addresses), over)


def looked_at(shell: SshShell) -> GuestFacts:
    """Return what a guest says of itself."""
    return GuestFacts.parse(shell.run(_QUESTION), shell.over())


def require_apart(pair: Pair, facts: Mapping[str, GuestFacts], family: str, hosts: Mapping[str, str]) -> None:
    """Raise UnfitError when the guests are one, not those with the addresses, or reached over what is measured."""
    if facts["static"].boot == facts["migrated"].boot:
        raise UnfitError(
            f"{hosts['static']} and {hosts['migrated']} are the same guest",
            "one stays, the other is migrated: name two VMs",
            reason="same-guest",
        )
    for vm in (pair.static, pair.migrated):
        known, host, measured = facts[vm.name], hosts[vm.name], ip_address(vm.addresses[family])
        if known.addresses and str(measured) not in known.addresses:
            raise UnfitError(
                f"guest {host} does not have the address {measured}",
                f"it has {', '.join(sorted(known.addresses))}; is it the {vm.name} VM?",
                reason="address-elsewhere",
            )
        if _same(known.over, measured):
            raise UnfitError(
                f"ssh reaches guest {host} over the network that is measured ({measured})",
                "reach it over another one: what ssh sends would teach the measured network where the VM is",
                reason="management-network",
            )


def _same(text: str, measured: IPv4Address | IPv6Address) -> bool:
    with suppress(ValueError):
        return ip_address(text.removeprefix("::ffff:").partition("%")[0]) == measured
    return False
