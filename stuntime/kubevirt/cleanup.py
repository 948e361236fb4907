"""What runs left behind, found by their labels and removed; nothing else is touched."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import structlog

from stuntime.errors import StuntimeError, TestbedError
from stuntime.kubevirt import leases, networks
from stuntime.kubevirt.api import Api, ApiError, ConflictError
from stuntime.kubevirt.kinds import (
    CONFIG_MAP,
    CUDN,
    DEPOSIT_LABEL,
    LEASE,
    NAD,
    NAMESPACE_LABEL,
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
#: How long a measurement is waited for before what runs left is taken away all the same; it is marked then.
PATIENCE_S = 120.0
_NOT_FOUND, _FORBIDDEN = 404, 403


@dataclass(frozen=True)
class Leftover:
    """An object of ours. `run` is the run it belongs to, `age_s` how old it is; `network`: which one it is part of.

    `namespace` is where it is. It belongs to a run of the namespace that was looked in, wherever it is.
    """

    kind: Kind
    name: str
    namespace: str
    uid: str
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
    """Return what runs (or one run) of our namespace left that is old enough, and which kinds could not be looked for.

    What they measured stays, unless `results` are asked for.
    """
    labels = selector({**OURS, **({RUN_LABEL: run} if run else {})}) + ("" if results else f",!{DEPOSIT_LABEL}")
    found: list[Leftover] = []
    unseen = []
    for kind in _KINDS:
        namespace = window_namespace if kind is LEASE else api.namespace
        elsewhere = kind is LEASE or not kind.namespaced
        ours = f"{labels},{NAMESPACE_LABEL}={api.namespace}" if elsewhere else labels
        try:
            objects = api.find(kind, labels=ours, namespace=namespace)
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

    A run's networks go after its VMs, and last the Leases which keep others from the NICs: not those of a run that has
    a network which does not go. Nobody measures meanwhile; who does so for too long is marked.
    """
    stuck: set[str] = set()
    failed: list[str] = []
    with _announced(window):
        for one in found:
            if one.kind not in _NETWORKS and one.kind is not LEASE:
                with _noted(failed, one.kind.name, one.name), suppress(ConflictError):  # it is another one by now
                    api.delete(one.kind, one.name, one.namespace, uid=one.uid)
        for network, run in sorted({(one.network, one.run) for one in found if one.network is not None}):
            before = len(failed)
            with _noted(failed, "network", network):
                wait_gone(api, run=run)
                networks.down(api, network, run=run)
            if len(failed) > before:
                stuck.add(run)
        for one in found:
            if one.kind is LEASE and one.run not in stuck:
                with _noted(failed, one.kind.name, one.name):
                    leases.remove(api, one.name, one.namespace, _made_by(api.namespace, one.run))
    if failed:
        raise TestbedError(f"not all could be removed: {'; '.join(failed)}", "mend that and clean up again")


def _is_of_a_run(kind: Kind, found: Object) -> bool:
    labels = found["metadata"]["labels"]
    return RUN_LABEL in labels and (kind not in _NETWORKS or labels.get(NETWORK_LABEL) in NETWORKS)


def _made_by(namespace: str, run: str) -> Callable[[Object], bool]:
    own = {RUN_LABEL: run, NAMESPACE_LABEL: namespace}
    return lambda found: own.items() <= (found["metadata"].get("labels") or {}).items()


@contextmanager
def _announced(window: Window) -> Iterator[None]:
    """Hold measurements off; where that cannot be, go on and say so: what is left disturbs them, too."""
    with ExitStack() as held:
        try:
            held.enter_context(window.provisioning("cleanup", wait_s=PATIENCE_S))
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
    # A Lease that was taken over is as old as its present holder's.
    created = seconds((found.get("spec") or {}).get("acquireTime") if kind is LEASE else None)
    created = created or seconds(metadata.get("creationTimestamp")) or now
    age_s = max(0.0, now - created)
    network = labels.get(NETWORK_LABEL)
    return Leftover(kind, metadata["name"], namespace, metadata["uid"], labels[RUN_LABEL], age_s, network)
