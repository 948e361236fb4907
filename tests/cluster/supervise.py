"""The supervisor: a process of the machine that holds the cluster's namespaces, and tidies up when they have ended."""

import fcntl
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

from stuntime.sandbox.namespaces import run_inside
from tests.cluster.cgroups import remove_cgroups
from tests.cluster.forward import open_listener
from tests.cluster.inside import Built, be_cluster
from tests.cluster.layout import LOCK, Layout
from tests.cluster.say import say
from tests.cluster.sysctls import change_sysctls, restore_sysctls


def hold_lock() -> int | None:
    """Take the lock of this machine's cluster; return None while any process of one lives."""
    descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def lock_holder() -> int:
    """Return the supervisor's process id while one runs, otherwise 0."""
    descriptor = hold_lock()
    if descriptor is None:
        return int(LOCK.read_text() or 0)
    os.close(descriptor)
    return 0


def sweep(layout: Layout) -> None:
    """Remove what a cluster leaves that was killed, or has ended. The caller holds the lock."""
    restore_sysctls(layout.sysctls)
    if not remove_cgroups():
        say("some control groups of an earlier cluster cannot be removed")
    shutil.rmtree(layout.home, ignore_errors=True)


def start(layout: Layout, built: Built, lock: int) -> None:
    """Start the supervisor and return; it has the lock then."""
    sweep(layout)
    layout.logs.mkdir(parents=True)
    child = os.fork()
    if child:
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(child).encode(), 0)
        os.close(lock)
        return
    os.setsid()
    output = os.open(layout.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    code = 1
    try:
        code = _supervise(layout, built)
    except BaseException:  # noqa: BLE001 - nobody above would show it
        sys.excepthook(*sys.exc_info())
    os._exit(code)


def _supervise(layout: Layout, built: Built) -> int:
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    listener = open_listener()
    change_sysctls(layout.sysctls)
    code = run_inside(lambda: be_cluster(layout, built, listener))
    listener.close()
    restore_sysctls(layout.sysctls)
    remove_cgroups()
    if code == 128 + signal.SIGTERM:
        shutil.rmtree(layout.home, ignore_errors=True)
    else:
        with suppress(FileNotFoundError):
            layout.state.unlink()
        say(f"the cluster has ended with {code}; its logs are kept in {layout.logs} until the next start")
        for big in (layout.home / "nodes", layout.home / "etcd"):
            shutil.rmtree(big, ignore_errors=True)
    return code
