"""How a cluster is to be measured: what a user can set, checked before anything is made."""

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from stuntime.errors import UsageError
from stuntime.kubevirt.kinds import Object

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_NIC = re.compile(r"[A-Za-z0-9_.@-]{1,15}")
_QUANTITY = re.compile(r"[1-9][0-9]*(Mi|Gi)")
_VLANS = range(1, 4095)
_MTUS = range(1280, 65536)
_LEAST_ADDRESSES = 256
_LONGEST_RUN = 40
_OWNERS = ("PipelineRun", "TaskRun")
DEFAULT_IMAGE = "quay.io/containerdisks/fedora:43"


@dataclass(frozen=True)
class Guest:
    """What the VMs boot from: a containerDisk with cloud-init (`disk`), or a container with a kernel (`kernel`).

    A guest of a kernel is `kernel_path` and `initrd_path` in the image; it has a root shell on its console and takes
    its name and addresses from vm_name, vm_ipv4 and vm_ipv6 of its command line.
    """

    image: str = DEFAULT_IMAGE
    boot: str = "disk"
    memory: str = "1Gi"
    kernel_path: str = "/boot/vmlinuz"
    initrd_path: str = "/boot/initrd.img"

    def __post_init__(self) -> None:
        """Raise UsageError when the memory is no quantity."""
        if not _QUANTITY.fullmatch(self.memory):
            raise UsageError(f"{self.memory!r} is no amount of memory", "write --guest-memory 1Gi, or 256Mi")


@dataclass(frozen=True)
class NetworkSettings:
    """How the networks are made, or (`nads`: NAD's name by network) which existing ones are used.

    `nic` None: the last one that is up, unused and named alike on all nodes. `mtu` None: the NIC's own.
    """

    nic: str | None = None
    vlan: int | None = None
    mtu: int | None = None
    nads: Mapping[str, str] = field(default_factory=dict)
    nic_wait_s: float = 0.0

    def __post_init__(self) -> None:
        """Raise UsageError when something cannot be."""
        if self.nic is not None and not _NIC.fullmatch(self.nic):
            raise UsageError(f"{self.nic!r} is no name of a NIC", "name it as `ip link` on the nodes does")
        if self.vlan is not None and self.vlan not in _VLANS:
            raise UsageError(f"{self.vlan} is no VLAN id", "take one of 1 to 4094")
        if self.mtu is not None and self.mtu not in _MTUS:
            raise UsageError(f"{self.mtu} is no MTU that IPv6 can live with", "take one of 1280 to 65535")
        for network, nad in self.nads.items():
            if not _NAME.fullmatch(nad):
                raise UsageError(f"{nad!r} is no name of a NAD", f"write --nad {network}=NAME, of this namespace")


@dataclass(frozen=True)
class Addresses:
    """The subnets that the VMs' addresses come from, one of each family."""

    ipv4: str = "10.200.0.0/16"
    ipv6: str = "fd00:200::/64"

    def __post_init__(self) -> None:
        """Raise UsageError when one is no subnet, or too small for two runs to keep apart."""
        for family, text in ((4, self.ipv4), (6, self.ipv6)):
            try:
                subnet = ipaddress.ip_network(text)
            except ValueError as error:
                raise UsageError(f"{text!r} is no subnet: {error}", "write it as 10.200.0.0/16") from error
            if subnet.version != family or subnet.num_addresses < _LEAST_ADDRESSES:
                raise UsageError(
                    f"{text} is no subnet of IPv{family} with room for {_LEAST_ADDRESSES} addresses",
                    f"give --ipv{family}-subnet a larger one that nobody else uses on this network",
                )

    def of(self, number: int) -> dict[str, str]:
        """Return the address with this number in each subnet, by ip family; numbers go round."""
        found = {}
        for family, text in (("ipv4", self.ipv4), ("ipv6", self.ipv6)):
            subnet = ipaddress.ip_network(text)
            found[family] = str(subnet[1 + number % (min(subnet.num_addresses, 1 << 62) - 2)])
        return found

    def with_prefix(self, addresses: Mapping[str, str]) -> dict[str, str]:
        """Return addresses with the length of their subnet's prefix."""
        lengths = {"ipv4": ipaddress.ip_network(self.ipv4).prefixlen, "ipv6": ipaddress.ip_network(self.ipv6).prefixlen}
        return {family: f"{address}/{lengths[family]}" for family, address in addresses.items()}


@dataclass(frozen=True)
class Settings:
    """All that can be set for a cluster.

    `nodes` empty: the first ones, by name, that can run VMs and have the labels of `node_selector`. `owner` None: what
    is made belongs to the run itself, and goes when it ends.
    """

    run: str
    guest: Guest = field(default_factory=Guest)
    networks: NetworkSettings = field(default_factory=NetworkSettings)
    addresses: Addresses = field(default_factory=Addresses)
    nodes: tuple[str, ...] = ()
    boot_timeout_s: float = 600.0
    window_namespace: str = "stuntime"
    node_selector: str = ""
    owner: "Owner | None" = None

    def __post_init__(self) -> None:
        """Raise UsageError when a node is named twice."""
        if len(set(self.nodes)) != len(self.nodes):
            raise UsageError("a node is named twice", "name three different nodes")

    @property
    def run_name(self) -> str:
        """The run as labels and names of objects have it."""
        return run_name(self.run)

    @property
    def makes_networks(self) -> bool:
        """Whether a network under our name is one that this run has made, by whichever of its processes."""
        return self.owner is not None and self.owner.kind == "PipelineRun"

    def holder(self, namespace: str) -> str:
        """Return who holds a NIC for the VMs of a namespace, as its Lease tells a person."""
        return f"run {self.run_name} of namespace {namespace}"


@dataclass(frozen=True)
class Owner:
    """The Tekton object, of the same namespace, that what a run makes belongs to: it goes with it."""

    kind: str
    name: str
    uid: str

    @classmethod
    def parse(cls, text: str) -> "Owner":
        """Return the owner that a text names as KIND/NAME/UID; raise UsageError when it names none."""
        parts = text.split("/")
        if len(parts) != 3 or parts[0] not in _OWNERS or not all(parts):  # noqa: PLR2004 - kind, name, uid
            raise UsageError(
                f"{text!r} names no owner", f"write it as KIND/NAME/UID, where KIND is {' or '.join(_OWNERS)}"
            )
        return cls(*parts)

    @property
    def reference(self) -> Object:
        """The owner as an object's metadata has it."""
        return {"apiVersion": "tekton.dev/v1", "kind": self.kind, "name": self.name, "uid": self.uid}


def run_name(run: str) -> str:
    """Return a run as labels and names of objects have it; two that differ only after 40 characters stay apart."""
    name = re.sub(r"[^a-z0-9-]+", "-", run.lower()).strip("-")
    if len(name) <= _LONGEST_RUN:
        return name
    digest = hashlib.sha256(run.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_RUN - 9].strip('-')}-{digest}"
