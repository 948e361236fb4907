"""KVM where a guest proves that it boots with it, software emulation otherwise."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import structlog

from stuntime.errors import TestbedError, UnfitError, UsageError
from stuntime.sandbox.image import GuestImage, cache_directory
from stuntime.sandbox.namespaces import RUN
from stuntime.sandbox.qemu import Instance, Machine

_log = structlog.get_logger()

_KVM = Path("/dev/kvm")
_PROOF_S = 8.0
# QEMU keeps translated code in a buffer that by default may grow to a quarter of the machine's memory.
_ARGUMENTS = {"kvm": "kvm", "tcg": "tcg,tb-size=64"}


@dataclass(frozen=True)
class Accelerator:
    """What QEMU runs guests with, and why."""

    name: str
    why: str

    @property
    def argument(self) -> str:
        """QEMU's -accel."""
        return _ARGUMENTS[self.name]


def choose(wish: str, image: GuestImage) -> Accelerator:
    """Return the accelerator for `auto`, `kvm` or `tcg`; raise UnfitError when KVM is wished for and boots nothing."""
    if wish not in ("auto", *_ARGUMENTS):
        raise UsageError(f"{wish!r} is no accelerator", "known are auto, kvm, tcg")
    if wish == "tcg":
        chosen = Accelerator("tcg", "asked for")
    else:
        obstacle = _obstacle(image)
        if obstacle and wish == "kvm":
            raise UnfitError(f"KVM does not work here: {obstacle}", "use --accelerator tcg, or a machine with KVM")
        chosen = Accelerator("tcg", obstacle) if obstacle else Accelerator("kvm", "a guest has booted with it")
    # Said aloud where it is less than users have: software emulation makes slower guests and longer outages.
    tell = _log.info if chosen.name in (wish, "kvm") else _log.warning
    tell("sandbox.accelerator", accelerator=chosen.name, why=chosen.why.splitlines()[0])
    return chosen


def _obstacle(image: GuestImage) -> str:
    """Return why KVM cannot be used, empty when it can. What a guest has proven holds until the machine boots again."""
    try:
        os.close(os.open(_KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{_KVM} does not open: {error.strerror}"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = cache_directory() / f"kvm-{image.digest}.json"
    try:
        proof = json.loads(known.read_text())
        if proof["boot"] == boot:
            return str(proof["obstacle"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    obstacle = _try_to_boot(image)
    fresh = known.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps({"boot": boot, "obstacle": obstacle}))
    fresh.rename(known)
    return obstacle


def _try_to_boot(image: GuestImage) -> str:
    machine = Machine("proof", "10.200.0.250", "fd00:200::250", image, _ARGUMENTS["kvm"])
    try:
        guest = Instance(machine, "proof", RUN, port=None)
        try:
            guest.wait_booted(_PROOF_S)
        finally:
            guest.stop()
    except TestbedError as error:
        return str(error)
    return ""
