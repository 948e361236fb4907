"""What a person sees: live progress, tables, a measurement in words. Besides `cli` the only module that prints."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stuntime.aggregate import Aggregate, ScenarioVerdict
from stuntime.baseline import Baseline
from stuntime.comparability import shown
from stuntime.compare import Comparison, Finding
from stuntime.outage import INVALID, WARNINGS, Measurement
from stuntime.ranges import Range
from stuntime.result import Result
from stuntime.scenario import Scenario
from stuntime.text import printable
from stuntime.threshold import Thresholds, Verdict, threshold_of

if TYPE_CHECKING:
    from stuntime.kubevirt.preflight import Found
    from stuntime.suite import Progress as Report

_STYLES = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.ERROR: "yellow", Verdict.SKIPPED: "dim"}


@contextmanager
def progress(total: int, *, live: bool = True) -> "Iterator[Report]":
    """Show a live line on a terminal, unless somebody has to type there, and a plain line per result everywhere."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    done = 0
    columns = (
        SpinnerColumn(),
        BarColumn(16),
        TextColumn("{task.completed}/{task.total} {task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, disable=not (live and console.is_terminal), transient=True, refresh_per_second=2
    ) as line:
        task = line.add_task("booting", total=total)

        def report(scenario: Scenario, repetition: int, result: Result | None) -> None:
            nonlocal done
            line.update(task, description=scenario.id)
            if result is not None:
                done += 1
                line.update(task, completed=done)
                again = f" #{repetition}" if repetition > 1 else ""
                console.print(Text(f"[{done}/{total}] {scenario.id}{again}: {in_short(result)}"))

        yield report


def preflight(found: "Found") -> None:
    """Print the table of a preflight: what was found, what is needed, and what to do."""
    console = _console()
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("check", "found", "needed"):
        grid.add_column(heading)
    for check in found.checks:
        mark, style = ("ok", "green") if check.fit else ("no", "bold red")
        told = Text.assemble((mark, style), f" {printable(check.found)}", f" ({check.note})" if check.note else "")
        if not check.fit:
            told.append(f"\n-> {check.way_out}")
        grid.add_row(check.name, told, printable(check.needed))
    console.print(grid)
    bad = sum(not check.fit for check in found.checks)
    console.print(f"{bad} of {len(found.checks)} checks failed" if bad else f"fit: {len(found.checks)} checks passed")


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


def verdicts(aggregate: Aggregate, details: Mapping[str, Result]) -> None:
    """Print the table of an aggregate in 80 columns, then a sentence for all that did not pass, and the notes.

    What was not asked for is only counted. The stuntime stands beside what the initiator's own log says of it;
    `details` are the decisive results by scenario.
    """
    console = _console()
    captured = any(detail.capture is not None for detail in details.values())
    shown = [verdict for verdict in aggregate.verdicts if verdict.verdict != Verdict.SKIPPED]
    for (network, family), group in groupby(shown, key=lambda v: (v.scenario.network, v.scenario.ip_family)):
        headings = ("stuntime", "n", "view", *(("capture",) if captured else ()), "limit")
        grid = _grid(f"{network} {family}", *headings)
        grid.add_column("verdict", no_wrap=True)
        for verdict in group:
            detail = details.get(verdict.scenario.id)
            measured = detail.measurement if detail else None
            numbers = [measured.initiator_view_s if measured else None]
            numbers += [detail.capture.stuntime_s if detail and detail.capture else None] if captured else []
            numbers.append(verdict.threshold.seconds)
            grid.add_row(
                f"{verdict.scenario.path}.{verdict.scenario.initiator}",
                _range(verdict),
                str(len(verdict.documents) or "-"),
                *(_seconds(number) for number in numbers),
                Text(verdict.verdict, style=_STYLES[verdict.verdict]),
            )
        console.print(grid)
        console.print()
    counts = [(verdict, sum(v.verdict == verdict for v in aggregate.verdicts)) for verdict in Verdict]
    told = [Text(f"{count} {verdict}", style=_STYLES[verdict]) for verdict, count in counts if count]
    console.print(Text(", ").join(told))
    for found in aggregate.verdicts:
        if found.verdict in (Verdict.FAIL, Verdict.ERROR):
            line = Text.assemble(
                (found.verdict, _STYLES[found.verdict]), f" {found.scenario.id}: {printable(found.judgement.sentence)}"
            )
            console.print(line, soft_wrap=True)
    for note in aggregate.notes:
        console.print(Text(printable(f"note: {note}")), soft_wrap=True)


def _range(verdict: ScenarioVerdict) -> str:
    if verdict.not_recovered:
        return "not recovered"
    found = verdict.stuntime
    return "-" if found is None else str(found).removesuffix(" s")


def _seconds(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 80)


def _grid(first: str, *headings: str) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column(first, no_wrap=True, min_width=28)
    for heading in headings:
        grid.add_column(heading, justify="right", no_wrap=True)
    return grid


def baseline(found: Baseline, thresholds: Thresholds) -> None:
    """Print a baseline: where it comes from, its ranges, and the thresholds that follow from them."""
    console = _console()
    conditions = found.conditions
    versions = ", ".join(f"{name} {version}" for name, version in sorted(conditions.product_versions.items()))
    days = " to ".join(dict.fromkeys(found.measured))
    for line in (
        f"baseline of {conditions.cluster_id} ({conditions.testbed}), by {found.author}, {found.created}",
        f"measured {days} in {len(found.runs)} runs; at least {found.at_least} values asked for; {versions}",
        f"made of documents with the digest {found.inputs_sha256}",
    ):
        console.print(Text(line), soft_wrap=True)
    console.print()
    for network in dict.fromkeys(Scenario.parse(scenario).network for scenario in found.scenarios):
        grid = _grid(network, "n", "smallest", "median", "largest", "threshold")
        grid.add_column("", no_wrap=True)
        for scenario, values in found.scenarios.items():
            parsed = Scenario.parse(scenario)
            if parsed.network != network:
                continue
            threshold = threshold_of(parsed, thresholds, values.largest_s)
            grid.add_row(
                f"{parsed.path}.{parsed.initiator}" + ("" if parsed.ip_family == "ipv4" else f".{parsed.ip_family}"),
                str(values.n),
                *(_seconds(number) for number in (values.smallest_s, values.median_s, values.largest_s)),
                _seconds(threshold.seconds),
                "" if threshold.origin == "the baseline" else threshold.origin,
            )
        console.print(grid)
        console.print()
    for left in found.left_out:
        console.print(Text(printable(f"left out: {left.file}: {left.why}")), soft_wrap=True)


_FINDING_STYLES = {
    Finding.REGRESSION: "bold red",
    Finding.NOT_RECOVERED: "bold red",
    Finding.ABOVE: "bold red",
    Finding.IMPROVEMENT: "green",
    Finding.BELOW: "yellow",
    Finding.TOO_FEW: "yellow",
}


def comparison(found: Comparison) -> None:
    """Print a comparison in 80 columns, then a sentence for each pair, and what else has to be known."""
    console = _console()
    console.print(Text(f"A: {found.a}\nB: {found.b}\n"), soft_wrap=True)
    families = {Scenario.parse(pair.a).ip_family for pair in found.pairs}
    for network in dict.fromkeys(Scenario.parse(pair.a).network for pair in found.pairs):
        grid = _grid(network, "A", "n", "B", "n", "change")
        for pair in found.pairs:
            parsed = Scenario.parse(pair.a)
            if parsed.network != network:
                continue
            a, b = pair.stuntime_a, pair.stuntime_b
            family = f".{parsed.ip_family}" if len(families) > 1 else ""
            grid.add_row(
                f"{parsed.path}.{parsed.initiator}{family}",
                *_side(a, pair.not_recovered_a, pair.published_s),
                *_side(b, pair.not_recovered_b, pair.published_s),
                "-" if pair.change_s is None else f"{pair.change_s:+.3f}",
            )
        console.print(grid)
        console.print()
    _side_by_side(console, found)
    told: dict[tuple[str, str], list[str]] = {}
    for pair in found.pairs:
        name = pair.a if pair.a == pair.b else f"{pair.a} and {pair.b}"
        told.setdefault((pair.finding, pair.sentence), []).append(name)
    for (finding, sentence), names in told.items():
        of = names[0] if len(names) == 1 else f"{len(names)} scenarios"
        style = _FINDING_STYLES.get(Finding(finding), "")
        console.print(Text.assemble((finding, style), f" {of}: {sentence}"), soft_wrap=True)
    for difference in found.hard_to_compare:
        console.print(Text.assemble(("hard to compare", "yellow"), printable(f": {difference}")), soft_wrap=True)
    notes = [f"the conditions differ: {difference}" for difference in found.conditions_differ]
    notes += [
        f"only in {side}: {scenario}" for side, only in (("A", found.only_a), ("B", found.only_b)) for scenario in only
    ]
    notes += [f"left out: {told}" for told in (*found.left_out_a, *found.left_out_b)]
    for note in notes:
        console.print(Text(printable(f"note: {note}")), soft_wrap=True)


def _side_by_side(console: Console, found: Comparison) -> None:
    """Print where and how both sides were measured, one below the other: the values can be long."""
    for name in dict.fromkeys([*found.environment_a, *found.environment_b]):
        a, b = (shown(environment.get(name, ())) for environment in (found.environment_a, found.environment_b))
        lines = [f"{name}: {a}"] if a == b else [f"{name}:", f"  A: {a}", f"  B: {b}"]
        console.print(Text(printable("\n".join(lines))), soft_wrap=True)
    console.print()


def _side(values: Range | None, not_recovered: int, published_s: tuple[float, float] | None) -> tuple[str, str]:
    lost = f"{not_recovered} never" if not_recovered else ""
    if values is None:
        return lost or (f"{published_s[0]:g} to {published_s[1]:g}" if published_s else "-"), "-"
    return ", ".join(filter(None, (str(values).removesuffix(" s"), lost))), str(values.n + not_recovered)


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
