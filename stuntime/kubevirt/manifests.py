"""The objects that are made of a VM: pure functions from settings to JSON."""

import json
from collections.abc import Mapping, Sequence

from stuntime.kubevirt.kinds import RUN_LABEL, SECRET, VM, VMIM, Object
from stuntime.kubevirt.settings import Guest

HOSTNAME = "kubernetes.io/hostname"
USER_DATA = "userdata"
MEASURED = "measured"
_IMAGE_VOLUME, _CLOUD_INIT_VOLUME = "system", "cloud-init"
# What is not needed takes a guest without KVM its time.
_KERNEL_ARGUMENTS = "console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on cryptomgr.notests"


def virtual_machine(
    name: str,
    guest: Guest,
    *,
    hostname: str,
    hostnames: Sequence[str],
    nad: str,
    mac: str,
    addresses: Mapping[str, str],
    secret: str,
    labels: Mapping[str, str],
    owners: list[Object],
) -> Object:
    """Return a VM with one NIC, on the network measured, that would like to run on one node and may go to some others.

    `addresses` are with prefix, by ip family; `hostname` is the label of the node it is for, `hostnames` are those of
    all nodes that have the network; `nad` is the network as NAMESPACE/NAME.
    A VM that ends does not start again: its end is a failure of the measurement.
    """
    affinity = {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [_one_of(hostnames)]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": _one_of([hostname])}],
    }
    domain: Object = {
        "cpu": {"cores": 1},
        "memory": {"guest": guest.memory},
        "devices": {
            "autoattachPodInterface": False,
            "autoattachGraphicsDevice": False,
            "autoattachMemBalloon": False,
            "interfaces": [{"name": MEASURED, "bridge": {}, "macAddress": mac, "model": "virtio"}],
        },
    }
    volumes: list[Object] = []
    if guest.boot == "kernel":
        words = f"{_KERNEL_ARGUMENTS} vm_name={name} vm_ipv4={addresses['ipv4']} vm_ipv6={addresses['ipv6']}"
        image = {"image": guest.image, "kernelPath": guest.kernel_path, "initrdPath": guest.initrd_path}
        domain["firmware"] = {"kernelBoot": {"kernelArgs": words, "container": image}}
    else:
        domain["devices"]["rng"] = {}
        domain["devices"]["disks"] = [
            {"name": volume, "disk": {"bus": "virtio"}} for volume in (_IMAGE_VOLUME, _CLOUD_INIT_VOLUME)
        ]
        cloud_init = {"secretRef": {"name": secret}, "networkData": network_data(mac, addresses)}
        volumes = [
            {"name": _IMAGE_VOLUME, "containerDisk": {"image": guest.image}},
            {"name": _CLOUD_INIT_VOLUME, "cloudInitNoCloud": cloud_init},
        ]
    instance: Object = {
        "terminationGracePeriodSeconds": 0,
        "affinity": {"nodeAffinity": affinity},
        "domain": domain,
        "networks": [{"name": MEASURED, "multus": {"networkName": nad}}],
        "volumes": volumes,
    }
    made = VM.object(name, labels=dict(labels), owners=owners)
    template = {"metadata": {"labels": made["metadata"]["labels"]}, "spec": instance}
    return {**made, "spec": {"runStrategy": "Once", "template": template}}


def _one_of(hostnames: Sequence[str]) -> Object:
    return {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": list(hostnames)}]}


def network_data(mac: str, addresses: Mapping[str, str]) -> str:
    """Return cloud-init's network configuration, version 2 (JSON is YAML): static addresses of both families."""
    nic = {
        "match": {"macaddress": mac},
        "dhcp4": False,
        "dhcp6": False,
        "accept-ra": False,
        "optional": True,
        "addresses": list(addresses.values()),
    }
    return json.dumps({"version": 2, "ethernets": {MEASURED: nic}})


def login_secret(name: str, password: str, *, labels: Mapping[str, str], owners: list[Object]) -> Object:
    """Return the secret that holds cloud-init's user data: root's password, for the console alone."""
    user_data = {
        "ssh_pwauth": False,
        "chpasswd": {"expire": False, "users": [{"name": "root", "password": password, "type": "text"}]},
    }
    data = {USER_DATA: f"#cloud-config\n{json.dumps(user_data)}\n"}
    return SECRET.object(name, labels=dict(labels), owners=owners, type="Opaque", stringData=data)


def migration(name: str, vm: str, hostname: str, *, labels: Mapping[str, str], owners: list[Object]) -> Object:
    """Return the migration of a VM to the node with this hostname label (KubeVirt 1.6 or newer)."""
    spec = {"vmiName": vm, "addedNodeSelector": {HOSTNAME: hostname}}
    return VMIM.object(name, labels=dict(labels), owners=owners, spec=spec)


def run_labels(run: str) -> dict[str, str]:
    """Return the labels of what belongs to a run."""
    return {RUN_LABEL: run}
