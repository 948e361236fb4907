"""Namespaces of the sandbox's own: when the process that made them ends, the kernel ends all that was in them.

The caller forks process 1 of a new process-id namespace, which makes the private mounts, forks the process that does
the work and then only reaps. Nothing outlives process 1, and process 1 does not outlive the caller.
"""

import ctypes
import errno
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from stuntime.errors import ExitCode, StuntimeError, UnfitError, UsageError
from stuntime.sandbox.process import run

RUN = Path("/run/stuntime")
"""Where everything of a run lives: on a tmpfs that only this sandbox sees."""

HOST_PID = "STUNTIME_SANDBOX_PID"
"""The environment variable that tells the work which process, seen from outside, is process 1 of the sandbox."""

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_CAPABILITY_VERSION = 0x20080522
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x1000, 0x4000, 0x40000

_Mask = set[int | signal.Signals]
_libc = ctypes.CDLL(None, use_errno=True)


def run_inside(main: Callable[[], int]) -> int:
    """Run `main` inside new namespaces and return its exit code (128 + n when signal n ended it).

    SIGINT, SIGTERM and SIGHUP are passed on to it. The caller must have one thread only. Raise UnfitError when the
    namespaces cannot be made.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    _unshare_processes()
    ours, theirs = socket.socketpair()
    handlers = {number: signal.getsignal(number) for number in _FORWARDED}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    first = os.fork()
    if first == 0:
        ours.close()
        _be_first(main, theirs, mask)
    theirs.close()
    _forward_to(first)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        ours.sendall(f"{first}\n".encode())
        refusal = ours.makefile().read()
        code = _exit_code(os.waitpid(first, 0)[1])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if refusal:
        raise UnfitError(**json.loads(refusal))
    return code


def require_visible(path: Path) -> None:
    """Raise UsageError when what is written there inside the sandbox would vanish with it."""
    whole = path.absolute().resolve()
    if whole.is_relative_to("/run") and not whole.is_relative_to("/run/user"):
        raise UsageError(f"{path} lies in /run, which the sandbox has for itself", "name a directory somewhere else")


def _unshare_processes() -> None:
    if os.geteuid() == 0:
        _unshare(_CLONE_NEWPID)
        return
    user, group = os.geteuid(), os.getegid()
    _unshare(_CLONE_NEWUSER | _CLONE_NEWPID)
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        _pass_on_capabilities()
    except OSError as error:
        raise _not_allowed(error) from error


def _pass_on_capabilities() -> None:
    """Let the programs we start keep what this user may do in here.

    The user stays who they are instead of being mapped to root: a root that cannot change its groups is one that
    tcpdump refuses to work for.
    """
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    held = ctypes.create_string_buffer(24)
    _call("capget", header, held)
    effective, permitted, _, effective_high, permitted_high, _ = struct.unpack("=6I", held.raw)
    data = (effective, permitted, permitted, effective_high, permitted_high, permitted_high)
    _call("capset", header, struct.pack("=6I", *data))
    for capability in range(64):
        if (permitted_high << 32 | permitted) >> capability & 1:
            _call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def _be_first(main: Callable[[], int], caller: socket.socket, mask: _Mask) -> NoReturn:
    """Be process 1: it reaps what its children leave behind, and its end is the end of all."""
    _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
    host_pid = caller.makefile().readline().strip()
    if not host_pid:  # the caller died before we asked to die with it
        os._exit(ExitCode.INTERRUPTED)
    os.setsid()
    try:
        _make_private()
    except StuntimeError as error:
        caller.sendall(json.dumps({"what": str(error), "way_out": error.way_out}).encode())
        os._exit(ExitCode.UNFIT)
    caller.close()
    worker = os.fork()
    if worker == 0:
        os.environ[HOST_PID] = host_pid
        _work(main, mask)
    _forward_to(worker)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == worker:
            os._exit(_exit_code(status))


def _work(main: Callable[[], int], mask: _Mask) -> NoReturn:
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    code: int = ExitCode.UNEXPECTED
    try:
        code = main()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001 - this process has nobody above it who would show it
        sys.excepthook(*sys.exc_info())
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _make_private() -> None:
    _unshare(_CLONE_NEWNS | _CLONE_NEWNET)
    plain = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("proc", "/proc", "proc", plain)
    # Results may be asked for under /run/user; everything else in /run belongs to the host's own daemons.
    kept = os.open("/run/user", os.O_PATH) if Path("/run/user").is_dir() else None
    _mount("tmpfs", "/run", "tmpfs", _MS_NOSUID | _MS_NODEV)
    if kept is not None:
        Path("/run/user").mkdir()
        _mount(f"/proc/self/fd/{kept}", "/run/user", None, _MS_BIND | _MS_REC)
        os.close(kept)
    RUN.mkdir()
    run(["ip", "link", "set", "lo", "up"])


def _forward_to(pid: int) -> None:
    def forward(number: int, _: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    for number in _FORWARDED:
        signal.signal(number, forward)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _unshare(flags: int) -> None:
    try:
        _call("unshare", flags)
    except OSError as error:
        raise _not_allowed(error) from error


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    try:
        _call("mount", source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), None)
    except OSError as error:
        raise _not_allowed(error) from error


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _not_allowed(error: OSError) -> UnfitError:
    if os.geteuid() == 0 and error.errno != errno.ENOSPC:
        return UnfitError(
            f"root is not allowed to make namespaces here ({error.strerror})",
            "in a container, give it CAP_SYS_ADMIN and CAP_NET_ADMIN (`--privileged`), or use a virtual machine",
        )
    return UnfitError(
        f"user namespaces are not allowed to this user ({error.strerror})",
        "run as root, or allow them: `sysctl user.max_user_namespaces=15000`, on Debian also "
        "`kernel.unprivileged_userns_clone=1`, on Ubuntu `kernel.apparmor_restrict_unprivileged_userns=0`",
    )
