"""How long years of nightly runs take to aggregate, and how much memory: python -m tests.benchmarks.many_results."""

import json
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from stuntime.aggregate import aggregate
from stuntime.documents import load
from tests.results import SANDBOX

_START = datetime(2016, 1, 1, tzinfo=UTC)


def written(folder: Path, count: int) -> None:
    """Write so many results, 12 in each run, a run a night."""
    templates = [json.loads(path.read_text()) for path in sorted((SANDBOX / "results").glob("*.json"))]
    for number in range(count):
        night, scenario = divmod(number, len(templates))
        run = folder / f"run-{night}" / "results"
        run.mkdir(parents=True, exist_ok=True)
        started = (_START + timedelta(days=night)).isoformat()
        found = {**templates[scenario], "run": f"run-{night}", "started": started}
        (run / f"{found['scenario']}.json").write_text(json.dumps(found))


def main(counts: list[int]) -> None:
    """Print a line per number of results."""
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            written(Path(name), count)
            for run in (None, "all"):
                begun = time.perf_counter()
                loaded = load([Path(name)])
                read = time.perf_counter()
                found = aggregate(loaded, run=run)
                done = time.perf_counter()
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
                judged = sum(len(verdict.documents) for verdict in found.verdicts)
                print(
                    f"{count:7} results, {judged:7} judged: read in {read - begun:5.2f} s, judged in "
                    f"{done - read:5.2f} s, peak {peak} MiB"
                )


if __name__ == "__main__":
    main([int(count) for count in sys.argv[1:]] or [1_000, 10_000, 100_000])
