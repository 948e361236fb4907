"""What `stuntime --version` says."""

import re
import subprocess
from pathlib import Path

import pytest

from stuntime import __version__, version
from stuntime.cli import main


def test_a_checkout_names_version_and_commit(capsys):
    """In a checkout the commit is git's, with a + where files differ from it."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert ended.value.code == 0
    assert re.fullmatch(rf"stuntime {re.escape(__version__)} \({head[:12]}\+?\)\n", capsys.readouterr().out)


def test_an_image_names_what_it_was_built_from(tmp_path, monkeypatch):
    """What an image's build has written is the commit, shortened, and git is not asked."""
    built = tmp_path / "COMMIT"
    built.write_text("0123456789abcdef0123456789abcdef01234567\n")
    monkeypatch.setattr(version, "_BUILT_FROM", built)
    monkeypatch.setattr(version, "_of_checkout", None)
    assert version.told() == f"stuntime {__version__} (0123456789ab)"


def test_an_installed_package_has_no_commit(tmp_path, monkeypatch):
    """Without a checkout and without a build's word the commit is unknown, and said to be."""
    monkeypatch.setattr(version, "_PACKAGE", tmp_path / "stuntime")
    assert version.told() == f"stuntime {__version__} (commit unknown)"


def test_without_git_the_commit_is_unknown(monkeypatch):
    """A checkout on a machine without git still tells its version."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert version.commit() is None
