"""The guests' kernel: the distribution's own package, unpacked and never installed."""

import lzma
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stuntime.errors import UnfitError
from stuntime.sandbox.process import run

_DOWNLOAD_S = 300.0
_MODULE = "virtio_net", "virtio_pci"


@dataclass(frozen=True)
class KernelPackages:
    """What to download: `names` are exact (name=version), so they identify the content."""

    names: tuple[str, ...]
    fetch: Callable[["KernelPackages", Path], None]


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel. `modules` are in the order in which they have to be loaded."""

    image: Path
    release: str
    modules: tuple[Path, ...]


def find_packages() -> KernelPackages:
    """Return the kernel packages this distribution offers now; raise UnfitError when it is none of those known."""
    known = _distribution()
    for name, meta in (("ubuntu", "linux-image-virtual"), ("debian", "linux-image-cloud-amd64")):
        if name in known:
            return KernelPackages(_apt_packages(meta), _apt_fetch)
    if "fedora" in known:
        return KernelPackages(_dnf_packages(), _dnf_fetch)
    raise UnfitError(
        "no kernel for the guests is known for this distribution", "use Debian, Ubuntu or Fedora (a container will do)"
    )


def unpack(packages: KernelPackages, directory: Path) -> Kernel:
    """Download the packages, unpack them into the directory and return the kernel in them."""
    directory.mkdir()
    packages.fetch(packages, directory)
    modules = next((path for lib in ("usr/lib", "lib") for path in directory.glob(f"{lib}/modules/*")), None)
    if modules is None:
        raise UnfitError(f"{', '.join(packages.names)} holds no kernel modules", "run `make install`")
    release = modules.name
    image = next((p for p in (directory / f"boot/vmlinuz-{release}", modules / "vmlinuz") if p.exists()), None)
    if image is None:
        raise UnfitError(f"{', '.join(packages.names)} holds no kernel image", "run `make install`")
    base = str(modules.parent.parent.parent)
    run(["depmod", "-b", base, release], timeout_s=60)
    wanted = dict.fromkeys(
        Path(line.split()[1])
        for name in _MODULE
        for line in run(["modprobe", "-d", base, "-S", release, "--show-depends", name]).splitlines()
        if line.startswith("insmod")
    )
    return Kernel(image, release, tuple(wanted))


def module_content(module: Path) -> bytes:
    """Return a kernel module as the guest's insmod takes it: not compressed."""
    if module.suffix == ".xz":
        return lzma.decompress(module.read_bytes())
    if module.suffix == ".zst":
        plain = module.with_suffix("")
        run(["zstd", "-q", "-d", "-f", str(module), "-o", str(plain)])
        return plain.read_bytes()
    return module.read_bytes()


def _distribution() -> list[str]:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return []
    return [release.get("ID", ""), *release.get("ID_LIKE", "").split()]


def _apt_packages(meta: str) -> tuple[str, ...]:
    image, version = _apt_depends(meta, r"(linux-image-\d[^ ,]*)(?: \(= ([^)]+)\))?")[0]
    exact = version or _apt_field(image, "Version")
    modules = _apt_depends(image, r"(linux-modules-\d[^ ,]*)(?: \(= ([^)]+)\))?")
    return (f"{image}={exact}", *(f"{name}={version or exact}" for name, version in modules))


def _apt_depends(package: str, pattern: str) -> list[tuple[str, str]]:
    return re.findall(pattern, _apt_field(package, "Depends"))


def _apt_field(package: str, field: str) -> str:
    shown = run(["apt-cache", "show", "--no-all-versions", package], timeout_s=60, what=f"looking up {package}")
    match = re.search(rf"^{field}: (.*)$", shown, re.MULTILINE)
    return match.group(1) if match else ""


def _apt_fetch(packages: KernelPackages, directory: Path) -> None:
    # apt-get downloads into the working directory only.
    run(
        ["env", "-C", str(directory), "apt-get", "-q", "-o", "APT::Sandbox::User=", "download", *packages.names],
        timeout_s=_DOWNLOAD_S,
        what="downloading the guests' kernel (does `apt-get update` help?)",
    )
    for package in directory.glob("*.deb"):
        run(["dpkg-deb", "-x", str(package), str(directory)], timeout_s=120)
        package.unlink()


def _dnf_packages() -> tuple[str, ...]:
    found = run(
        [
            "dnf",
            "-q",
            "repoquery",
            "--latest-limit=1",
            "--qf",
            "%{name}-%{evr}.%{arch}\n",
            "kernel-core",
            "kernel-modules-core",
        ],
        timeout_s=_DOWNLOAD_S,
        what="looking up the guests' kernel",
    )
    return tuple(sorted(found.split()))


def _dnf_fetch(packages: KernelPackages, directory: Path) -> None:
    run(
        ["dnf", "-q", "download", "--destdir", str(directory), *packages.names],
        timeout_s=_DOWNLOAD_S,
        what="downloading the guests' kernel",
    )
    for package in directory.glob("*.rpm"):
        archive = directory / "content.tgz"
        run(["rpm2archive", str(package)], timeout_s=120)
        package.with_suffix(".rpm.tgz").rename(archive)
        run(["tar", "-xzf", str(archive), "-C", str(directory)], timeout_s=120)
        archive.unlink()
        package.unlink()
