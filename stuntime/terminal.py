"""What a person sees: live progress, tables, a measurement in words. Besides `cli` the only module that prints."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from stuntime.aggregate import ScenarioVerdict
from stuntime.outage import INVALID, WARNINGS, Measurement
from stuntime.result import Result
from stuntime.scenario import Scenario
from stuntime.suite import Progress as Report
from stuntime.threshold import Verdict

_STYLES = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.ERROR: "yellow", Verdict.SKIPPED: "dim"}


@contextmanager
def progress(total: int) -> Iterator[Report]:
    """Show a live line on a terminal, and a plain line per result everywhere."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    done = 0
    columns = (
        SpinnerColumn(),
        BarColumn(16),
        TextColumn("{task.completed}/{task.total} {task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as live:
        task = live.add_task("booting", total=total)

        def report(scenario: Scenario, repetition: int, result: Result | None) -> None:
            nonlocal done
            live.update(task, description=scenario.id)
            if result is not None:
                done += 1
                live.update(task, completed=done)
                again = f" #{repetition}" if repetition > 1 else ""
                console.print(Text(f"[{done}/{total}] {scenario.id}{again}: {in_short(result)}"))

        yield report


def in_short(result: Result) -> str:
    """Return a result in a few words, without a verdict."""
    if result.error is not None:
        return f"error, {result.error.reason}: {result.error.message}"
    measured = result.measurement
    if measured is None:
        return "nothing was measured"
    lower_s = measured.bounds_s.lower if measured.bounds_s else 0.0
    number = (
        f"not recovered, at least {lower_s:.3f} s" if measured.stuntime_s is None else f"{measured.stuntime_s:.3f} s"
    )
    return number + (f" ({', '.join(measured.reasons)})" if measured.reasons else "")


def table(verdicts: Sequence[ScenarioVerdict]) -> None:
    """Print the table of a run: the stuntime beside what the initiator's own log says, in 80 columns."""
    captured = any(v.worst is not None and v.worst.capture is not None for v in verdicts)
    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("scenario", no_wrap=True)
    for heading in ("stuntime", "view", *(["capture"] if captured else [])):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("verdict", no_wrap=True)
    for verdict in verdicts:
        measured = verdict.worst.measurement if verdict.worst else None
        checked = verdict.worst.capture if verdict.worst else None
        numbers = [measured.stuntime_s, measured.initiator_view_s] if measured else [None, None]
        numbers += [checked.stuntime_s if checked else None] if captured else []
        grid.add_row(
            verdict.scenario.id,
            *("-" if number is None else f"{number:.3f}" for number in numbers),
            Text(verdict.verdict, style=_STYLES[verdict.verdict]),
        )
    Console(highlight=False, width=None if sys.stdout.isatty() else 80).print(grid)


def measurement_in_words(measured: Measurement) -> str:
    """Return a measurement for a person, line by line."""
    lines = []
    if measured.stuntime_s is not None and measured.bounds_s is not None:
        lines.append(f"stuntime {measured.stuntime_s:.3f} s (at least {measured.bounds_s.lower:.3f} s)")
        if not measured.stuntime_s:
            lines[-1] = (
                f"stuntime 0 s (an outage of up to {measured.bounds_s.upper:.3f} s could hide between two probes)"
            )
    elif not measured.recovered and measured.bounds_s is not None:
        lines.append(f"not recovered: the outage lasted at least {measured.bounds_s.lower:.3f} s")
    else:
        lines.append("no stuntime can be told")
    if measured.initiator_view_s is not None:
        lines.append(f"initiator's view {measured.initiator_view_s:.3f} s")
    lines.append(
        f"probes: {measured.probes_sent} sent, {measured.probes_answered} answered, {measured.probes_lost} lost, "
        f"{measured.probes_in_flight} in flight, every {measured.spacing_s:.3f} s"
    )
    for outage in measured.outages:
        end = "never ended" if outage.end is None else f"to {outage.end:.6f}, {outage.duration_s:.3f} s"
        phase = f", {outage.phase}" if outage.phase else ""
        lines.append(f"outage: from {outage.start:.6f} {end}, {outage.probes_lost} probes lost{phase}")
    for gap in measured.gaps:
        kind = "silent" if gap.silent else f"{gap.probes_lost} probes lost"
        lines.append(f"gap: from {gap.start:.6f} to {gap.end:.6f}, {gap.duration_s:.3f} s, {kind}")
    for reason in measured.reasons:
        mark = "invalid" if reason in INVALID else "note"
        lines.append(f"{mark}: {reason}: {INVALID.get(reason) or WARNINGS[reason]}")
    return "\n".join(lines)
