"""Stand-ins for the images that ours is built from, as tar files: a bare Debian with Python, and kubectl as `oc`."""

import os
import shutil
import tarfile
from pathlib import Path

from stuntime.sandbox.process import run
from tests.cluster.cache import file_digest, kept

_SUITE = "trixie"
_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = ("ca-certificates", "python3", "python3-venv")
_WASTE = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "var/log")
_VENV = "/opt/app-root"
# Part of the digests: a new number makes them again.
_RECIPE = 1


def base() -> Path:
    """Return the file system of the base image."""
    inputs = {"suite": _SUITE, "packages": " ".join(_PACKAGES), "recipe": str(_RECIPE)}
    return kept("image-base", inputs, _make_base) / "root.tar"


def oc() -> Path:
    """Return a file system that holds nothing but `/usr/bin/oc`."""
    kubectl = Path(shutil.which("kubectl") or "/usr/bin/kubectl")

    def make(target: Path) -> None:
        with tarfile.open(target / "root.tar", "w") as archive:
            archive.add(kubectl.resolve(), "usr/bin/oc")

    return kept("image-oc", {"kubectl": file_digest(kubectl), "recipe": str(_RECIPE)}, make) / "root.tar"


def _make_base(target: Path) -> None:
    root = target / "root"
    environment = ["nice", "env", f"PATH={os.environ['PATH']}:/usr/sbin:/sbin", "LC_ALL=C"]
    include = f"--include={','.join(_PACKAGES)}"
    bootstrap = ["debootstrap", "--variant=minbase", include, _SUITE, str(root), _MIRROR]
    run([*environment, *bootstrap], timeout_s=900, what="debootstrap")
    run([*environment, "chroot", str(root), "python3", "-m", "venv", _VENV], timeout_s=300)
    home = root / _VENV.strip("/") / "src"
    home.mkdir()
    os.chown(home, 1001, 0)
    home.chmod(0o775)
    for waste in _WASTE:
        shutil.rmtree(root / waste, ignore_errors=True)
    run(["tar", "-C", str(root), "--numeric-owner", "--one-file-system", "-cf", str(target / "root.tar"), "."])
    shutil.rmtree(root)
