"""Runs a command in the image's file system as a pod would: any user of group 0, a read-only root, no capabilities."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.image.build import Built

RANDOM_UID = 1_000_660_000
# Arguments: root, user, what /tmp is (a directory, or empty), and the command.
_ENTER = """
set -eu
root=$1 user=$2 tmp=$3
shift 3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
[ -z "$tmp" ] || mount --bind "$tmp" "$root/tmp"
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user:0" --groups=0 "$root" "$@"
"""


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it cost."""

    code: int
    out: str
    err: str
    wall_s: float
    cpu_s: float
    peak_kb: int


def start(
    built: Built,
    argv: Sequence[str],
    *,
    user: int = RANDOM_UID,
    tmp: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start a command; the process is the command itself, not one that waits for it."""
    settings = dict(entry.split("=", 1) for entry in built.config["Env"])
    settings |= environment or {}
    return subprocess.Popen(
        [
            *("unshare", "--mount", "--propagation=private", "sh", "-c", _ENTER, "sh"),
            *(str(built.root), str(user), str(tmp or "")),
            *("env", "-i", *(f"{key}={value}" for key, value in settings.items()), *argv),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(process: subprocess.Popen[str], *, started: float) -> Done:
    """Wait for it. Its output has to fit into a pipe, as it is read at the end."""
    _, status, cost = os.wait4(process.pid, 0)
    wall_s = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    with process.stdout as out, process.stderr as err:
        return Done(process.returncode, out.read(), err.read(), wall_s, cost.ru_utime + cost.ru_stime, cost.ru_maxrss)


def run_inside(built: Built, *argv: str, **options: object) -> Done:
    """Run a command to its end."""
    started = time.monotonic()
    return done(start(built, argv, **options), started=started)


def cpu_s(pid: int) -> float:
    """Return the processor time that a process and its threads have taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    from tests.image.build import image

    told = run_inside(image(), *sys.argv[1:])
    sys.stdout.write(told.out + told.err)
    sys.stdout.write(f"{told.wall_s:.2f} s, of the processor {told.cpu_s:.2f} s, {told.peak_kb / 1024:.0f} MB\n")
    sys.exit(told.code)
