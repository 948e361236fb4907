"""The networks on a cluster: made on a spare NIC of the nodes by NMState, or found by the name of a NAD."""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from stuntime.errors import TestbedError, UnfitError
from stuntime.kubevirt import nics
from stuntime.kubevirt.api import Api, ApiError, ConflictError
from stuntime.kubevirt.cluster import Node
from stuntime.kubevirt.kinds import (
    CUDN,
    NAD,
    NAMESPACE_LABEL,
    NNCE,
    NNCP,
    NNS,
    OURS,
    RUN_LABEL,
    Kind,
    Object,
    cleaning_up,
    condition,
    selector,
)
from stuntime.kubevirt.plans import NETWORK_LABEL, Plan, former_mtu, name_of, node_selector

_log = structlog.get_logger()

_REFRESHED_S = 15.0
_TRIED_S = 10.0
CONFIGURED_S = 480.0  # NMState gives a node four minutes, and nodes go one after the other
_ATTACHED_S = 60.0
_PAUSE_S = 1.0
_POLICY_LABEL = "nmstate.io/policy"
_IN_PROGRESS = "still in progress"
_NOT_FOUND, _CONFLICT, _INVALID = 404, 409, 422
#: What VMs are attached by, whichever network it is.
_ATTACHMENTS = {"linux-bridge": NAD, "ovn-localnet": CUDN}
#: What a NAD's configuration says of itself and nothing of the network.
_OF_ITSELF = ("name", "netAttachDefName")


@dataclass(frozen=True)
class Attachment:
    """A network that VMs can be attached to: its NAD, and the configuration that goes into results."""

    nad: str
    configuration: Mapping[str, Any]
    nic: str | None


def hold_nics(api: Api, plan: Plan, hold: Callable[[str], object]) -> list[str]:
    """Have every NIC held that has to be to make a network, and return them.

    They are the plan's own and those of networks of ours that have to go first: somebody's, until those are given.
    """
    held: list[str] = []
    while True:
        there = nics_of(api)
        needed = {plan.nic}.union(*(there[network] for network in _in_the_way(plan, there)))
        if needed <= set(held):
            return held
        for nic in sorted(needed - set(held)):
            hold(nic)
            held.append(nic)


def up(api: Api, plan: Plan, nodes: Sequence[Node], labels: Mapping[str, str], held: Collection[str]) -> Attachment:
    """Make a network and wait until every one of the nodes has it; return how VMs are attached to it.

    One that another run has left, that is not as it is planned now, or that has the NIC, is taken away first from these
    nodes: the caller holds its NICs (`held`, from `hold_nics`). Raise UnfitError, with NMState's own words, when a node
    cannot be configured.
    """
    mtus = _former_mtus(api, plan, nodes)
    for other in _in_the_way(plan, nics_of(api)):
        if other != plan.network:
            _take_away(api, other, nodes, held)
    found = [one for one in _objects(api, plan.network) if _concerns(one, nodes)]
    if any(_is_stale(one, plan, labels[RUN_LABEL]) for one in found):
        _take_away(api, plan.network, nodes, held)
        found = []
    there = {(one["kind"], one["metadata"]["name"]): one for one in found}
    policies = {
        node.name: there.get((NNCP.name, plan.policy_name(node)))
        or _make(api, NNCP, plan.policy(node, labels, mtus.get(node.name)))
        for node in nodes
    }
    awaited = {f"{node}.{policy['metadata']['name']}" for node, policy in policies.items()}
    _require_enacted(api, list(policies.values()), awaited)
    kind, attachment = plan.attachment(labels)
    if (kind.name, plan.name) not in there:
        _make(api, kind, attachment)
    if kind is CUDN:
        api.wait(
            CUDN,
            plan.name,
            lambda found: condition(found, "NetworkCreated").get("status") == "True",
            timeout_s=_ATTACHED_S,
            what=f"the network of {CUDN.name} {plan.name}",
        )
        api.wait(NAD, plan.name, lambda found: found is not None, timeout_s=_ATTACHED_S, what=f"the NAD {plan.name}")
    return existing(api, plan.name, plan.nic)


