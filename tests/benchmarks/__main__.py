"""How long the command takes for what users wait for, and how it grows: `make bench`.

Whole processes, each several times; medians and extremes are printed, nothing is asserted: the machine is noisy.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.unit.pinglog import log_lines, probes

RUNS = 5


def timed(title: str, *arguments: str) -> None:
    """Print how long a command of stuntime takes, and its largest peak of memory."""
    seconds, peaks = [], []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        command = subprocess.Popen([sys.executable, "-m", "stuntime", *arguments], stdout=subprocess.DEVNULL)
        _, _, usage = os.wait4(command.pid, 0)
        command.returncode = 0
        seconds.append(time.perf_counter() - started)
        peaks.append(usage.ru_maxrss / 1024)
    counted = seconds[1:]  # the first one warms up
    spread = f"({min(counted):.3f}-{max(counted):.3f})"
    print(f"{title:36} {statistics.median(counted):6.3f} s {spread}  {max(peaks):4.0f} MiB")


def main() -> None:
    """Run all benchmarks."""
    timed("stuntime --help", "--help")
    with tempfile.TemporaryDirectory(prefix="stuntime-bench-") as folder:
        results = Path(folder) / "results"
        results.mkdir()
        sample = Path(__file__).parent.parent / "data" / "results" / "versions" / "v1-sandbox.json"
        for number in range(24):
            text = sample.read_text().replace('"repetition": 1', f'"repetition": {number + 1}')
            (results / f"{number}.json").write_text(text)
        timed("stuntime aggregate, 24 results", "aggregate", str(results), "--output", folder)
        for count in (45_000, 90_000, 180_000, 360_000):
            log = Path(folder) / f"{count}.log"
            # In a process of its own: a child's peak of memory begins with that of the process it was forked from.
            subprocess.run([sys.executable, "-m", "tests.benchmarks", str(count), str(log)], check=True)
            timed(f"stuntime analyze, {count} probes", "analyze", "--ping-log", str(log))


def write_log(count: int, path: Path) -> None:
    """Write a log of `count` probes at 10 ms with one outage of 3 s."""
    lost = tuple(range(count // 2, count // 2 + 300))
    path.write_text("".join(log_lines(probes(count, 0.01, lost=lost))))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write_log(int(sys.argv[1]), Path(sys.argv[2]))
    else:
        main()
