"""The stand-in for OVN-Kubernetes beside the control plane: OVN's databases, and what pods and networks make there."""

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import structlog

from stuntime.sandbox.process import run
from tests.cluster.standins import localnet
from tests.cluster.standins.kube import Api, Object, View, now, selects
from tests.cluster.standins.localnet import FINALIZER, Network, Port
from tests.cluster.standins.ovn_daemons import start_central

_log = structlog.get_logger()

_NETWORKS = "/apis/k8s.ovn.org/v1/clusteruserdefinednetworks"
_DEFINITIONS = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions"


class Controller:
    """Keeps the northbound database and the definitions of attachments as pods and networks want them."""

    def __init__(self, api: Api, northbound: Path) -> None:
        """Follow what it acts upon."""
        self._api, self._northbound = api, northbound
        self._changed = threading.Event()
        self._pods = View(api, "/api/v1/pods", self._changed)
        self._namespaces = View(api, "/api/v1/namespaces", self._changed)
        self._definitions = View(api, _DEFINITIONS, self._changed)
        self._networks = View(api, _NETWORKS, self._changed)
        # What an earlier controller left is looked at once more: unknown is unequal to everything.
        self._ports: dict[str, Port | None] = dict.fromkeys(self._owned("Logical_Switch_Port"))
        self._switches: dict[str, Network | None] = dict.fromkeys(self._owned("Logical_Switch"))

    def run(self) -> None:
        """Work for ever."""
        for view in (self._pods, self._namespaces, self._definitions, self._networks):
            view.seen.wait()
        while True:
            self._changed.clear()
            self._update_ports()
            self._update_definitions()
            self._changed.wait()

    def _update_ports(self) -> None:
        """Write what has changed, in one transaction: a target is enabled when the source is disabled."""
        known = localnet.networks(self._definitions.objects())
        ports = localnet.ports(self._pods.objects(), known)
        switches = {network.switch: network for network in known.values()}
        changes = [
            *(_set_switch(each) for name, each in switches.items() if self._switches.get(name) != each),
            *(["--if-exists", "lsp-del", name] for name in self._ports if name not in ports),
            *(_set_port(port) for name, port in ports.items() if self._ports.get(name) != port),
            *(["--if-exists", "ls-del", name] for name in self._switches if name not in switches),
        ]
        if changes:
            self._nbctl(*(word for change in changes for word in ("--", *change)))
            for name, port in ports.items():
                if self._ports.get(name) != port:
                    _log.info("port", name=name, enabled=port.enabled)
            self._ports, self._switches = {**ports}, {**switches}

    def _update_definitions(self) -> None:
        definitions = {localnet.key(each): each for each in self._definitions.objects()}
        for each in definitions.values():
            if FINALIZER in each["metadata"].get("finalizers", []):
                self._let_go(each)
        for network in self._networks.objects():
            self._update_network(network, definitions)

    def _update_network(self, network: Object, definitions: Mapping[str, Object]) -> None:
        path, metadata = f"{_NETWORKS}/{network['metadata']['name']}", network["metadata"]
        owned = [each for each in definitions.values() if _owner(each) == metadata["uid"]]
        leaving = "deletionTimestamp" in metadata
        if leaving and not owned:
            if metadata.get("finalizers"):
                self._api.patch(path, {"metadata": {"finalizers": None}})
            return
        if not leaving and FINALIZER not in metadata.get("finalizers", []):
            self._api.patch(path, {"metadata": {"finalizers": [FINALIZER]}})
        wanted = [] if leaving else self._selected(network["spec"]["namespaceSelector"])
        errors = [*self._remove(owned, wanted), *self._make(network, wanted, definitions)]
        conditions = network.get("status", {}).get("conditions", [])
        told = localnet.network_created(wanted, errors, now(), next(iter(conditions), None))
        if conditions != [told]:
            self._api.patch(f"{path}/status", {"status": {"conditions": [told]}})

    def _selected(self, selector: Object) -> list[str]:
        return [
            each["metadata"]["name"]
            for each in self._namespaces.objects()
            if "deletionTimestamp" not in each["metadata"] and selects(selector, each["metadata"].get("labels", {}))
        ]

    def _make(self, network: Object, wanted: list[str], definitions: Mapping[str, Object]) -> Iterator[str]:
        for namespace in wanted:
            key = f"{namespace}/{network['metadata']['name']}"
            there = definitions.get(key)
            if there is None:
                there = self._api.ensure(_collection(namespace), localnet.attachment_definition(network, namespace))
            if _owner(there) != network["metadata"]["uid"]:
                yield f"foreign NetworkAttachmentDefinition with the desired name already exist [{key}]"

    def _remove(self, owned: list[Object], wanted: list[str]) -> Iterator[str]:
        for each in owned:
            metadata = each["metadata"]
            if metadata["namespace"] in wanted:
                continue
            if "deletionTimestamp" not in metadata:
                self._api.delete(f"{_collection(metadata['namespace'])}/{metadata['name']}")
            users = self._users(each)
            if users:
                key = localnet.key(each)
                yield f"failed to delete NetworkAttachmentDefinition [{key}]: in use by the following pods: {users}"

    def _let_go(self, definition: Object) -> None:
        metadata = definition["metadata"]
        if "deletionTimestamp" in metadata and not self._users(definition):
            path = f"{_collection(metadata['namespace'])}/{metadata['name']}"
            self._api.patch(path, {"metadata": {"finalizers": None}})

    def _users(self, definition: Object) -> list[str]:
        key = localnet.key(definition)
        return [
            localnet.key(pod)
            for pod in self._pods.objects()
            if not localnet.completed(pod) and key in dict(localnet.attachments(pod))
        ]

    def _owned(self, table: str) -> list[str]:
        found = self._nbctl("--bare", "--columns=name", "find", table, "external_ids:owner=stand-in")
        return found.split()

    def _nbctl(self, *arguments: str) -> str:
        return run(["ovn-nbctl", f"--db=unix:{self._northbound}", "--timeout=15", *arguments])


