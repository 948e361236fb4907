"""What runs left behind, found by their labels and removed; nothing else is touched."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import structlog

from stuntime.errors import StuntimeError, TestbedError
from stuntime.kubevirt import networks
from stuntime.kubevirt.api import Api, ApiError
from stuntime.kubevirt.kinds import (
    CONFIG_MAP,
    CUDN,
    DEPOSIT_LABEL,
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
from stuntime.kubevirt.plans import NETWORK_LABEL
from stuntime.kubevirt.window import Window
from stuntime.scenario import NETWORKS

_log = structlog.get_logger()

# In this order: what moves, what runs, what it was attached to. Secrets go with the ConfigMap that owns them.
_KINDS = (VMIM, VM, VMI, POD, CONFIG_MAP, CUDN, NAD, NNCP, LEASE)
_NETWORKS = (CUDN, NAD, NNCP)
_MACHINES = (VMIM, VM, VMI)
_GONE_S = 120.0
_NOT_FOUND, _FORBIDDEN = 404, 403


@dataclass(frozen=True)
class Leftover:
    """An object of ours. `run` is the run it belongs to, `age_s` how old it is; `network`: which one it is part of."""

    kind: Kind
    name: str
    namespace: str
    run: str
    age_s: float
    network: str | None = None


@dataclass(frozen=True)
class Unseen:
    """A kind that could not be looked for, and why."""

    kind: Kind
    error: ApiError

    def __str__(self) -> str:
        """Return it for a person."""
        return f"{self.kind.resource}: {self.error}"

    @property
    def matters(self) -> bool:
        """Whether something may be left of it; an account that may not look for networks has made none."""
        return self.kind not in _NETWORKS or self.error.status != _FORBIDDEN


def leftovers(
    api: Api, *, run: str | None, older_than_s: float, now: float, window_namespace: str, results: bool = False
) -> tuple[list[Leftover], list[Unseen]]:
    """Return what runs (or one run) left that is old enough, and which kinds could not be looked for.

    What they measured stays, unless `results` are asked for.
    """
    labels = selector({**OURS, **({RUN_LABEL: run} if run else {})}) + ("" if results else f",!{DEPOSIT_LABEL}")
    found: list[Leftover] = []
    unseen = []
    for kind in _KINDS:
        namespace = window_namespace if kind is LEASE else api.namespace
        try:
            objects = api.find(kind, labels=labels, namespace=namespace)
        except ApiError as error:
            if error.status != _NOT_FOUND:  # a cluster without this kind has none of it
                unseen.append(Unseen(kind, error))
            continue
        found += [_leftover(kind, one, namespace, now) for one in objects if _is_of_a_run(kind, one)]
    return [one for one in found if one.age_s >= older_than_s], unseen


def machines(api: Api, *, run: str, now: float) -> list[Leftover]:
    """Return a run's VMs, and what moves them."""
    labels = selector({**OURS, RUN_LABEL: run})
    return [_leftover(kind, one, api.namespace, now) for kind in _MACHINES for one in api.find(kind, labels=labels)]


def wait_gone(api: Api, *, run: str) -> None:
    """Wait until no VM of a run is there any more; raise TestbedError when one stays."""
    for state in api.states(VMI, time.monotonic() + _GONE_S, labels=selector({**OURS, RUN_LABEL: run})):
        left = sorted(state)
        if not left:
            return
    raise TestbedError(f"{', '.join(left)} did not go within {_GONE_S:g} s", "look at the events of these VMs")


def remove(api: Api, found: Sequence[Leftover], window: Window) -> None:
    """Remove leftovers, networks so that the nodes get their NIC back; raise TestbedError for what stays.

    A run's networks go after its VMs, and last the Leases which keep others from the NICs. Nobody measures meanwhile.
    """
    failed: list[str] = []
    with _announced(window):
        for one in found:
            if one.kind not in _NETWORKS and one.kind is not LEASE:
                with _noted(failed, one.kind.name, one.name):
                    api.delete(one.kind, one.name, one.namespace)
        for network, run in sorted({(one.network, one.run) for one in found if one.network is not None}):
            with _noted(failed, "network", network):
                wait_gone(api, run=run)
                networks.down(api, network, run=run)
        for one in found:
            if one.kind is LEASE:
                with _noted(failed, one.kind.name, one.name):
                    api.delete(one.kind, one.name, one.namespace)
    if failed:
        raise TestbedError(f"not all could be removed: {'; '.join(failed)}", "mend that and clean up again")


def _is_of_a_run(kind: Kind, found: Object) -> bool:
    labels = found["metadata"]["labels"]
    return RUN_LABEL in labels and (kind not in _NETWORKS or labels.get(NETWORK_LABEL) in NETWORKS)


@contextmanager
def _announced(window: Window) -> Iterator[None]:
    """Hold measurements off; where that cannot be, go on and say so: what is left disturbs them, too."""
    with ExitStack() as held:
        try:
            held.enter_context(window.provisioning("cleanup"))
        except StuntimeError as error:
            _log.warning("cleanup.not-announced", reason=error.reason, message=str(error))
        yield


@contextmanager
def _noted(failed: list[str], kind: str, name: str) -> Iterator[None]:
    try:
        yield
        _log.info("cleanup.removed", kind=kind, name=name)
    except StuntimeError as error:
        failed.append(str(error))


def _leftover(kind: Kind, found: Object, namespace: str, now: float) -> Leftover:
    metadata, labels = found["metadata"], found["metadata"]["labels"]
    created = seconds(metadata.get("creationTimestamp")) or now
    age_s = max(0.0, now - created)
    return Leftover(kind, metadata["name"], namespace, labels[RUN_LABEL], age_s, labels.get(NETWORK_LABEL))
