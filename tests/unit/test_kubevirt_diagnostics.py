"""What explains a failure on a cluster, with a small program in the place of `oc`."""

import time
from contextlib import suppress
from pathlib import Path

import pytest

from stuntime.kubevirt import diagnostics
from stuntime.kubevirt.diagnostics import diagnose
from tests.unit.kubevirt_lab import Lab

_INSPECTS = 'for word; do case $word in --dest-dir=*) into=${word#*=};; esac; done; mkdir -p "$into/namespaces"'


def _diagnosed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> tuple[Path, str]:
    """Return what was written, and what is said of it, where `oc` is a shell script."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "oc"
    program.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    with Lab(tmp_path / "lab") as lab:
        diagnose(lab.api, tmp_path / "out", {}, kubeconfig=tmp_path / "kubeconfig", context="lab-7")
    return tmp_path / "out", (tmp_path / "out" / "diagnostics.txt").read_text()


def test_oc_inspects_the_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`oc adm inspect` is asked for this namespace by this kubeconfig and context, and its files are kept."""
    out, said = _diagnosed(tmp_path, monkeypatch, f'{_INSPECTS}; echo all >"$into/namespaces/all.yaml"')
    assert (out / "inspect" / "namespaces" / "all.yaml").read_text() == "all\n"
    assert "in inspect/" in said
    asked = (tmp_path / "asked").read_text().split()
    assert {"adm", "inspect", f"--kubeconfig={tmp_path}/kubeconfig", "--context=lab-7"} <= set(asked)
    assert [word for word in asked if word.startswith("namespace/")] == ["namespace/ns"]


def test_what_oc_writes_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than 8 MiB the largest files are left out, which is said."""
    script = f'{_INSPECTS}; head -c 9000000 /dev/zero >"$into/large"; echo little >"$into/little"'
    out, said = _diagnosed(tmp_path, monkeypatch, script)
    assert [path.name for path in (out / "inspect").iterdir() if path.is_file()] == ["little"]
    assert "1 large files were left out" in said


def test_an_oc_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `oc` says when it fails is told beside what the API gave."""
    out, said = _diagnosed(tmp_path, monkeypatch, "echo error: forbidden >&2; exit 1")
    assert "oc adm inspect failed: error: forbidden" in said
    assert (out / "pods.json").exists()


# The client kills it, and lets the garbage collector reap it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_oc_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not end is ended in time, which is told."""
    monkeypatch.setattr(diagnostics, "_INSPECT_S", 1)
    started = time.monotonic()
    _, said = _diagnosed(tmp_path, monkeypatch, f"echo $$ >{tmp_path}/pid; exec sleep 60")
    assert time.monotonic() - started < 30
    assert "oc adm inspect failed: it did not end within 1 s" in said
    with suppress(FileNotFoundError):
        assert " Z " in Path("/proc", (tmp_path / "pid").read_text().strip(), "stat").read_text()