def down(
    api: Api,
    network: str,
    *,
    run: str | None = None,
    nodes: Sequence[Node] | None = None,
    timeout_s: float = CONFIGURED_S,
) -> None:
    """Take a network away, or what one run has made of it, or what is on some nodes, and give them their NIC back.

    Nothing is done where nothing is left. Raise TestbedError when a node did not get its NIC back; the others have.
    """
    deadline = time.monotonic() + timeout_s
    kind = _ATTACHMENTS[network]
    troubles: dict[str, str] = {}  # what was not done, and the way out
    for found in _find(api, kind, network, run):
        try:
            _delete(api, kind, found, min(_ATTACHED_S, timeout_s / 2))
        except TestbedError as error:
            troubles[str(error)] = cleaning_up(found)
    policies = []
    for found in _find(api, NNCP, network, run):
        if nodes is not None and not _concerns(found, nodes):
            continue
        try:
            policies += _taken_back(api, found, deadline)
        except ApiError as error:
            troubles[str(error)] = cleaning_up(found)
        except TestbedError as error:
            troubles[str(error)] = error.way_out
    told = _not_enacted(api, policies, deadline)
    for policy in policies:
        name = policy["metadata"]["name"]
        if stuck := [one for enactment, one in told.items() if enactment.endswith(f".{name}")]:
            troubles |= dict.fromkeys(stuck, cleaning_up(policy))
        else:
            _delete(api, NNCP, policy)
    if troubles:
        raise TestbedError(
            f"{name_of(network)} is not gone everywhere: {'; '.join(troubles)}",
            f"mend that, and take it away again: {'; '.join(dict.fromkeys(troubles.values()))}",
            reason="network-left",
        )


def makers_of(api: Api, network: str) -> list[tuple[str, str]]:
    """Return who has made something of a network that is there: the namespace and the run of each."""
    return _makers(_objects(api, network))


def nics_of(api: Api) -> dict[str, set[str]]:
    """Return the NICs that our networks which are up, or half taken away, were made on, by network."""
    found: dict[str, set[str]] = {}
    for plan in map(Plan.of, _find(api, NNCP)):
        if plan is not None:
            found.setdefault(plan.network, set()).add(plan.nic)
    return found


def nics_of_run(api: Api, run: str) -> set[str]:
    """Return the NICs that a run of our namespace has a network on."""
    return {plan.nic for plan in map(Plan.of, _find(api, NNCP, run=run)) if plan is not None}


def nic_below(api: Api, network: str, nad: str) -> str | None:
    """Return the NIC of a network that another process of ours has made; None where it is not known."""
    try:
        return next(iter(nics_of(api).get(network, ())), None) if nad == name_of(network) else None
    except ApiError:
        return None


def require_made(api: Api, network: str, run: str) -> None:
    """Raise UnfitError unless a network is there, and its attachment is one that this run has made."""
    found = _find(api, _ATTACHMENTS[network], network)
    if _makers(found) != [(api.namespace, run)]:
        told = _told_makers(found)
        raise UnfitError(
            f"{name_of(network)} is not this run's: {f'it was made by {told}' if told else 'it is not there'}",
            "see what became of this run's network task, and start another run",
            reason="network-not-made",
        )


def existing(api: Api, name: str, nic: str | None = None) -> Attachment:
    """Return how VMs are attached to the network of a NAD; raise UnfitError when it is not there or says nothing."""
    found = api.get(NAD, name)
    if found is None:
        raise UnfitError(
            f"there is no NAD {name} in namespace {api.namespace}",
            "make it, name another with --nad, or let `stuntime network up` make one",
            reason="nad-missing",
        )
    try:
        configuration = json.loads((found.get("spec") or {}).get("config") or "")
    except ValueError as error:
        raise UnfitError(f"the NAD {name} has no configuration: {error}", "mend it", reason="nad-broken") from error
    return Attachment(f"{api.namespace}/{name}", described(configuration), nic)


