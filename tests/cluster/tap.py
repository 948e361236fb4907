"""The truth to compare with: tcpdump at a VM's tap, started from outside the cluster."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STARTS_S = 10.0
_ENDS_S = 10


def qemu_of(namespace: str, vm: str) -> int:
    """Return the pid of the QEMU that a VM runs in; raise LookupError when there is none."""
    wanted = f"guest={namespace}_{vm},"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended meanwhile
            continue
        if "qemu-system" in arguments[0] and any(argument.startswith(wanted) for argument in arguments):
            return int(process.name)
    raise LookupError(f"no QEMU runs {namespace}/{vm}")


@contextmanager
def captured(namespace: str, vm: str, file: Path) -> Iterator[None]:
    """Record the ICMP packets at the VM's tap into a file. The VM must not migrate meanwhile."""
    inside = ["nsenter", "--target", str(qemu_of(namespace, vm)), "--net", "--"]
    links = subprocess.run([*inside, "ip", "-o", "link"], capture_output=True, text=True, check=True, timeout=10).stdout
    taps = re.findall(r"^\d+: (tap[^:@]*)", links, re.MULTILINE)
    assert len(taps) == 1, links
    command = ["tcpdump", "-Z", "root", "-i", taps[0], "-U", "--immediate-mode", "-w", str(file), "icmp or icmp6"]
    log = file.with_suffix(".tcpdump.log")
    with log.open("wb") as said:
        tcpdump = subprocess.Popen([*inside, *command], stderr=said, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _STARTS_S
        while "listening on" not in log.read_text():
            assert tcpdump.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "tcpdump does not start"
            time.sleep(0.05)
        yield
    finally:
        tcpdump.send_signal(signal.SIGINT)
        try:
            tcpdump.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            tcpdump.kill()
            tcpdump.wait()
        log.unlink(missing_ok=True)