def _set_switch(network: Network) -> list[str]:
    return [
        "--may-exist", "ls-add", network.switch,
        "--", "set", "Logical_Switch", network.switch, "external_ids:owner=stand-in",
        "--", "--may-exist", "lsp-add", network.switch, network.uplink,
        "--", "lsp-set-type", network.uplink, "localnet",
        "--", "lsp-set-addresses", network.uplink, "unknown",
        "--", "lsp-set-options", network.uplink, f"network_name={network.physical}",
        "--", "set", "Logical_Switch_Port", network.uplink, f"tag_request={network.vlan or '[]'}",
    ]  # fmt: skip


def _set_port(port: Port) -> list[str]:
    return [
        "--may-exist", "lsp-add", port.network.switch, port.name,
        "--", "set", "Logical_Switch_Port", port.name, "external_ids:owner=stand-in",
        "--", "lsp-set-enabled", port.name, "enabled" if port.enabled else "disabled",
        "--", "lsp-set-addresses", port.name, *([port.mac] if port.enabled else []),
    ]  # fmt: skip


def _owner(definition: Object) -> str | None:
    owners = definition["metadata"].get("ownerReferences", [])
    return next((owner["uid"] for owner in owners if owner["kind"] == "ClusterUserDefinedNetwork"), None)


def _collection(namespace: str) -> str:
    return f"/apis/k8s.cni.cncf.io/v1/namespaces/{namespace}/network-attachment-definitions"


if __name__ == "__main__":
    central, database = start_central(Path(os.environ["STANDIN_DIR"]), os.environ["CONTROL_IP"])
    threading.Thread(target=central.watch, daemon=True).start()
    Controller(Api(Path(os.environ["KUBECONFIG"])), database).run()