def described(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a NAD's configuration says of the network, with the first plugin's settings beside the others.

    `disableContainerInterface` is there for every Linux bridge: it decides the value.
    """
    plugins = configuration.get("plugins") or [configuration]
    told = {**{key: value for key, value in configuration.items() if key != "plugins"}, **plugins[0]}
    if told.get("type") == "bridge":
        told["disableContainerInterface"] = bool(told.get("disableContainerInterface", False))
    return {key: value for key, value in sorted(told.items()) if key not in _OF_ITSELF}


def _makers(objects: Sequence[Object]) -> list[tuple[str, str]]:
    labels = [one["metadata"]["labels"] for one in objects]
    return sorted({(one.get(NAMESPACE_LABEL, ""), one.get(RUN_LABEL, "")) for one in labels})


def _told_makers(objects: Sequence[Object]) -> str:
    return ", ".join(f"run {run} of namespace {namespace}" for namespace, run in _makers(objects))


def _concerns(found: Object, nodes: Sequence[Node]) -> bool:
    """Tell whether an object of a network is one for these nodes; what VMs are attached by is for all."""
    return found["kind"] != NNCP.name or found["spec"].get("nodeSelector") in [node_selector(node) for node in nodes]


def _objects(api: Api, network: str) -> list[Object]:
    return [one for kind in (_ATTACHMENTS[network], NNCP) for one in _find(api, kind, network)]


def _in_the_way(plan: Plan, there: Mapping[str, Collection[str]]) -> list[str]:
    """Return those of our networks that may have to go before a plan's is made, given the NICs of each."""
    return [network for network, nics in there.items() if network == plan.network or plan.nic in nics]


def _take_away(api: Api, network: str, nodes: Sequence[Node], held: Collection[str]) -> None:
    """Take a network away from nodes that it was left on.

    Raise UnfitError where it is on a NIC that is not ours to give. What is left on other nodes is left to `cleanup`.
    """
    if others := sorted(nics_of(api).get(network, set()) - set(held)):
        raise UnfitError(
            f"{name_of(network)} is on NIC {', '.join(others)} by now, for {_told_makers(_objects(api, network))}",
            "wait until that is over, and try again",
            reason="nic-taken",
        )
    _log.info("network.stale", network=network)
    down(api, network, nodes=nodes)


def _find(api: Api, kind: Kind, network: str | None = None, run: str | None = None) -> list[Object]:
    """Return what is there of a network, or of all; with `run` only what that run of our namespace has made.

    A cluster without this kind has none of it.
    """
    of_run = {RUN_LABEL: run, NAMESPACE_LABEL: api.namespace} if run else {}
    labels = {**OURS, **({NETWORK_LABEL: network} if network else {}), **of_run}
    try:
        return api.find(kind, labels=selector(labels))
    except ApiError as error:
        if error.status == _NOT_FOUND:
            return []
        raise


def _is_stale(found: Object, plan: Plan, run: str) -> bool:
    """Tell whether an object is none that this plan and run would make, is going, or is one that nodes did not take."""
    metadata = found["metadata"]
    if metadata["labels"].get(RUN_LABEL) != run or Plan.of(found) != plan or metadata.get("deletionTimestamp"):
        return True
    if found["kind"] != NNCP.name:
        return False
    changed = found["spec"].get("desiredState") != plan.desired_state(up=True)
    return changed or condition(found, "Degraded").get("status") == "True"


def _former_mtus(api: Api, plan: Plan, nodes: Sequence[Node]) -> dict[str, int]:
    """Return which MTU the NIC had, by node, where the plan changes it: before any network of ours that is there."""
    if plan.mtu is None:
        return {}
    before: dict[str, int] = {}
    for policy in _find(api, NNCP):
        planned = Plan.of(policy)
        if planned is not None and planned.nic == plan.nic and (mtu := former_mtu(policy)) is not None:
            before |= {node.name: mtu for node in nodes if _concerns(policy, [node])}
    now = _mtus(api, plan, [node.name for node in nodes if node.name not in before])
    return now | before


def _mtus(api: Api, plan: Plan, names: Sequence[str]) -> dict[str, int]:
    """Return the MTU of the NIC, by node, as soon as nodes tell of it without a bridge of ours that has just gone."""
    deadline = time.monotonic() + _REFRESHED_S
    while True:
        states = {name: one for one in api.find(NNS) if (name := one["metadata"]["name"]) in names}
        if time.monotonic() > deadline or not any(plan.bridge in nics.interfaces(one) for one in states.values()):
            break
        api.pause(_PAUSE_S)
    found = {name: nics.interfaces(one).get(plan.nic, {}).get("mtu") for name, one in states.items()}
    return {name: mtu for name, mtu in found.items() if mtu is not None}


def _make(api: Api, kind: Kind, wanted: Object) -> Object:
    """Make an object of a network and return it, also where only the answer was lost."""
    try:
        return api.create(kind, wanted)
    except ConflictError as error:
        name, network = wanted["metadata"]["name"], wanted["metadata"]["labels"][NETWORK_LABEL]
        for found in _find(api, kind, network):
            if found["metadata"]["name"] != name:
                continue
            if Plan.of(found) == Plan.of(wanted) and _makers([found]) == _makers([wanted]):
                return found
            raise UnfitError(
                f"{name_of(network)} is made by somebody else at this time: {_told_makers([found])}",
                "wait until that is over, and try again",
                reason="nic-taken",
            ) from error
        place = f"-n {api.namespace} " if kind.namespaced else ""
        raise UnfitError(
            f"there is a {kind.name} {name} that no run has made",
            f"remove it, if nobody needs it: kubectl delete {place}{kind.resource} {name}",
            reason="network-foreign",
        ) from error


def _delete(api: Api, kind: Kind, found: Object, gone_s: float | None = None) -> None:
    """Delete this very object, and wait until it is gone where told how long; another of its name stays."""
    name, uid = found["metadata"]["name"], found["metadata"]["uid"]

    def is_gone(now: Object | None) -> bool:
        return now is None or now["metadata"]["uid"] != uid

    with suppress(ConflictError):  # it is another one by now
        api.delete(kind, name, grace_s=None, uid=uid)
    if gone_s is not None:
        api.wait(kind, name, is_gone, timeout_s=gone_s, what=f"the end of {kind.name} {name}")


def _taken_back(api: Api, policy: Object, deadline: float) -> list[Object]:
    """Have a policy's node give back what it took; return the policy as it is then, none where it is gone."""
    plan = Plan.of(policy)
    if plan is None:
        raise TestbedError(
            f"the policy {policy['metadata']['name']} does not say how it was planned",
            "set its interfaces to `state: absent`, wait until it is available, and delete it",
        )
    gone = plan.desired_state(up=False, former_mtu=former_mtu(policy))
    try:
        return [_changed(api, policy, {"spec": {"desiredState": gone}}, deadline)]
    except ApiError as error:
        is_another = error.status == _INVALID and "metadata.uid" in str(error)
        if is_another or error.status in (_NOT_FOUND, _CONFLICT):
            return []
        raise


def _changed(api: Api, policy: Object, patch: Object, deadline: float) -> Object:
    """Change a policy, so that its node tries again also what it could not do before; return it as it is then.

    Nodes try what is new. Where nothing is, the policy gets another limit of how many may try at once. A policy that
    they are at cannot be changed (kubernetes-nmstate's webhook): that is waited for.
    """
    changed = _patched(api, policy, patch, deadline)
    same = changed["metadata"]["generation"] == policy["metadata"]["generation"]
    if same and condition(policy, "Degraded").get("status") == "True":
        limit = 2 if policy["spec"].get("maxUnavailable") == 1 else 1
        changed = _patched(api, policy, {"spec": {"maxUnavailable": limit}}, deadline)
    return changed


def _patched(api: Api, policy: Object, patch: Object, deadline: float) -> Object:
    name, uid = policy["metadata"]["name"], policy["metadata"]["uid"]
    while True:
        try:
            return api.merge(NNCP, name, {"metadata": {"uid": uid}, **patch})
        except ApiError as error:
            if _IN_PROGRESS not in str(error) or time.monotonic() + _PAUSE_S > deadline:
                raise
        api.pause(_PAUSE_S)


def _require_enacted(api: Api, policies: Sequence[Object], awaited: Collection[str]) -> None:
    """Wait until nodes have enacted their policies; raise UnfitError when one cannot."""
    waiting = set(awaited)
    for waiting, failing in _enacting(api, policies, awaited, time.monotonic() + CONFIGURED_S):
        for enactment, message in failing.items():
            raise UnfitError(
                f"{_told(enactment)}: {message}",
                "name a NIC that these nodes have to spare with --nic; they keep what they had",
                reason="network-degraded",
            )
        if not waiting:
            return
    raise TestbedError(
        f"not configured within {CONFIGURED_S:g} s: {', '.join(sorted(waiting))}",
        "look at these NodeNetworkConfigurationEnactments; each is named by its node and its policy",
        reason="network-not-configured",
    )


def _not_enacted(api: Api, policies: Sequence[Object], deadline: float) -> dict[str, str]:
    """Wait until the nodes that ever tried these policies have enacted them as they are; return why not, by node."""
    if not policies:
        return {}
    untried = {one["metadata"]["name"] for one in policies}
    for state in api.states(NNCE, min(deadline, time.monotonic() + _TRIED_S), labels=_enactments_of(policies)):
        untried -= {one["metadata"]["labels"][_POLICY_LABEL] for one in state.values()}
        if not untried:
            break
    waiting = {f"a node.{one['metadata']['name']}" for one in policies}  # what nobody has looked at is not done
    failing: dict[str, str] = {}
    for waiting, failing in _enacting(api, policies, None, deadline):  # noqa: B007 - used after the loop
        if not waiting:
            break
    late = {enactment: f"{_told(enactment)} in time" for enactment in waiting}
    return late | {enactment: f"{_told(enactment)}: {message}" for enactment, message in failing.items()}


def _enacting(
    api: Api, policies: Sequence[Object], awaited: Collection[str] | None, deadline: float
) -> Iterator[tuple[set[str], dict[str, str]]]:
    """Yield which enactments of policies are waited for and which have failed, and why, until the deadline.

    `awaited` None: all that there are. An enactment's name is its node's and, after a dot, its policy's. One of an
    earlier generation does not count.
    """
    generations = {one["metadata"]["name"]: one["metadata"]["generation"] for one in policies}
    for state in api.states(NNCE, deadline, labels=_enactments_of(policies)):
        names = set(state) if awaited is None else set(awaited)
        tried = {name: one for name, one in state.items() if name in names and one.get("status")}
        current = {
            name: one
            for name, one in tried.items()
            if one["status"].get("policyGeneration") == generations[one["metadata"]["labels"][_POLICY_LABEL]]
        }
        failing = {
            name: " ".join(str(failed.get("message") or failed.get("reason")).split())[:600]
            for name, one in current.items()
            if (failed := condition(one, "Failing")).get("status") == "True"
        }
        done = {name for name, one in current.items() if condition(one, "Available").get("status") == "True"}
        yield names - done - failing.keys(), failing


def _enactments_of(policies: Sequence[Object]) -> str:
    return f"{_POLICY_LABEL} in ({','.join(one['metadata']['name'] for one in policies)})"


def _told(enactment: str) -> str:
    node, _, policy = enactment.partition(f".{name_of('')}")
    return f"{node} could not be configured by the policy {name_of('')}{policy}"
