"""One QEMU process: a guest that boots, or the target of a migration that waits for one."""

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pexpect.socket_pexpect import SocketSpawn
from qemu.qmp import QMPError
from qemu.qmp.legacy import QEMUMonitorProtocol

from stuntime.errors import TestbedError
from stuntime.sandbox.image import GuestImage
from stuntime.sandbox.network import Port
from stuntime.sandbox.process import Process
from stuntime.waiting import wait_until

MEMORY_MIB = 128
_ANSWER_S = 15.0
_EVENT_SLICE_S = 0.2
# What is not needed here and takes a guest without KVM its time.
_COMMAND_LINE = "console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on cryptomgr.notests"


@dataclass(frozen=True)
class Machine:
    """What every instance of a VM has in common."""

    name: str
    ipv4: str
    ipv6: str
    image: GuestImage
    accelerator: str
    command_line: str = _COMMAND_LINE

    def arguments(self) -> list[str]:
        """Return QEMU's arguments that source and target must share."""
        words = f"{self.command_line} vm_name={self.name} vm_ipv4={self.ipv4}/24 vm_ipv6={self.ipv6}/64"
        return [
            "-machine", "pc", "-accel", self.accelerator, "-cpu", "max", "-smp", "1", "-m", str(MEMORY_MIB),
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", str(self.image.kernel), "-initrd", str(self.image.initramfs), "-append", words,
        ]  # fmt: skip

    @property
    def ready_line(self) -> str:
        """What the guest prints on its console when it has booted."""
        return f"stuntime-guest: {self.name} is ready"


class Instance:
    """A QEMU process of a VM on a node. It runs from construction until `stop`."""

    def __init__(
        self, machine: Machine, name: str, directory: Path, *, port: Port | None, incoming: bool = False
    ) -> None:
        """Start it; raise TestbedError (with QEMU's own words) when it does not come up."""
        self.machine = machine
        self.name = name
        self.incoming = directory / f"{name}.migration"
        self.console_log = directory / f"{name}.console.log"
        self._console = directory / f"{name}.console"
        self._monitor = directory / f"{name}.qmp"
        argv = ["qemu-system-x86_64", "-name", name, *machine.arguments(), *self._devices(port)]
        if incoming:
            argv += ["-incoming", f"unix:{self.incoming}"]
        self.process = Process(
            f"QEMU of {name}", port.node.inside(argv) if port else argv, directory / f"{name}.qemu.log"
        )
        self._qmp = self._connected()

    def wait_booted(self, timeout_s: float) -> None:
        """Wait until the guest says on its console that it is ready; raise TestbedError when it does not."""
        ready = self.machine.ready_line.encode()
        try:
            wait_until(
                lambda: not self.process.running() or ready in self.console_log.read_bytes(),
                timeout_s=timeout_s,
                what=f"the boot of guest {self.name}",
            )
        except TestbedError as error:
            raise self._did_not_boot(f"within {timeout_s:g} s") from error
        if not self.process.running():
            raise self._did_not_boot("and QEMU has ended")

    def command(self, name: str, **arguments: object) -> Any:
        """Return what QEMU answers to a QMP command; raise TestbedError when it refuses or has ended."""
        try:
            return self._qmp.cmd(name, **arguments)
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            raise self._monitor_failed(name, error) from error

    def forget_events(self) -> None:
        """Forget the QMP events that have come so far."""
        self._qmp.clear_events()

    def event(self, names: Sequence[str], deadline: float) -> dict[str, Any] | None:
        """Return the next QMP event of one of these names; None when the deadline (monotonic) or QEMU's end came."""
        while True:
            try:
                event = self._qmp.pull_event(wait=_EVENT_SLICE_S)
            except TimeoutError:
                if time.monotonic() > deadline or not self.process.running():
                    return None
                continue
            except (QMPError, OSError, EOFError):
                return None
            if event is not None and event["event"] in names:
                return event

    def console(self, timeout_s: float) -> "SocketSpawn[bytes]":
        """Return a new connection to the guest's console."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(self._console))
        except OSError as error:
            connection.close()
            raise TestbedError(
                f"the console of {self.name} cannot be reached: {error.strerror}", "look at QEMU's log in the evidence"
            ) from error
        return SocketSpawn(connection, timeout=timeout_s)

    def stop(self) -> None:
        """End it. A guest has nothing to lose, so it is not asked."""
        with suppress(QMPError, OSError, EOFError):
            self._qmp.close()
        self.process.stop()

    def _devices(self, port: Port | None) -> list[str]:
        arguments = [
            "-chardev", f"socket,id=console,path={self._console},server=on,wait=off,logfile={self.console_log}",
            "-serial", "chardev:console",
            "-qmp", f"unix:{self._monitor},server=on,wait=off",
        ]  # fmt: skip
        if port is not None:
            arguments += [
                "-netdev", f"tap,id=net,ifname={port.tap},script=no,downscript=no",
                "-device", f"virtio-net-pci,netdev=net,mac={port.mac},romfile=",
            ]  # fmt: skip
        return arguments

    def _connected(self) -> QEMUMonitorProtocol:
        try:
            wait_until(
                lambda: not self.process.running() or self._monitor.exists(),
                timeout_s=_ANSWER_S,
                what=f"the monitor of {self.name}",
            )
            qmp = QEMUMonitorProtocol(str(self._monitor), nickname=self.name)
            qmp.settimeout(_ANSWER_S)
            qmp.connect()
        except (QMPError, OSError, EOFError) as error:
            self.process.stop()
            raise self._monitor_failed("connect", error) from error
        except TestbedError:
            self.process.kill()
            raise
        return qmp

    def _monitor_failed(self, name: str, error: BaseException) -> TestbedError:
        words = self.process.last_words()
        return TestbedError(
            f"QEMU of {self.name} did not answer to {name}: {words or error or type(error).__name__}",
            "look at QEMU's log in the evidence",
        )

    def _did_not_boot(self, how: str) -> TestbedError:
        console = self.console_log.read_text(errors="replace").strip().splitlines()[-3:]
        said = " / ".join([*console, *self.process.last_words().splitlines()]) or "nothing"
        return TestbedError(
            f"guest {self.name} did not boot {how}; its console and QEMU say: {said}",
            "look at its console log in the evidence",
            reason="guest-not-booted",
        )
