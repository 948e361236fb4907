"""What runs left behind, found by their labels and removed; nothing else is touched."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from stuntime.errors import StuntimeError, TestbedError
from stuntime.kubevirt import networks
from stuntime.kubevirt.api import Api, ApiError
from stuntime.kubevirt.kinds import (
    CONFIG_MAP,
    CUDN,
    LEASE,
    NAD,
    NNCP,
    OURS,
    POD,
    RUN_LABEL,
    VM,
    VMI,
    VMIM,
    Kind,
    Object,
    selector,
)
from stuntime.kubevirt.migration import seconds
from stuntime.scenario import NETWORKS

_log = structlog.get_logger()

# In this order: what moves, what runs, what it was attached to. Secrets go with the ConfigMap that owns them.
_KINDS = (VMIM, VM, VMI, POD, CONFIG_MAP, CUDN, NAD, NNCP, LEASE)
_NETWORKS = (CUDN, NAD, NNCP)


@dataclass(frozen=True)
class Leftover:
    """An object of ours. `run` is the run it belongs to, `age_s` how old it is."""

    kind: Kind
    name: str
    namespace: str
    run: str
    age_s: float


def leftovers(
    api: Api, *, run: str | None, older_than_s: float, now: float, window_namespace: str
) -> tuple[list[Leftover], list[str]]:
    """Return what runs (or one run) left that is old enough, and which kinds could not be looked for."""
    labels = {**OURS, **({RUN_LABEL: run} if run else {})}
    found: list[Leftover] = []
    unseen = []
    for kind in _KINDS:
        namespace = window_namespace if kind is LEASE else api.namespace
        try:
            objects = api.find(kind, labels=selector(labels), namespace=namespace)
        except ApiError as error:
            if error.status != 404:  # noqa: PLR2004 - a cluster without this kind has none of it
                unseen.append(f"{kind.resource}: {error}")
            continue
        found += [_leftover(kind, one, namespace, now) for one in objects if RUN_LABEL in one["metadata"]["labels"]]
    return [one for one in found if one.age_s >= older_than_s], unseen


def remove(api: Api, found: Sequence[Leftover]) -> None:
    """Remove leftovers, networks so that the nodes get their NIC back; raise TestbedError for what stays."""
    failed = []
    for one in found:
        if one.kind in _NETWORKS:
            continue
        try:
            api.delete(one.kind, one.name, one.namespace)
            _log.info("cleanup.removed", kind=one.kind.name, name=one.name)
        except StuntimeError as error:
            failed.append(str(error))
    names = {one.name for one in found if one.kind in _NETWORKS}
    for network in NETWORKS:
        made = networks.Plan(network, "", None, None)
        if made.name in names:
            try:
                networks.down(api, made)
                _log.info("cleanup.removed", kind="network", name=network)
            except StuntimeError as error:
                failed.append(str(error))
    if failed:
        raise TestbedError(f"not all could be removed: {'; '.join(failed)}", "mend that and clean up again")


def _leftover(kind: Kind, found: Object, namespace: str, now: float) -> Leftover:
    metadata = found["metadata"]
    created = seconds(metadata.get("creationTimestamp")) or now
    return Leftover(kind, metadata["name"], namespace, metadata["labels"][RUN_LABEL], max(0.0, now - created))
