"""How the prober counts replies while it waits."""

import secrets
import time
from pathlib import Path

import pytest

from stuntime.ping import Reply
from stuntime.prober import Prober, in_a_row
from stuntime.ssh.connection import Access
from stuntime.ssh.shell import SshShell
from tests.unit import fake_ssh


def replies(*seqs: int, late: int | None = None) -> list[Reply]:
    """Return replies a tenth of a second apart, half a second more from the sequence number `late` on."""
    return [Reply(seq % 65536, seq / 10 + (0.5 if late is not None and seq >= late else 0.0), 0.001) for seq in seqs]


def burst(*seqs: int) -> list[Reply]:
    """Return replies that were queued until the next probe would have been sent."""
    at = (seqs[-1] + 1) / 10
    return [Reply(seq, at, at - seq / 10) for seq in seqs]


@pytest.mark.parametrize(
    ("found", "after", "count"),
    [
        ([], None, 0),
        (replies(5), None, 1),
        (replies(*range(1, 11)), None, 10),
        (replies(1, 2, 3, 4, 6, 7, 8), None, 3),
        (replies(*range(1, 11)), 4, 6),
        (replies(*range(1, 11)), 20, 0),
        (replies(*range(1, 11), late=8), None, 3),
        (replies(*range(65530, 65542)), 65533, 8),
        (replies(1, 2, 2, 3, 3, 4), None, 4),
        (burst(*range(1, 12)), None, 1),
        (burst(*range(1, 12)) + replies(12, 13, 14), None, 3),
    ],
)
def test_only_the_last_unbroken_row_counts(found: list[Reply], after: int | None, count: int) -> None:
    """A lost probe, a silent gap and a probe that was sent too early begin the count anew."""
    assert in_a_row(found, after) == count


def test_an_observer_that_only_starts_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The observer ends when it is told to, though a program that starts in the background ignores SIGINT."""
    fake_ssh.install(tmp_path, monkeypatch)
    starting = tmp_path / "bin" / "python3"
    starting.write_text("#!/bin/sh\nexec sleep 60\n")
    starting.chmod(0o755)
    shell, folder = SshShell(Access("guest")), f"/tmp/stuntime-{secrets.token_hex(4)}"
    prober = Prober(None, shell, shell, "192.0.2.2", None, "192.0.2.2", 0.1, folder)
    prober.start_observer()
    pid = int(Path(f"{folder}/observer.pid").read_text())
    begun = time.monotonic()
    prober.stop()
    assert time.monotonic() - begun < 5
    assert not shell.run(f"grep '^State:.[^Z]' /proc/{pid}/status 2>/dev/null || true")
    prober.clear()
    shell.leave()
    assert not Path(folder).exists()
