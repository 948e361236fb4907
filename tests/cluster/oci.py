"""An OCI archive: what `ctr images import` takes."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stuntime.errors import TestbedError

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Image:
    """One image of an archive. `layers` are tar files without compression, the lowest first."""

    name: str
    layers: Sequence[Path]
    config: Mapping[str, Any] = field(default_factory=dict)


def write_archive(images: Sequence[Image], target: Path) -> dict[str, str]:
    """Write the images into one archive, a layer that several have only once; return each image's digest by name."""
    digests = {path: _digest(path) for path in dict.fromkeys(layer for image in images for layer in image.layers)}
    manifests: list[dict[str, Any]] = []
    by_name = {}
    with tarfile.open(target, "w") as archive:
        for path, digest in digests.items():
            archive.add(path, f"blobs/sha256/{digest}", filter=_anonymous)
        for image in images:
            config = _add_json(archive, _CONFIG, _config(image, digests))
            layers = [_descriptor(_LAYER, digests[path], path.stat().st_size) for path in image.layers]
            manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}
            described = _add_json(archive, _MANIFEST, manifest)
            by_name[image.name] = described["digest"]
            # Under both names, since KubeVirt asks for the target of a migration by digest.
            repository = image.name.rpartition(":")[0]
            manifests += [
                {**described, "annotations": {"io.containerd.image.name": name}}
                for name in (image.name, f"{repository}@{described['digest']}")
            ]
        _add(archive, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        _add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
    return by_name


def image_digests(archive: Path) -> set[str]:
    """Return the digests of the images that an OCI archive holds."""
    try:
        with tarfile.open(archive) as content:
            index = content.extractfile("index.json")
            manifests = json.load(index)["manifests"] if index else []
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise TestbedError(
            f"{archive} is no OCI archive: {error}", "`skopeo copy … oci-archive:FILE` makes one"
        ) from error
    return {entry["digest"] for entry in manifests}


def write_layer(root: Path, target: Path) -> None:
    """Write a directory as a layer, with owners and with file capabilities, as tar's posix format can hold them."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            entry = archive.gettarinfo(path, str(path.relative_to(root)))
            if entry is None:  # a socket
                continue
            capabilities = _capabilities(path)
            if capabilities:
                entry.pax_headers["SCHILY.xattr.security.capability"] = capabilities
            if entry.isreg():
                with path.open("rb") as file:
                    archive.addfile(entry, file)
            else:
                archive.addfile(entry)


def _capabilities(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return ""
    try:
        return os.getxattr(path, "security.capability").decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def _config(image: Image, digests: Mapping[Path, str]) -> dict[str, Any]:
    layers = [f"sha256:{digests[path]}" for path in image.layers]
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": dict(image.config),
        "rootfs": {"type": "layers", "diff_ids": layers},
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add_json(archive: tarfile.TarFile, kind: str, document: Mapping[str, Any]) -> dict[str, Any]:
    content = json.dumps(document, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()
    _add(archive, f"blobs/sha256/{digest}", content)
    return _descriptor(kind, digest, len(content))


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": size}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry
