"""Process 1 of a node: makes its file systems and its networks its own, then keeps its daemons running.

It is started in new namespaces and in a control group of the node's own. When it ends, so does everything in the node.
"""

import json
import os
import resource
import shutil
import stat
import sys
import time
from pathlib import Path

from stuntime.sandbox.process import run
from tests.cluster.cgroups import hierarchies
from tests.cluster.control_plane import INSIDE, keep_bridges_from_firewalls
from tests.cluster.images import PAUSE
from tests.cluster.kubeconfig import write_kubeconfig
from tests.cluster.layout import CONTROL_IP, NODES, SPARE_NICS, Layout, Node, node_named
from tests.cluster.services import Service, keep_running, stand_in_services
from tests.cluster.standin import stand_ins

_LINKS_S = 30.0
_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "kmsg": (1, 11),
}
_DEVICES |= {"net/tun": (10, 200)}


def main(home: str, name: str, cni: str) -> None:
    """Be the node."""
    layout, node = Layout(Path(home)), node_named(name)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _mount_own(layout.node(node))
    run(["hostname", node.name])
    _connect(node)
    _configure(layout, node, [Path(directory) for directory in cni.split(":")])
    keep_running([*_daemons(layout, node, layout.home / "bin" / "kubelet"), *stand_in_services(layout, node)])


def _mount_own(home: Path) -> None:
    groups = hierarchies()  # before they are covered
    _mount("sysfs", "sysfs", Path("/sys"))
    _mount("tmpfs", "tmpfs", Path("/sys/fs/cgroup"), "mode=755")
    for hierarchy in groups:
        directory = Path("/sys/fs/cgroup") / hierarchy.mount.name
        directory.mkdir()
        _mount("cgroup", "cgroup", directory, hierarchy.option)
    _make_devices()
    _mount("tmpfs", "tmpfs", Path("/run"), "mode=755")
    for name in ("lock", "netns", "containerd"):
        Path("/run", name).mkdir()
    for path in ("/var/lib", "/var/log"):
        own = home / path.strip("/").replace("/", "-")
        own.mkdir(parents=True, exist_ok=True)
        run(["mount", "--bind", str(own), path])
    for path in ("/etc", "/opt"):
        upper, work = home / f"{path.strip('/')}-upper", home / f"{path.strip('/')}-work"
        upper.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        _mount("overlay", "overlay", Path(path), f"lowerdir={path},upperdir={upper},workdir={work}")
    run(["mount", "--make-rshared", "/"])


def _make_devices() -> None:
    mask = os.umask(0)
    _mount("tmpfs", "tmpfs", Path("/dev"), "mode=755")
    for name, (major, minor) in _DEVICES.items():
        path = Path("/dev", name)
        path.parent.mkdir(exist_ok=True)
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
    for name, kind, options in (
        ("pts", "devpts", "newinstance,ptmxmode=0666,mode=620,gid=5"),
        ("shm", "tmpfs", "mode=1777"),
        ("mqueue", "mqueue", ""),
    ):
        Path("/dev", name).mkdir()
        _mount(kind, kind, Path("/dev", name), options)
    for name, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        Path("/dev", name).symlink_to(target)
    os.umask(mask)


def _mount(kind: str, source: str, target: Path, options: str = "") -> None:
    run(["mount", "-t", kind, *(["-o", options] if options else []), source, str(target)])


def _connect(node: Node) -> None:
    """Wait for the links and give them what they need."""
    deadline = time.monotonic() + _LINKS_S
    while not all(Path("/sys/class/net", nic).exists() for nic in ("eth0", *SPARE_NICS)):
        if time.monotonic() > deadline:
            sys.exit("no links have come")
        time.sleep(0.05)
    for nic in ("lo", "eth0", *SPARE_NICS):
        run(["ip", "link", "set", nic, "up"])
    run(["ip", "address", "add", f"{node.address}/24", "dev", "eth0"])
    run(["ip", "route", "add", "default", "via", CONTROL_IP])
    for other in NODES:
        if other != node:
            run(["ip", "route", "add", other.pods, "via", other.address])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    keep_bridges_from_firewalls()


def _configure(layout: Layout, node: Node, cni: list[Path]) -> None:
    plugins = Path("/opt/cni/bin")
    plugins.mkdir(parents=True, exist_ok=True)
    for plugin in [path for directory in cni for path in directory.iterdir()] + [
        p for s in stand_ins() for p in s.cni_plugins
    ]:
        shutil.copy(plugin, plugins / plugin.name)
        (plugins / plugin.name).chmod(0o755)
    for directory in ("/etc/cni/net.d", "/etc/containerd", "/etc/kubernetes/manifests"):
        Path(directory).mkdir(parents=True, exist_ok=True)
    for old in Path("/etc/cni/net.d").iterdir():
        old.unlink()
    token = json.loads((layout.secrets / "multus.kubeconfig").read_text())["users"][0]["user"]["token"]
    multus = Path("/etc/cni/multus.kubeconfig")
    write_kubeconfig(multus, server=INSIDE, authority=layout.secrets / "ca.crt", token=token)
    Path("/etc/cni/net.d/00-multus.conf").write_text(json.dumps(_multus(node, multus), indent=2))
    Path("/etc/containerd/config.toml").write_text(_CONTAINERD)
    Path("/etc/kubernetes/kubelet.json").write_text(json.dumps(_kubelet(layout, node), indent=2))
    shutil.copy(layout.secrets / f"{node.name}.kubeconfig", "/etc/kubernetes/kubelet.kubeconfig")
    Path("/etc/resolv.conf").unlink(missing_ok=True)
    Path("/etc/resolv.conf").write_text("")


def _multus(node: Node, kubeconfig: Path) -> dict[str, object]:
    pods = {
        "cniVersion": "0.3.1",
        "name": "pods",
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "isDefaultGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": node.pods}]]},
    }
    return {
        "cniVersion": "0.3.1",
        "name": "multus",
        "type": "multus",
        "kubeconfig": str(kubeconfig),
        "logLevel": "error",
        "logFile": "/var/log/multus.log",
        "delegates": [pods],
    }


_CONTAINERD = f"""
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


def _kubelet(layout: Layout, node: Node) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.secrets / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(layout.secrets / f"kubelet-{node.name}.crt"),
        "tlsPrivateKeyFile": str(layout.secrets / f"kubelet-{node.name}.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "resolvConf": "/etc/resolv.conf",
        "maxPods": 200,
        "serializeImagePulls": False,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        # A disk that others fill must not cost the images: there is no registry to pull them from again.
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "nodeStatusUpdateFrequency": "4s",
        "staticPodPath": "/etc/kubernetes/manifests",
    }


def _daemons(layout: Layout, node: Node, kubelet: Path) -> list[Service]:
    flags = [
        "--config=/etc/kubernetes/kubelet.json",
        "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
    ]
    socket = Path("/run/containerd/containerd.sock")
    containerd = ["containerd", "--config", "/etc/containerd/config.toml"]
    return [
        Service("containerd", containerd, layout.logs / f"{node.name}.containerd.log"),
        Service("kubelet", [str(kubelet), *flags], layout.logs / f"{node.name}.kubelet.log", needs=socket),
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
