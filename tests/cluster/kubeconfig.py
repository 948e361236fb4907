"""Kubeconfigs: who speaks to which API server."""

import base64
import json
from pathlib import Path


def write_kubeconfig(target: Path, *, server: str, authority: Path, token: str, namespace: str = "default") -> None:
    """Write one for a bearer token. JSON is YAML too, and readable by whoever owns the file only."""
    ca = base64.b64encode(authority.read_bytes()).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "stuntime", "cluster": {"server": server, "certificate-authority-data": ca}}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [
            {"name": "stuntime", "context": {"cluster": "stuntime", "user": "user", "namespace": namespace}},
        ],
        "current-context": "stuntime",
    }
    target.touch(mode=0o600)
    target.write_text(json.dumps(document, indent=2) + "\n")
