"""Faults, one after the other, on one platform of others: `python -m tests.ssh.session FOLDER` (see `platform`).

For each there is FOLDER/NAME.json, what the command left to read, and FOLDER/NAME, its output directory.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.sandbox.harness import STUNTIME
from tests.ssh.inventories import ASK

STATIC = "linux-bridge.from-static-node.static.ipv4"
MIGRATED = "linux-bridge.from-static-node.migrated.ipv4"
_HAND = (sys.executable, "-m", "tests.ssh.hand")
_PATIENCE_S = 120.0
_TRIES = 3


class Session:
    """Runs commands of the ssh testbed, and others in the guests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "ssh_config"

    def run(
        self,
        name: str,
        *options: str,
        scenario: str = STATIC,
        config: Path | None = None,
        before: Sequence[str] = (),
        verbose: bool = False,
        code: int = 0,
    ) -> None:
        """Measure, and keep what the command left; again, up to twice, when noise made it end with another code."""
        argv = self._argv(name, scenario, config or self.config, options, verbose=verbose)
        for _ in range(_TRIES):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            subprocess.run([*ASK.split(), "migrate", "node-a"], check=False, capture_output=True)  # it may be there
            done = subprocess.run(
                [*before, *argv],
                capture_output=True,
                text=True,
                check=False,
                timeout=_PATIENCE_S,
                stdin=subprocess.DEVNULL,
            )
            self._keep(name, done.returncode, done.stdout, done.stderr)
            if done.returncode == code:
                break

    def interrupt(self, name: str, number: signal.Signals) -> None:
        """Begin to measure, and interrupt it when ping runs."""
        argv = self._argv(name, STATIC, self.config, (), verbose=True)
        log = self.folder / f"{name}.stderr"
        with log.open("w") as stderr:
            running = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)
        deadline = time.monotonic() + _PATIENCE_S
        while "measure.migrating" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        busy = self.inside("static", "pidof ping; ls -d /tmp/stuntime-*")
        running.send_signal(number)
        code = running.wait(_PATIENCE_S)
        left = self.inside("static", "pidof ping python3; ls -d /tmp/stuntime-*")
        self._keep(name, code, json.dumps({"busy": busy, "left": left}), log.read_text())

    def inside(self, role: str, command: str) -> str:
        """Run a command in a guest and return what it printed."""
        argv = ["ssh", "-F", str(self.config), "-o", "BatchMode=yes", f"vm-{role}", command]
        return subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=_PATIENCE_S, stdin=subprocess.DEVNULL
        ).stdout

    @contextmanager
    def without(self, program: str) -> Iterator[None]:
        """Hold the guests without a program."""
        for role in ("static", "migrated"):
            self.inside(role, f"mv /bin/{program} /bin/{program}.away")
        try:
            yield
        finally:
            for role in ("static", "migrated"):
                self.inside(role, f"mv /bin/{program}.away /bin/{program}")

    def configured(self, name: str, old: str, new: str) -> Path:
        """Return a configuration of ssh in which something is another way."""
        file = self.folder / f"{name}.config"
        text = self.config.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        return file

    def _argv(self, name: str, scenario: str, config: Path, options: Sequence[str], *, verbose: bool) -> list[str]:
        where = ["--inventory", str(self.folder / "inventory.yaml"), "--ssh-config", str(config)]
        told = ["-v"] if verbose else []
        output = ["--output", str(self.folder / name)]
        return [*STUNTIME, *told, "run", scenario, "--testbed", "ssh", *where, *output, *options]

    def _keep(self, name: str, code: int, stdout: str, stderr: str) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps({"code": code, "stdout": stdout, "stderr": stderr}))


def main() -> int:
    """Go through all faults."""
    session = Session(Path(sys.argv[1]))
    folder = session.folder
    session.run("host-key", code=3, config=session.configured("host-key", f"{folder}/known_hosts", "/dev/null"))
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "other")], check=True)
    session.run(
        "denied",
        code=3,
        config=session.configured("denied", f"IdentityFile {folder}/key", f"IdentityFile {folder}/other"),
    )
    with session.without("ping"):
        session.run("no-ping", code=3)
    with session.without("python3"):
        session.run("no-python-migrated", code=3, scenario=MIGRATED)
        session.run("no-python-static", "--capture")
    session.run("fails", "--migrate-command", "sh -c 'echo quota exceeded >&2; exit 9'", code=5)
    session.run("hangs", "--migrate-command", "sleep 600", "--migration-timeout", "2", code=5)
    session.run("lies", "--migrate-command", f"{ASK} migrate node-c", code=5)
    session.run("does-nothing", "--migrate-command", "true", "--migration-timeout", "3", code=5)
    session.run(
        "cut",
        "--capture",
        "--migrate-command",
        f"{ASK} migrate {{target}}; {ASK} cut",
        "--shell",
        scenario=MIGRATED,
        verbose=True,
    )
    session.run("by-hand", "--by-hand", before=(*_HAND, "heeds"))
    session.run("by-hand-never", "--by-hand", "--migration-timeout", "4", before=(*_HAND, "sleeps"), code=5)
    inventory = folder / "inventory.yaml"
    text = inventory.read_text()
    inventory.write_text("".join(line for line in text.splitlines(True) if "  verify:" not in line))
    # The longer interval lets noise of the machine look less like an outage: here there must be none.
    session.run(
        "by-hand-unverified",
        "--by-hand",
        "--migration-timeout",
        "4",
        "--interval",
        "0.3",
        before=(*_HAND, "sleeps"),
        code=4,
    )
    inventory.write_text(text)
    session.interrupt("interrupted", signal.SIGINT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
