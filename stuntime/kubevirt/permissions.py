"""The rights that are used, as RBAC has them: one table for the preflight and for the roles that are shipped."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stuntime.kubevirt.api import Api
from stuntime.kubevirt.kinds import (
    CONFIG_MAP,
    CUDN,
    EVENT,
    KUBEVIRT,
    LEASE,
    NAD,
    NAMESPACE,
    NNCE,
    NNCP,
    NNS,
    NODE,
    POD,
    SECRET,
    VM,
    VMI,
    VMIM,
    Kind,
)

_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@dataclass(frozen=True)
class Right:
    """A right: verbs on a resource. `where` is `namespace` (of the VMs), `window` (of the Leases) or `cluster`.

    `network` names the network that it is needed to make; None: always.
    """

    verbs: tuple[str, ...]
    group: str
    resource: str
    where: str = "namespace"
    network: str | None = None


def _of(kind: Kind, verbs: str, where: str = "namespace", network: str | None = None, part: str = "") -> Right:
    return Right(tuple(verbs.split()), kind.group, kind.plural + (f"/{part}" if part else ""), where, network)


ANY = "any"
RIGHTS = (
    _of(VM, "create delete get list"),
    _of(VMI, "delete get list watch"),
    _of(VMIM, "create delete list watch"),
    Right(("get",), "subresources.kubevirt.io", "virtualmachineinstances/console"),
    _of(SECRET, "create delete"),
    _of(CONFIG_MAP, "create delete get list update"),
    _of(POD, "create delete list watch"),
    _of(POD, "get", part="log"),
    _of(EVENT, "list"),
    _of(NAD, "get list"),
    _of(LEASE, "create delete get list update watch", "window"),
    _of(NODE, "list", "cluster"),
    _of(NAMESPACE, "get", "cluster"),
    _of(KUBEVIRT, "list", "cluster"),
    _of(VMIM, "list", "cluster"),
    _of(NNS, "list", "cluster", ANY),
    _of(NNCP, "create delete list patch", "cluster", ANY),
    _of(NNCE, "list watch", "cluster", ANY),
    _of(NAD, "create delete watch", "namespace", ANY),
    _of(CUDN, "create delete list watch", "cluster", "ovn-localnet"),
)


def needed(networks_made: Iterable[str]) -> list[Right]:
    """Return the rights that a run needs which makes these networks; those of others are not asked for."""
    made = set(networks_made)
    return [
        right for right in RIGHTS if right.network is None or right.network in made or (right.network == ANY and made)
    ]


def missing(api: Api, rights: Sequence[Right], window_namespace: str) -> list[str]:
    """Return what this account may not do, for a person; each right is asked for (SelfSubjectAccessReview)."""
    refused = []
    for right in rights:
        namespace = {"namespace": api.namespace, "window": window_namespace}.get(right.where, "")
        resource, _, part = right.resource.partition("/")
        verbs = [verb for verb in right.verbs if not _may(api, verb, right.group, resource, part, namespace)]
        if verbs:
            name = f"{right.resource}.{right.group}" if right.group else right.resource
            refused.append(f"{','.join(verbs)} {name}" + (f" in {namespace}" if namespace else " in the cluster"))
    return refused


def _may(api: Api, verb: str, group: str, resource: str, part: str, namespace: str) -> bool:
    asked = {"verb": verb, "group": group, "resource": resource, "subresource": part, "namespace": namespace}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
    }
    return bool(api.post(_REVIEW, review)["status"]["allowed"])
