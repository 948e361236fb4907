"""The stand-in for kubernetes-nmstate's handler on one node: does what policies say with `ip` and `ovs-vsctl`."""

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import structlog
from kubernetes.client.exceptions import ApiException

from stuntime.errors import TestbedError
from stuntime.sandbox.process import run
from stuntime.waiting import wait_until
from tests.cluster.standins import conditions
from tests.cluster.standins.desired import HIDDEN, RefusedError, Step, plan
from tests.cluster.standins.kube import Api, Object, View, now, selects
from tests.cluster.standins.node_state import current_state
from tests.cluster.standins.ovn_daemons import DATAPATH, SWITCH

_log = structlog.get_logger()

_NODES = "/api/v1/nodes"
_POLICIES = "/apis/nmstate.io/v1/nodenetworkconfigurationpolicies"
_ENACTMENTS = "/apis/nmstate.io/v1beta1/nodenetworkconfigurationenactments"
_STATES = "/apis/nmstate.io/v1beta1/nodenetworkstates"
_QUIET_S = 1.0
_TRIES = 20


class Handler:
    """Applies each generation of each policy once, and reports."""

    def __init__(self, api: Api, node: str) -> None:
        """Follow policies, nodes and this node's links."""
        self._api, self._node = api, node
        self._changed = threading.Event()
        self._policies = View(api, _POLICIES, self._changed)
        self._nodes = View(api, _NODES, self._changed)
        self._done: set[tuple[str, int, bool]] = set()
        self._reported: Mapping[str, Any] | None = None
        self._stale = True
        threading.Thread(target=self._follow_links, daemon=True).start()

    def run(self) -> None:
        """Work for ever."""
        self._policies.seen.wait()
        self._nodes.seen.wait()
        while True:
            self._changed.clear()
            for policy in self._policies.objects():
                self._policy(policy)
            if self._stale:
                self._stale = False
                self._report()
            self._changed.wait()

    def _policy(self, policy: Object) -> None:
        selected = self._selected(policy, self._node)
        key = (policy["metadata"]["uid"], policy["metadata"]["generation"], selected)
        if key in self._done:
            return
        if selected:
            self._enact(policy)
        else:
            self._api.delete(f"{_ENACTMENTS}/{self._node}.{policy['metadata']['name']}")
        self._sum_up(policy["metadata"]["name"])
        self._done.add(key)

    def _selected(self, policy: Object, node: str) -> bool:
        labels = {each["metadata"]["name"]: each["metadata"].get("labels", {}) for each in self._nodes.objects()}
        return selects({"matchLabels": policy["spec"].get("nodeSelector", {})}, labels.get(node, {}))

    def _enact(self, policy: Object) -> None:
        self._say(policy, "Progressing", "Applying desired state")
        try:
            apply(plan(policy["spec"], current_state(run), DATAPATH))
        except (RefusedError, TestbedError) as error:
            self._say(policy, "Failing", f"error reconciling NodeNetworkConfigurationPolicy: {error}")
        else:
            # The state is there before the success is: who waits for the one may read the other.
            self._report()
            self._say(policy, "Available", "successfully reconciled")

    def _say(self, policy: Object, phase: str, message: str) -> None:
        name = policy["metadata"]["name"]
        _log.info("enactment", policy=name, phase=phase, message=message)
        labels = {"nmstate.io/policy": name, "nmstate.io/node": self._node}
        path = f"{self._node}.{name}"
        metadata = {"name": path, "labels": labels, "ownerReferences": [_owner(policy)]}
        kind = {"apiVersion": "nmstate.io/v1beta1", "kind": "NodeNetworkConfigurationEnactment"}
        made = self._api.ensure(_ENACTMENTS, {**kind, "metadata": metadata})
        if made["metadata"].get("ownerReferences") != metadata["ownerReferences"]:
            # That of an earlier policy of this name: the garbage collector is about to take it.
            self._api.delete(f"{_ENACTMENTS}/{path}")
            made = self._api.ensure(_ENACTMENTS, {**kind, "metadata": metadata})
        before = made.get("status", {}).get("conditions", [])
        status = {
            "desiredState": policy["spec"].get("desiredState", {}),
            "policyGeneration": policy["metadata"]["generation"],
            "conditions": conditions.enactment(phase, message, now(), before),
        }
        self._api.patch(f"{_ENACTMENTS}/{path}/status", {"status": status})
        if phase == "Progressing":
            self._sum_up(name)

    def _sum_up(self, name: str) -> None:
        """Set the policy's conditions from its enactments. Every node does, so whoever conflicts looks again."""
        for _ in range(_TRIES):
            policy = self._api.find(f"{_POLICIES}/{name}")
            if policy is None:
                return
            enactments = self._api.call("GET", _ENACTMENTS, labelSelector=f"nmstate.io/policy={name}")["items"]
            nodes = sum(self._selected(policy, each["metadata"]["name"]) for each in self._nodes.objects())
            before = policy.get("status", {}).get("conditions", [])
            told = conditions.policy(policy["metadata"]["generation"], nodes, enactments, now(), before)
            try:
                self._api.call("PUT", f"{_POLICIES}/{name}/status", {**policy, "status": {"conditions": told}})
            except ApiException as error:
                if error.status not in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                    raise
            else:
                return

    def _report(self) -> None:
        state = current_state(run)
        if state == self._reported:
            return
        owner = self._api.call("GET", f"{_NODES}/{self._node}")
        metadata = {"name": self._node, "ownerReferences": [_owner({**owner, "apiVersion": "v1", "kind": "Node"})]}
        kind = {"apiVersion": "nmstate.io/v1beta1", "kind": "NodeNetworkState"}
        self._api.ensure(_STATES, {**kind, "metadata": metadata})
        status = {"currentState": state, "lastSuccessfulUpdateTime": now()}
        self._api.patch(f"{_STATES}/{self._node}/status", {"status": status})
        self._reported = state

    def _follow_links(self) -> None:
        with subprocess.Popen(["ip", "-oneline", "monitor", "link"], stdout=subprocess.PIPE, text=True) as monitor:
            for line in monitor.stdout or ():
                name = line.partition(": ")[2]
                if not name.startswith(HIDDEN):
                    time.sleep(_QUIET_S)  # they come in bursts
                    self._stale = True
                    self._changed.set()


def apply(steps: Sequence[Step]) -> None:
    """Take the steps; when one fails, undo those before it and raise its error."""
    undo: list[Sequence[str]] = []
    try:
        for step in steps:
            run(step.do)
            if step.undo:
                undo.append(step.undo)
    except TestbedError:
        for command in reversed(undo):
            try:
                run(command)
            except TestbedError as error:
                _log.warning("rollback.failed", command=" ".join(command), error=str(error))
        raise


def _owner(thing: Object) -> dict[str, str]:
    named = {key: thing["metadata"][key] for key in ("name", "uid")}
    return {"apiVersion": thing["apiVersion"], "kind": thing["kind"], **named}


if __name__ == "__main__":
    wait_until((SWITCH / "db.sock").exists, timeout_s=60, what="the node's Open vSwitch")
    Handler(Api(Path(os.environ["KUBECONFIG"])), os.environ["NODE_NAME"]).run()
