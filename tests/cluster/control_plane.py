"""The control plane: etcd, the API server, the controller manager and the scheduler as plain processes."""

import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from stuntime.errors import TestbedError
from stuntime.sandbox.process import Process, run
from tests.cluster.kubeconfig import write_kubeconfig
from tests.cluster.layout import CONTROL_IP, FABRICS, NODES, SERVICE_IP, SERVICES, Layout
from tests.cluster.parts import ETCD, KUBERNETES_PROGRAMS
from tests.cluster.pki import make_authority, make_certificate, make_signing_key

INSIDE = f"https://{SERVICE_IP}:443"
_READY_S = 60.0
_ADMIN, _MULTUS = "admin", "multus"
_COMPONENTS = ("kube-controller-manager", "kube-scheduler")


def make_networks() -> None:
    """Make the bridges that join the nodes, in the network namespace of the caller."""
    for bridge in ("mgmt", *FABRICS):
        run(["ip", "link", "add", bridge, "type", "bridge"])
        run(["ip", "link", "set", bridge, "up"])
    run(["ip", "address", "add", f"{CONTROL_IP}/24", "dev", "mgmt"])
    run(["ip", "address", "add", f"{SERVICE_IP}/32", "dev", "mgmt"])
    for node in NODES:
        run(["ip", "route", "add", node.pods, "via", node.address])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    keep_bridges_from_firewalls()


def keep_bridges_from_firewalls() -> None:
    """Let frames pass bridges as a switch passes them, in the network namespace of the caller."""
    for name in ("iptables", "ip6tables", "arptables"):
        path = Path(f"/proc/sys/net/bridge/bridge-nf-call-{name}")
        if path.exists():
            path.write_text("0")


def make_secrets(layout: Layout, *, port: int) -> None:
    """Make the certificates, the tokens and every kubeconfig."""
    home = layout.secrets
    home.mkdir(mode=0o700)
    authority = make_authority(home, "ca")
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    hosts = [f"DNS:{name}" for name in (*names, "localhost")] + [
        f"IP:{ip}" for ip in ("127.0.0.1", CONTROL_IP, SERVICE_IP)
    ]
    make_certificate(authority, home, "apiserver", alternatives=hosts)
    make_certificate(authority, home, "kubelet-client", subject="/O=system:masters/CN=kube-apiserver-kubelet-client")
    for node in NODES:
        kubelet = [f"DNS:{node.name}", f"IP:{node.address}"]
        make_certificate(
            authority, home, f"kubelet-{node.name}", subject=f"/CN=system:node:{node.name}", alternatives=kubelet
        )
    make_certificate(make_authority(home, "front-proxy-ca"), home, "front-proxy-client")
    make_signing_key(home, "service-accounts")

    users = {
        _ADMIN: (_ADMIN, "system:masters"),
        _MULTUS: (_MULTUS, ""),
        **{name: (f"system:{name}", "") for name in _COMPONENTS},
        **{node.name: (f"system:node:{node.name}", "system:nodes") for node in NODES},
    }
    tokens = {name: secrets.token_hex(16) for name in users}
    lines = [f'{tokens[name]},{user},{name},"{group}"' for name, (user, group) in users.items()]
    (home / "tokens.csv").write_text("\n".join(lines) + "\n")
    for name, token in tokens.items():
        write_kubeconfig(home / f"{name}.kubeconfig", server=INSIDE, authority=authority.certificate, token=token)
    shutil.copy(home / f"{_ADMIN}.kubeconfig", layout.inner_kubeconfig)
    outside = f"https://127.0.0.1:{port}"
    write_kubeconfig(layout.kubeconfig, server=outside, authority=authority.certificate, token=tokens[_ADMIN])


def start_control_plane(layout: Layout, etcd: Path, kubernetes: Path) -> list[Process]:
    """Start it and return its processes when the API server is ready."""
    programs = layout.home / "bin"
    programs.mkdir()
    for name in KUBERNETES_PROGRAMS:
        (programs / name).symlink_to(kubernetes / "kubernetes")
    started = [
        Process("etcd", [str(etcd / ETCD.name), "--data-dir", str(layout.home / "etcd")], layout.logs / "etcd.log"),
        Process("kube-apiserver", _api_server(layout, programs), layout.logs / "kube-apiserver.log"),
    ]
    wait_until(lambda: _answers(layout), "the API server", _READY_S, started)
    for name, extra in (("kube-controller-manager", _controller_manager(layout)), ("kube-scheduler", [])):
        common = [
            f"--kubeconfig={layout.secrets / name}.kubeconfig",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ]
        started.append(Process(name, [str(programs / name), *common, *extra], layout.logs / f"{name}.log"))
    return started


def wait_until(good: Callable[[], bool], what: str, timeout_s: float, needed: list[Process] | None = None) -> None:
    """Wait for something to come true while processes it needs live; raise TestbedError otherwise."""
    deadline = time.monotonic() + timeout_s
    while not good():
        for process in needed or []:
            if not process.running():
                raise TestbedError(f"{process.name} ended: {process.last_words()}", f"its log is {process.log}")
        if time.monotonic() > deadline:
            raise TestbedError(f"{what} did not come within {timeout_s:g} s", "look at the logs")
        time.sleep(0.2)


def kubectl(layout: Layout, *arguments: str, stdin: str | None = None, timeout_s: float = 60.0) -> str:
    """Run kubectl as the cluster admin inside the cluster's namespaces."""
    return run([*_kubectl(layout), *arguments], stdin=stdin, timeout_s=timeout_s)


def _answers(layout: Layout) -> bool:
    argv = [*_kubectl(layout), "get", "--raw", "/readyz"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _kubectl(layout: Layout) -> list[str]:
    return ["kubectl", f"--kubeconfig={layout.inner_kubeconfig}", f"--cache-dir={layout.home / 'kubectl'}"]


def _api_server(layout: Layout, programs: Path) -> list[str]:
    home = layout.secrets
    flags = {
        "etcd-servers": "http://127.0.0.1:2379",
        "secure-port": "443",
        "advertise-address": CONTROL_IP,
        "endpoint-reconciler-type": "master-count",
        "service-cluster-ip-range": SERVICES,
        "enable-aggregator-routing": "true",
        "allow-privileged": "true",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction,PodSecurity",
        "token-auth-file": home / "tokens.csv",
        "client-ca-file": home / "ca.crt",
        "tls-cert-file": home / "apiserver.crt",
        "tls-private-key-file": home / "apiserver.key",
        "kubelet-certificate-authority": home / "ca.crt",
        "kubelet-client-certificate": home / "kubelet-client.crt",
        "kubelet-client-key": home / "kubelet-client.key",
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": home / "service-accounts.crt",
        "service-account-signing-key-file": home / "service-accounts.key",
        "requestheader-client-ca-file": home / "front-proxy-ca.crt",
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-username-headers": "X-Remote-User",
        "proxy-client-cert-file": home / "front-proxy-client.crt",
        "proxy-client-key-file": home / "front-proxy-client.key",
        "cert-dir": home,
    }
    return [str(programs / "kube-apiserver"), *(f"--{name}={value}" for name, value in flags.items())]


def _controller_manager(layout: Layout) -> list[str]:
    home = layout.secrets
    return [
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={home / 'service-accounts.key'}",
        f"--root-ca-file={home / 'ca.crt'}",
        f"--cluster-signing-cert-file={home / 'ca.crt'}",
        f"--cluster-signing-key-file={home / 'ca.key'}",
    ]
