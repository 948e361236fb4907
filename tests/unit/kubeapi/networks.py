"""Fakes of kubernetes-nmstate and OVN-Kubernetes: policies that nodes enact, and networks that make NADs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType

from stuntime.kubevirt.kinds import CUDN, NAD, NAMESPACE, NNCE, NNCP, NNS, NODE, Kind, Object, condition, selector
from tests.unit.kubeapi.server import FakeServer
from tests.unit.kubeapi.store import Change, RefusedError, Selector

_OF_POLICY = ("Available", "Degraded", "Progressing")
_OF_NODE = ("Available", "Failing", "Progressing", "Pending", "Aborted")
_PROGRESSING = "ConfigurationProgressing"
_WEBHOOK = "nodenetworkconfigurationpolicies-update-validate.nmstate.io"
_FINALIZER = "k8s.ovn.org/user-defined-network-protection"


class FakeNMState:
    """Enacts each NodeNetworkConfigurationPolicy on the nodes that it selects, one after the other.

    `refusals` names nodes that cannot, and what they say. Each node has a NodeNetworkState with these NICs, up and
    unused; a policy's interfaces do not show there. As the webhook has it, a policy cannot be changed while nodes are
    at it, or before they have begun.
    """

    def __init__(self, server: FakeServer, *, nics: tuple[str, ...] = ("eno1", "eno2"), step_s: float = 0.02) -> None:
        self.refusals: dict[str, str] = {}
        self.enacted: list[tuple[str, str, Object]] = []
        self._server, self._store = server, server.store
        self.step_s = step_s
        server.store.revision.append(_require_settled)
        server.store.listeners.append(lambda change: server.worker.later(0, partial(self._react, change)))
        for node in self._nodes():
            interfaces = [{"name": nic, "type": "ethernet", "state": "up", "mtu": 1500} for nic in nics]
            state = {"status": {"currentState": {"interfaces": interfaces}}}
            server.seed(NNS, {**NNS.object(node), **state})

    def _nodes(self, labels: Mapping[str, str] = MappingProxyType({})) -> list[str]:
        return [one["metadata"]["name"] for one in self._store.find(Selector(NODE, None, selector(dict(labels))))[0]]

    def _react(self, change: Change) -> None:
        if change.kind != NNCP or change.type == "DELETED":
            return
        before = (change.before or {}).get("metadata", {}).get("generation")
        if before != change.after["metadata"]["generation"]:
            self._server.worker.play(self._enact(change.after))

    def _enact(self, policy: Object) -> Iterator[float]:
        name, generation = policy["metadata"]["name"], policy["metadata"]["generation"]
        self._say(policy, _conditions(_OF_POLICY, "Progressing", _PROGRESSING))
        failed = []
        nodes = self._nodes(policy["spec"].get("nodeSelector") or {})
        for node in nodes:
            yield self.step_s
            current = self._store.get(NNCP, "", name)
            if current is None or current["metadata"]["generation"] != generation:
                return
            enactment = self._enactment(policy, node)
            self._told(enactment, generation, _conditions(_OF_NODE, "Progressing", _PROGRESSING))
            yield self.step_s
            if node in self.refusals:
                failed.append(node)
                told = _conditions(_OF_NODE, "Failing", "FailedToConfigure", self.refusals[node])
            else:
                self.enacted.append((node, name, policy["spec"]["desiredState"]))
                told = _conditions(_OF_NODE, "Available", "SuccessfullyConfigured", "successfully reconciled")
            self._told(enactment, generation, told)
        if failed:
            counted = f"{len(failed)}/{len(nodes)} nodes failed to configure"
            self._say(policy, _conditions(_OF_POLICY, "Degraded", "FailedToConfigure", counted))
        else:
            counted = f"{len(nodes)}/{len(nodes)} nodes successfully configured"
            self._say(policy, _conditions(_OF_POLICY, "Available", "SuccessfullyConfigured", counted))

    def _enactment(self, policy: Object, node: str) -> Object:
        name = f"{node}.{policy['metadata']['name']}"
        found = self._store.get(NNCE, "", name)
        if found is not None:
            return found
        owner = {"apiVersion": NNCP.api_version, "kind": NNCP.name, "name": policy["metadata"]["name"]}
        made = NNCE.object(name, owners=[{**owner, "uid": policy["metadata"]["uid"]}])
        made["metadata"]["labels"] = {"nmstate.io/policy": policy["metadata"]["name"], "nmstate.io/node": node}
        return self._store.create(NNCE, "", made)

    def _told(self, enactment: Object, generation: int, conditions: list[Object]) -> None:
        status = {"policyGeneration": generation, "conditions": conditions}
        self._store.edit(NNCE, enactment, lambda one: one.update(status=status))

    def _say(self, policy: Object, conditions: list[Object]) -> None:
        self._store.edit(NNCP, policy, lambda one: one.update(status={"conditions": conditions}))


class FakeOVN:
    """Makes the NAD of each ClusterUserDefinedNetwork in the namespaces it selects; `refusal` says why it cannot."""

    def __init__(self, server: FakeServer, *, step_s: float = 0.02) -> None:
        self.refusal = ""
        self._server, self._store = server, server.store
        self.step_s = step_s
        server.store.listeners.append(lambda change: server.worker.later(self.step_s, partial(self._react, change)))

    def _react(self, change: Change) -> None:
        if change.kind != CUDN:
            return
        network = change.after
        if change.type == "ADDED":
            self._make(network)
        elif change.type == "MODIFIED" and network["metadata"].get("deletionTimestamp"):
            for namespace in self._selected(network):
                with suppress(RefusedError):
                    self._store.delete(NAD, namespace, network["metadata"]["name"])
            self._store.edit(CUDN, network, lambda one: one["metadata"].update(finalizers=[]))

    def _make(self, network: Object) -> None:
        self._store.edit(CUDN, network, lambda one: one["metadata"].update(finalizers=[_FINALIZER]))
        name, refusal = network["metadata"]["name"], self.refusal
        owner = {"apiVersion": CUDN.api_version, "kind": CUDN.name, "name": name, "uid": network["metadata"]["uid"]}
        selected = self._selected(network)
        for namespace in [] if refusal else selected:
            if self._store.get(NAD, namespace, name) is not None:
                refusal = (
                    f"foreign NetworkAttachmentDefinition with the desired name already exist [{namespace}/{name}]"
                )
                continue
            config = self._configuration(network, namespace)
            made = NAD.object(name, owners=[{**owner, "controller": True}], spec={"config": json.dumps(config)})
            self._store.create(NAD, namespace, made)
        condition = {
            "type": "NetworkCreated",
            "status": "False" if refusal else "True",
            "reason": "NetworkAttachmentDefinitionSyncError" if refusal else "NetworkAttachmentDefinitionCreated",
            "message": refusal or f"NetworkAttachmentDefinition has been created in following namespaces: {selected}",
        }
        self._store.edit(CUDN, network, lambda one: one.update(status={"conditions": [condition]}))

    def _selected(self, network: Object) -> list[str]:
        labels = network["spec"]["namespaceSelector"].get("matchLabels") or {}
        wanted = ",".join(f"{key}={value}" for key, value in labels.items())
        return [one["metadata"]["name"] for one in self._store.find(Selector(NAMESPACE, None, wanted))[0]]

    @staticmethod
    def _configuration(network: Object, namespace: str) -> Object:
        name, localnet = network["metadata"]["name"], network["spec"]["network"]["localnet"]
        vlan = (localnet.get("vlan") or {}).get("access", {}).get("id")
        return {
            "cniVersion": "1.1.0",
            "name": f"cluster_udn_{name}",
            "type": "ovn-k8s-cni-overlay",
            "netAttachDefName": f"{namespace}/{name}",
            "topology": "localnet",
            "role": "secondary",
            "physicalNetworkName": localnet["physicalNetworkName"],
            **({"vlanID": vlan} if vlan else {}),
            **({"mtu": localnet["mtu"]} if localnet.get("mtu") else {}),
        }


def _require_settled(kind: Kind, before: Object, after: Object) -> None:
    reason = condition(before, "Available").get("reason") or _PROGRESSING
    if kind == NNCP and before["spec"] != after["spec"] and reason == _PROGRESSING:
        name = before["metadata"]["name"]
        told = f"failed to admit {NNCP.name} {name}: message: policy {name} is still in progress. "
        raise RefusedError(403, f'admission webhook "{_WEBHOOK}" denied the request: {told}')


def _conditions(kinds: tuple[str, ...], true: str, reason: str, message: str = "") -> list[Object]:
    """Return the conditions of an object, of which one is true."""
    return [
        {"type": kind, "status": "True" if kind == true else "False", "reason": reason, "message": message}
        for kind in kinds
    ]
