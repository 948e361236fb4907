"""The preflight tells whether VMs' pods are admitted in a namespace, before anybody waits for them."""

import pytest

from stuntime.kubevirt.cluster import Cluster, Node
from stuntime.kubevirt.kinds import NAMESPACE
from stuntime.kubevirt.preflight import _pod_security, _pulling
from stuntime.kubevirt.settings import Settings
from tests.unit.kubeapi.server import FakeServer


@pytest.mark.parametrize(
    ("level", "gates", "fit"),
    [
        (None, [], True),
        ("privileged", [], True),
        ("baseline", [], True),
        ("restricted", [], False),
        ("restricted", ["PSA"], True),
    ],
)
def test_vms_are_not_admitted_where_pods_are_restricted(level: str | None, gates: list[str], fit: bool):
    """A namespace that enforces `restricted` is unfit, unless KubeVirt changes that by itself."""
    with FakeServer(namespaces=[]) as server:
        labels = {"pod-security.kubernetes.io/enforce": level} if level else {}
        server.seed(NAMESPACE, NAMESPACE.object("ns", labels=labels))
        seen = Cluster("id", {}, {}, [], kvm=True, feature_gates=frozenset(gates))
        check = _pod_security(server.api("ns"), seen)
    assert check.fit == fit
    assert "kubectl label" in check.way_out


def test_a_namespace_that_may_not_be_looked_at_is_believed():
    """An account that may not read its namespace is not kept from measuring by that."""
    with FakeServer(namespaces=["ns"]) as server:
        server.forbid("get", NAMESPACE.resource)
        assert _pod_security(server.api("ns"), Cluster("id", {}, {}, [], kvm=True)).fit


def test_a_pod_of_ours_names_no_user():
    """The cluster chooses the user of our pod: OpenShift's restricted-v2 refuses one that is named."""
    [container] = _pulling("pull", "guest", Node("node-a", "node-a", {}), Settings(run="run"))["spec"]["containers"]
    assert container["securityContext"]["runAsNonRoot"]
    assert "runAsUser" not in container["securityContext"]
