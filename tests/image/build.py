"""Builds the image with buildah, from the stand-ins; made once, and found again by the digest of what went into it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from stuntime import __version__
from stuntime.sandbox.process import run
from tests.cluster.cache import file_digest, kept
from tests.image import standins

REPOSITORY = Path(__file__).parents[2]
NAME = "stuntime.test/stuntime:1"
COMMIT = "c0ffee" * 6 + "c0ff"
"""What the build is told, so that a commit alone is no reason to build again."""

_CONTEXT = ("Containerfile", ".containerignore", "LICENSE", "image", "stuntime")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_BUILD_S = 900.0
_RECIPE = 1


@dataclass(frozen=True)
class Built:
    """The image: as an archive to import, as an unpacked file system, and what it says of itself."""

    home: Path

    @property
    def archive(self) -> Path:
        """The OCI archive."""
        return self.home / "image.tar"

    @property
    def root(self) -> Path:
        """The file system."""
        return self.home / "root"

    @property
    def config(self) -> dict[str, object]:
        """The image's configuration, as OCI has it."""
        return json.loads((self.home / "config.json").read_text())["config"]


def image() -> Built:
    """Return the image of this checkout, built if it is not there."""
    parts = {"BASE": standins.base(), "OC": standins.oc()}
    inputs = {str(path.relative_to(REPOSITORY)): file_digest(path) for path in _context()}
    inputs |= {name: path.parent.name for name, path in parts.items()} | {"recipe": str(_RECIPE)}

    def make(target: Path) -> None:
        buildah = Buildah(target / "storage")
        try:
            for name, tar in parts.items():
                buildah.build(tar.parent, Path(__file__).with_name(f"{name.lower()}.Containerfile"), name.lower())
            arguments = {name: f"localhost/{name.lower()}" for name in parts}
            arguments |= {"VERSION": __version__, "COMMIT": COMMIT}
            buildah.build(REPOSITORY, REPOSITORY / "Containerfile", "stuntime", arguments)
            buildah.save("stuntime", target)
        finally:
            buildah.forget()

    return Built(kept("image", inputs, make))


def _context() -> list[Path]:
    """Return the files of the checkout that the build sees."""
    files = (path for name in _CONTEXT for path in (REPOSITORY / name, *(REPOSITORY / name).rglob("*")))
    return sorted(path for path in files if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md")


class Buildah:
    """buildah with a storage of its own, which is removed with all that is in it."""

    def __init__(self, storage: Path) -> None:
        """Remember where everything will be."""
        self._storage = storage
        self._argv = ["nice", "buildah", f"--root={storage}/root", f"--runroot={storage}/run", "--storage-driver=vfs"]

    def build(self, context: Path, containerfile: Path, name: str, arguments: dict[str, str] | None = None) -> None:
        """Build an image, with this machine's way to the package index."""
        argv = ["build", "--isolation=chroot", "--format=oci", "--pull=false", f"--file={containerfile}"]
        argv += [f"--build-arg={key}={value}" for key, value in (arguments or {}).items()]
        for path in (Path("/etc/pip.conf"), _CERTIFICATES):
            if arguments and path.exists():
                argv.append(f"--volume={path}:{path}:ro")
        self._run([*argv, f"--tag={name}", str(context)])

    def save(self, name: str, target: Path) -> None:
        """Write image.tar, config.json and root, the unpacked file system."""
        self._run(["push", "--quiet", f"localhost/{name}", f"oci-archive:{target}/image.tar:{NAME}"])
        told = json.loads(self._run(["inspect", "--type=image", f"localhost/{name}"]))
        (target / "config.json").write_text(json.dumps(told["OCIv1"], indent=2) + "\n")
        container = self._run(["from", "--pull=false", f"localhost/{name}"]).strip()
        # With devices as devices, owners and links.
        run(["cp", "-a", self._run(["mount", container]).strip(), str(target / "root")], timeout_s=300)

    def forget(self) -> None:
        """Remove the storage."""
        shutil.rmtree(self._storage, ignore_errors=True)

    def _run(self, arguments: list[str]) -> str:
        return run([*self._argv, *arguments], timeout_s=_BUILD_S, what=f"buildah {arguments[0]}")
