"""The running cluster, for those who use it."""

import json
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stuntime.errors import TestbedError, UnfitError
from stuntime.sandbox.process import run
from tests.cluster.kubeconfig import write_kubeconfig
from tests.cluster.layout import Layout, layout
from tests.cluster.node import entering
from tests.cluster.oci import image_digests
from tests.cluster.supervise import lock_holder

_IMPORT_S = 900.0


@dataclass(frozen=True)
class Running:
    """How the cluster is reached from the machine."""

    layout: Layout
    phase: str
    first: int
    nodes: dict[str, int]
    port: int

    @property
    def kubeconfig(self) -> Path:
        """A cluster admin's."""
        return self.layout.kubeconfig

    def entering(self, node: str | None = None) -> list[str]:
        """Return the command that runs another in a node's namespaces, or the control plane's."""
        outer = ["nsenter", f"--target={self.first}", "--pid", "--net", "--mount", "--"]
        return outer if node is None else [*outer, *entering(self.nodes[node])]

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 120.0) -> str:
        """Run kubectl as the cluster admin."""
        ours = [f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.layout.home / 'kubectl'}"]
        return run(["kubectl", *ours, *arguments], stdin=stdin, timeout_s=timeout_s)

    def on(self, node: str, *argv: str, timeout_s: float = 60.0) -> str:
        """Return what a command prints in a node's namespaces."""
        return run([*self.entering(node), *argv], timeout_s=timeout_s)

    def import_image(self, archive: Path, name: str) -> None:
        """Import the only image of an OCI archive into every node, by this name and by its digest."""
        held = image_digests(archive)
        if len(held) != 1:
            raise TestbedError(f"{archive} holds {len(held)} images", "give an OCI archive of one image")
        with ThreadPoolExecutor() as pool:
            for imported in [pool.submit(self._import, node, archive, name) for node in self.nodes]:
                imported.result()

    def service_account_kubeconfig(self, target: Path, account: str, namespace: str) -> Path:
        """Write a kubeconfig with a token of a ServiceAccount, good for a day."""
        request = json.dumps(
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86400}}
        )
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        token = json.loads(self.kubectl("create", "--raw", path, "-f", "-", stdin=request))["status"]["token"]
        authority = self.layout.secrets / "ca.crt"
        server = f"https://127.0.0.1:{self.port}"
        write_kubeconfig(target, server=server, authority=authority, token=token, namespace=namespace)
        return target

    def _import(self, node: str, archive: Path, name: str) -> None:
        index = f"{name}-import"  # what an archive without names of its own is imported by
        with archive.open("rb") as content:
            self._ctr(node, ["import", "--index-name", index, "-"], content)
        digest = next(
            columns[2] for columns in map(str.split, self._ctr(node, ["ls"]).splitlines()) if columns[0] == index
        )
        for alias in (name, f"{name.rpartition(':')[0]}@{digest}"):
            self._ctr(node, ["tag", "--force", index, alias])
        self._ctr(node, ["rm", index])

    def _ctr(self, node: str, arguments: Sequence[str], content: BinaryIO | None = None) -> str:
        argv = [*self.entering(node), "ctr", "-n", "k8s.io", "images", *arguments]
        done = subprocess.run(argv, stdin=content, capture_output=True, timeout=_IMPORT_S, check=False)
        if done.returncode != 0:
            raise TestbedError(
                f"ctr on {node}: {done.stderr.decode(errors='replace').strip()}", "is it an OCI archive?"
            )
        return done.stdout.decode()


def running() -> Running:
    """Return the running cluster; raise UnfitError when there is none."""
    here = layout()
    if not lock_holder() or not here.state.exists():
        raise UnfitError("no cluster runs on this machine", "run `make cluster`")
    state = json.loads(here.state.read_text())
    return Running(here, **state)
