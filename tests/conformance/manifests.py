"""Every manifest that the product makes, printed as JSON documents: `python -m tests.conformance.manifests`."""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stuntime.kubevirt import kinds, leases, manifests
from stuntime.kubevirt.cluster import Node
from stuntime.kubevirt.deposit import Depository
from stuntime.kubevirt.plans import Plan
from stuntime.kubevirt.settings import Guest, Owner
from stuntime.result import parse_result
from stuntime.scenario import NETWORKS
from stuntime.store import OutputDirectory, read_plan
from tests.results import SANDBOX, SCENARIO, document
from tests.unit.kubeapi.server import FakeServer

RUN = "stuntime-run-x7k2p"
OWNER = Owner("PipelineRun", RUN, "6a1c4f0e-7d5b-4f0c-9a43-0d6a0c5f3b11")
LABELS = {**manifests.run_labels(RUN), kinds.SCENARIO_LABEL: "ovn-localnet.between-other-nodes.migrated.ipv6"}
_ADDRESSES = {"ipv4": "10.200.0.1/16", "ipv6": "fd00:200::1/64"}


def everything() -> Iterator[dict[str, Any]]:
    """Yield them: VMs of both boots, a migration, the secret, both networks up and down, Leases and deposits."""
    for boot in ("disk", "kernel"):
        yield manifests.virtual_machine(
            f"stuntime-{RUN}-07-static",
            Guest(boot=boot),
            hostname="worker-0",
            hostnames=["worker-0", "worker-1", "worker-2"],
            nad="ns/stuntime-ovn-localnet",
            mac="02:00:00:00:00:01",
            addresses=_ADDRESSES,
            secret="login",  # noqa: S106 - the name of one
            labels=LABELS,
            owners=[OWNER.reference],
        )
    yield manifests.migration("m-1", "vm", "worker-1", labels=LABELS, owners=[OWNER.reference])
    yield manifests.login_secret("login", "for-the-console", labels=LABELS, owners=[OWNER.reference])
    for network in NETWORKS:
        for vlan, mtu in ((None, None), (7, 9000)):
            plan = Plan(network, "ns", "ens2f1", vlan, mtu)
            policy = plan.policy(Node("worker-0", "worker-0", {}), LABELS, former_mtu=mtu)
            yield policy
            yield {**policy, "spec": {**policy["spec"], "desiredState": plan.desired_state(up=False, former_mtu=mtu)}}
            yield plan.attachment(LABELS)[1]
    yield kinds.LEASE.object(f"stuntime-slot-ns.{RUN}-0", labels=LABELS, spec=leases.spec("somebody", 60.0))
    yield from _deposits()


def _deposits() -> Iterator[dict[str, Any]]:
    """Yield what a run leaves in the cluster, as an API server has it: its plan, and a result with its evidence."""
    with tempfile.TemporaryDirectory() as folder, FakeServer(namespaces=["ns"]) as server:
        output = OutputDirectory.create(Path(folder) / "results", read_plan(SANDBOX))
        (output.evidence(SCENARIO, 1) / "ping.log").write_text("a log")
        depository = Depository(server.api("ns"), RUN, OWNER)
        depository.put_plan(output.plan, {"baseline": "good"})
        depository.put(output, output.write(parse_result(json.dumps(document()).encode(), "a test")))
        yield from server.api("ns").find(kinds.CONFIG_MAP)


if __name__ == "__main__":
    for manifest in everything():
        sys.stdout.write(f"---\n{json.dumps(manifest)}\n")
