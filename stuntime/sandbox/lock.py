"""One sandbox at a time on one machine: two would disturb each other's numbers."""

import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from stuntime.errors import UnfitError

_log = structlog.get_logger()

LOCK = Path("/tmp/stuntime-sandbox.lock")  # noqa: S108 - all users of the machine meet here, and O_NOFOLLOW guards it


@contextmanager
def only_sandbox(path: Path = LOCK) -> Iterator[None]:
    """Hold the machine's lock; wait for the sandbox that holds it now, saying for whom (`sandbox.waiting`).

    The lock also holds while a process forked inside the body lives. Raise UnfitError when the file cannot be used.
    """
    descriptor = _locked(path)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()}: {' '.join(sys.argv)}".encode(), 0)
        yield
    finally:
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _locked(path: Path) -> int:
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 500, 0).decode(errors="replace") or "another sandbox that is just starting"
            _log.warning("sandbox.waiting", holder=holder)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Somebody who cleans up /tmp may have removed the file meanwhile: then others meet at a new one.
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open or make the file. Never O_CREAT on one that exists: in /tmp the kernel refuses that for others' files."""
    deadline = time.monotonic() + 1
    while True:
        with suppress(FileExistsError):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o600)
                os.fchmod(descriptor, 0o666)
            except OSError as error:
                if time.monotonic() < deadline:  # another user may be between making it and opening it to all
                    time.sleep(0.05)
                    continue
                raise UnfitError(f"{path} cannot be opened: {error.strerror}", f"remove {path}") from error
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
            raise UnfitError(f"{path} is not a file", f"remove {path}")
