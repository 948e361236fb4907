"""What takes long to make is made once, and found again by the digest of what went into it."""

import fcntl
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from stuntime.sandbox.image import cache_directory
from tests.cluster.say import say

_DIGEST_LENGTH = 20


def cluster_cache() -> Path:
    """Return the directory that holds everything the cluster keeps, made if need be."""
    path = cache_directory() / "cluster"
    path.mkdir(exist_ok=True)
    return path


def kept(name: str, inputs: Mapping[str, str], make: Callable[[Path], None]) -> Path:
    """Return the directory that `make` filled from these inputs, now or earlier; older ones of the name are removed."""
    described = json.dumps(dict(sorted(inputs.items())))
    digest = hashlib.sha256(described.encode()).hexdigest()[:_DIGEST_LENGTH]
    home = cluster_cache() / f"{name}-{digest}"
    with (cluster_cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            started = time.monotonic()
            say(f"building {name} …")
            _sweep(name, "building-*")
            building = Path(tempfile.mkdtemp(prefix=f"{name}-building-", dir=cluster_cache()))
            building.chmod(0o755)
            make(building)
            building.rename(home)
            _sweep(name, "[0-9a-f]" * _DIGEST_LENGTH, but=home)
            say(f"built {name} in {time.monotonic() - started:.0f} s")
    return home


def file_digest(path: Path) -> str:
    """Return the digest of a file's content, to be one of the inputs."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sweep(name: str, pattern: str, *, but: Path | None = None) -> None:
    for old in cluster_cache().glob(f"{name}-{pattern}"):
        if old != but:
            shutil.rmtree(old, ignore_errors=True)
