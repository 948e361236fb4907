"""The judge, built once for all tests; Go keeps what it has compiled."""

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.golang import find_go

ROOT = Path(__file__).parents[2]

#: Judges objects and returns what is wrong with them, one problem a line.
Judge = Callable[[Iterable[Mapping[str, Any]]], list[str]]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the judge."""
    target = tmp_path_factory.mktemp("judge") / "judge"
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "", "CGO_ENABLED": "0"}
    argv = ["nice", find_go(), "build", "-trimpath", "-buildvcs=false", "-o", str(target), "."]
    subprocess.run(argv, cwd=Path(__file__).parent / "judge", env=environment, check=True, timeout=3600)
    return target


@pytest.fixture(scope="session")
def judge(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Return what judges objects."""
    file = tmp_path_factory.mktemp("judged") / "objects.yaml"

    def judged(objects: Iterable[Mapping[str, Any]]) -> list[str]:
        file.write_text("".join(f"---\n{json.dumps(found)}\n" for found in objects))
        done = subprocess.run([str(program), str(file)], capture_output=True, text=True, timeout=60, check=False)
        problems = done.stderr.splitlines()
        assert bool(problems) == bool(done.returncode), done
        return problems

    return judged
