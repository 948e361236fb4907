"""How long all scenarios take on a cluster with one spare NIC: python -m tests.benchmarks.makespan [SCALE].

A simulated cluster of three nodes, on which a VM boots in 90 s and migrates in 20 s, in scaled time. Real are the
suite, the rule of the measurement, the quiet window and every request to the (fake) API; guests answer at once, and
their logs tell of probes that were all answered. Against it: the same, one scenario after the other.
"""

import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from stuntime.kubevirt import vms
from stuntime.kubevirt.api import Api
from stuntime.kubevirt.console import ConsoleLine
from stuntime.measure import Options
from stuntime.scenario import NETWORKS, Scenario, measuring_order, scenarios
from stuntime.testbed import VirtualMachine
from tests.unit.kubeapi.kubevirt import Times
from tests.unit.kubevirt_lab import Lab, hurry

BOOT_S, MIGRATION_S, ALLOWED_S = 90.0, 20.0, 15.0
_STEPS = 6
_RTT_S = 0.0005


@dataclass
class _Ping:
    """A ping that runs: when it began, and where to; a probe is sent each interval and answered."""

    peer: str
    interval_s: float
    began: float

    def probes(self) -> Iterator[tuple[int, float]]:
        """Yield sequence number and time of the probes so far."""
        for number in range(int((time.time() - self.began) / self.interval_s)):
            yield number + 1, self.began + number * self.interval_s

    def log(self) -> list[str]:
        """Return the lines of its log."""
        replies = (
            f"[{at + _RTT_S:.6f}] 64 bytes from {self.peer}: icmp_seq={seq} ttl=64 time=0.500 ms"
            for seq, at in self.probes()
        )
        return [f"PING {self.peer} ({self.peer}) 56(84) bytes of data.", *replies]


#: What runs in the guests, by the folder in them that a measurement has; the observer is told whom to observe.
_PINGS: dict[str, _Ping] = {}
_OBSERVED: dict[str, str] = {}


class _Shell:
    """Answers what the prober asks of a guest."""

    def run(self, command: str, *, timeout_s: float = 30.0) -> str:
        folder = next(iter(re.findall(r"/tmp/stuntime-\w+", command)), "")
        if started := re.search(r"ping -n -D -O (?:-6 )?-i (\S+) ([0-9a-f.:]+)", command):
            _PINGS[folder] = _Ping(started[2], float(started[1]), time.time())
        elif started := re.search(r"python3 \S+ ([0-9a-f.:]+)", command):
            _OBSERVED[folder] = started[1]
        elif "ping -V" in command:
            return "6.1.0\nping from iputils 20221126"
        elif "-c 1 127.0.0.1" in command:
            return f"[{time.time():.6f}] 64 bytes from 127.0.0.1: icmp_seq=1 ttl=64 time=0.030 ms"
        elif "sed -n" in command:
            probes = list(_PINGS[folder].probes())[-100:]
            return "\n".join(f"{at + _RTT_S:.6f} {seq} 0.500" for seq, at in probes)
        elif "tail -n" in command:
            return _PINGS[folder].log()[-1]
        return ""

    def write(self, path: str, content: bytes) -> None:
        """Take a file."""

    def read(self, path: str) -> bytes:
        folder = path.rsplit("/", 1)[0]
        ping = _PINGS[folder]
        if path.endswith("ping.out"):
            return "\n".join([*ping.log(), ""]).encode()
        observed = _OBSERVED[folder]
        kind, later_s = ("reply", _RTT_S) if observed == ping.peer else ("request", 0.0)
        arrived = [f"{kind} {at + later_s:.6f} {seq} 7" for seq, at in ping.probes()]
        return "\n".join([f"stuntime-observer 1 {observed}", *arrived, f"end {time.time():.6f} 0", ""]).encode()

    def disconnect(self) -> None:
        """Have no connection."""


def _machine(api: Api, name: str, addresses: Mapping[str, str], mac: str, _: object) -> vms.Machine:
    return vms.Machine(VirtualMachine(name, addresses, mac), ConsoleLine(api, name), _Shell())


@contextmanager
def _cluster(folder: Path, scale: float) -> Iterator[Lab]:
    times = Times(
        boot_s=BOOT_S / scale,
        step_s=0.5 / scale,
        move_s=(MIGRATION_S - 0.5 * _STEPS) / scale,
        delete_s=1.0 / scale,
    )
    with pytest.MonkeyPatch.context() as patch, Lab(folder, times=times) as lab:
        hurry(patch)
        patch.setattr(vms, "machine", _machine)
        yield lab


def makespan_s(folder: Path, planned: list[Scenario], *, scale: float, together: int) -> float:
    """Return how long the scenarios take, in seconds of the cluster; fail when one of them gave no number."""
    options = Options(interval_s=0.1 / scale, recovery_probes=10, recovery_timeout_s=60 / scale)
    with _cluster(folder, scale) as lab:
        output = lab.output(*(scenario.id for scenario in planned))
        with lab.testbed(*dict.fromkeys(scenario.network for scenario in planned)) as testbed:
            begun = time.monotonic()
            lab.run(testbed, output, options=options, together=together)
            taken_s = time.monotonic() - begun
        failed = [f"{result.scenario}: {result.error}" for result in lab.results if result.error]
        if failed or len(lab.results) != len(planned):
            raise RuntimeError(f"not all was measured: {failed}")
    return taken_s * scale


def bound_s(planned: list[Scenario]) -> float:
    """Return what a run of these scenarios may take: each network's VMs boot once, and all at the same time."""
    waves = len({scenario.network for scenario in planned})
    return waves * BOOT_S + len(planned) * (MIGRATION_S + ALLOWED_S)


def serial_s(planned: list[Scenario]) -> float:
    """Return what the usual procedure takes: boot, measure, the next one."""
    return len(planned) * (BOOT_S + MIGRATION_S + ALLOWED_S)


def main(scale: float) -> None:
    """Print how long both take."""
    planned = measuring_order(scenarios(NETWORKS))
    for title, together, allowed_s in (
        ("a network's VMs boot together", len(planned), bound_s(planned)),
        ("one scenario after the other", 1, serial_s(planned)),
    ):
        with tempfile.TemporaryDirectory(prefix="stuntime-makespan-") as folder:
            taken_s = makespan_s(Path(folder), planned, scale=scale, together=together)
        print(f"{title:34} {taken_s:6.0f} s for {len(planned)} scenarios (reckoned: {allowed_s:.0f} s)")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
