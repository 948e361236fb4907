"""Stand-ins for what cannot run on the test cluster: kubernetes-nmstate and OVN-Kubernetes. README.md says how far."""

import sys
from pathlib import Path

from tests.cluster.standin import StandIn

_HERE = Path(__file__).parent


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"{__name__}.{name}"]


STAND_INS = (
    StandIn(
        name="ovn",
        manifests=[_HERE / "crds" / "ovn.yaml"],
        cni_plugins=[_HERE / "ovn-k8s-cni-overlay"],
        node_process=_module("ovn_daemons"),
        control_process=_module("ovn_kubernetes"),
    ),
    StandIn(name="nmstate", manifests=[_HERE / "crds" / "nmstate.yaml"], node_process=_module("nmstate")),
)
"""What a cluster starts, in this order."""
