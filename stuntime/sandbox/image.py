"""The guests' image: a kernel and a small first file system, built once and found again by the digest of its inputs."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from stuntime.errors import TestbedError, UnfitError
from stuntime.sandbox import kernel
from stuntime.sandbox.cpio import Archive
from stuntime.sandbox.process import run

_log = structlog.get_logger()

# Part of the digest: a new number rebuilds every image.
_BUILDER = 1
_PYTHON = "/usr/bin/python3"
_PING = "/usr/bin/ping"
# By their own names instead of BusyBox': its shell, nohup and setsid start its own ping whatever the PATH says.
_HOST_TOOLS = ("sh", "nohup", "setsid", "timeout", "env")
_GUEST_FILES = Path(__file__).parent / "guest"
_OBSERVER_NEEDS = ("json", "os", "select", "signal", "socket", "struct", "sys", "time")
_LIST_MODULES = """
import importlib, json, os, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
print(json.dumps({
    "directories": [path for path in sys.path if os.path.isdir(path)],
    "files": sorted(path for path in files if path),
}))
"""
_COMPILE_MODULES = """
import py_compile, sys
for source, target in zip(sys.argv[1::2], sys.argv[2::2]):
    py_compile.compile(source, target, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
"""


@dataclass(frozen=True)
class GuestImage:
    """What a guest boots from. `digest` identifies it in results."""

    kernel: Path
    initramfs: Path
    digest: str
    kernel_release: str


@dataclass(frozen=True)
class _Inputs:
    """Everything the image depends on; `files` are the host's, by the path they also have in the guest."""

    packages: kernel.KernelPackages
    files: Mapping[str, Path]
    sources: tuple[Path, ...]
    directories: tuple[str, ...]

    def digest(self) -> str:
        own = (Path(__file__).with_name("cpio.py"), Path(__file__), *sorted(_GUEST_FILES.iterdir()))
        contents = [
            hashlib.sha256(path.read_bytes()).hexdigest() for path in (*self.files.values(), *self.sources, *own)
        ]
        described = [_BUILDER, self.packages.names, sorted(self.files), [str(s) for s in self.sources], contents]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:20]


def cache_directory() -> Path:
    """Return the directory that holds images, made if need be."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stuntime"
    path.mkdir(parents=True, exist_ok=True)
    return path


def guest_image() -> GuestImage:
    """Return the image for this machine, built if its inputs have changed; raise a StuntimeError when it cannot be.

    It needs the network to build, so it has to be called before the sandbox has namespaces of its own.
    """
    inputs = _find_inputs()
    digest = inputs.digest()
    cache = cache_directory()
    home = cache / f"image-{digest}"
    with _only_builder(cache):
        if not home.exists():
            _build(inputs, home)
    return GuestImage(
        home / "vmlinuz", home / "initramfs", digest, json.loads((home / "about.json").read_text())["kernel_release"]
    )


@contextmanager
def _only_builder(cache: Path) -> Iterator[None]:
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache.glob("building-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _find_inputs() -> _Inputs:
    needs = json.loads(run([_PYTHON, "-I", "-c", _LIST_MODULES, *_OBSERVER_NEEDS]))
    extensions = [path for path in needs["files"] if path.endswith(".so")]
    programs = {"/bin/ping": _PING, "/bin/python3": _PYTHON, "/bin/busybox": _tool("busybox")}
    programs |= {f"/bin/{name}": _tool(name) for name in _HOST_TOOLS}
    binaries = {**programs, **{path: path for path in extensions}}
    files = {path: Path(source).resolve() for path, source in binaries.items()}
    files |= {library: Path(library) for source in binaries.values() for library in _libraries(source)}
    return _Inputs(
        packages=kernel.find_packages(),
        files=files,
        sources=tuple(Path(path) for path in needs["files"] if path.endswith(".py")),
        directories=tuple(needs["directories"]),
    )


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise UnfitError(f"{name} is missing", "run `make install`")
    return path


def _libraries(binary: str) -> list[str]:
    try:
        listed = run(["ldd", binary])
    except TestbedError:  # a static binary needs none, and ldd calls that a failure
        return []
    return re.findall(r"(?:=> |^\s*)(/\S+) \(0x", listed, re.MULTILINE)


def _build(inputs: _Inputs, home: Path) -> None:
    started = time.monotonic()
    _log.info("sandbox.image.building", packages=list(inputs.packages.names), directory=str(home))
    building = Path(tempfile.mkdtemp(prefix="building-", dir=home.parent))
    linux = kernel.unpack(inputs.packages, building / "kernel")
    archive = Archive()
    _add_system(archive, inputs)
    _add_python(archive, inputs, building)
    _add_modules(archive, linux)
    (building / "initramfs").write_bytes(archive.finish())
    shutil.move(linux.image, building / "vmlinuz")
    (building / "about.json").write_text(
        json.dumps({"kernel_release": linux.release, "packages": inputs.packages.names}, indent=2) + "\n"
    )
    shutil.rmtree(building / "kernel")
    building.rename(home)
    _log.info("sandbox.image.built", seconds=round(time.monotonic() - started, 1))


def _add_system(archive: Archive, inputs: _Inputs) -> None:
    archive.device("/dev/console", 5, 1)
    for directory in ("/proc", "/sys", "/dev", "/tmp", "/root", *inputs.directories):  # noqa: S108 - the guest's own
        archive.directory(directory)
    for path, source in inputs.files.items():
        archive.file(path, source.read_bytes(), 0o755)
    # BusyBox' ping knows no -D; the links come after the real one, and the archive keeps the first of a name.
    for applet in run([str(inputs.files["/bin/busybox"]), "--list"]).split():
        archive.link(f"/bin/{applet}", "busybox")
    archive.link("/init", "bin/busybox")
    archive.file("/etc/inittab", (_GUEST_FILES / "inittab").read_bytes())
    archive.file("/etc/rc", (_GUEST_FILES / "rc").read_bytes(), 0o755)
    archive.file("/etc/passwd", b"root::0:0:root:/root:/bin/sh\n")


def _add_python(archive: Archive, inputs: _Inputs, building: Path) -> None:
    """Add the standard library as byte code only: a guest without KVM takes seconds to compile it."""
    compiled = {source: building / f"{number}.pyc" for number, source in enumerate(inputs.sources)}
    pairs = [str(path) for pair in compiled.items() for path in pair]
    run([_PYTHON, "-I", "-c", _COMPILE_MODULES, *pairs], timeout_s=60)
    for source, target in compiled.items():
        archive.file(str(source.with_suffix(".pyc")), target.read_bytes())
        target.unlink()


def _add_modules(archive: Archive, linux: kernel.Kernel) -> None:
    names = []
    for module in linux.modules:
        name = module.name.split(".ko")[0] + ".ko"
        archive.file(f"/lib/modules/{name}", kernel.module_content(module))
        names.append(name)
    archive.file("/lib/modules/order", "\n".join(names).encode())
