"""KubeVirt, deployed by its own operator from its own manifests."""

from pathlib import Path

from tests.cluster.control_plane import kubectl, wait_until
from tests.cluster.images import kubevirt_image
from tests.cluster.layout import Layout
from tests.cluster.parts import KUBEVIRT_VERSION

NAMESPACE = "kubevirt"
_MANIFESTS = Path(__file__).parent / "manifests"
_DEPLOYED_S = 600.0
_NAMESPACE = f"""
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels: {{kubevirt.io: "", pod-security.kubernetes.io/enforce: privileged}}
"""


def deploy_kubevirt(layout: Layout, files: Path) -> None:
    """Apply the manifests and wait until the operator says that all is deployed."""
    kubectl(layout, "apply", "-f", "-", stdin=_NAMESPACE)
    kubectl(layout, "create", "-f", str(files / "kv-resource.yaml"))
    kubectl(layout, "apply", "-f", str(files / "kubevirt-priority-class.yaml"))
    rbac = (files / "rbac-operator.authorization.k8s.yaml.in").read_text().replace("{{.Namespace}}", NAMESPACE)
    kubectl(layout, "apply", "-f", "-", stdin=rbac)
    kubectl(layout, "wait", "--for=condition=Established", "crd/kubevirts.kubevirt.io", "--timeout=30s")
    words = {
        "@NAMESPACE@": NAMESPACE,
        "@IMAGE@": kubevirt_image("virt-operator"),
        "@VERSION@": f"v{KUBEVIRT_VERSION}",
    }
    for name in ("kubevirt-operator.yaml", "kubevirt.yaml"):
        manifest = (_MANIFESTS / name).read_text()
        for word, value in words.items():
            manifest = manifest.replace(word, value)
        kubectl(layout, "apply", "-f", "-", stdin=manifest)
    wait_until(lambda: _phase(layout) == "Deployed", "KubeVirt", _DEPLOYED_S)


def _phase(layout: Layout) -> str:
    return kubectl(layout, "get", "kubevirt", "kubevirt", "-n", NAMESPACE, "-o", "jsonpath={.status.phase}")
