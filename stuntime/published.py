"""Ranges that are published with a release: the document, and how it is made of results. Pure but for reading."""

from collections import Counter
from collections.abc import Sequence
from math import ceil, floor
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct

from stuntime import __version__
from stuntime.conditions import Conditions, pooled
from stuntime.documents import Document, Loaded, refuse_contradictions, usable
from stuntime.errors import UsageError
from stuntime.ranges import Range
from stuntime.scenario import Scenario, measuring_order

NO_SLA = (
    "These are measured values, valid for the conditions named above and nothing else. They are no service level "
    "agreement: other hardware, versions, loads and networks give other values."
)
PRECISION = (
    "The published range is the measured one, rounded outwards to the spacing of the probes: a measurement is "
    "true to one probe."
)


class PublishedRange(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The published range of a scenario, `from_s` to `to_s`, and what it was made of.

    `initiator_view` is the same from the initiator's own log alone. `not_recovered` counts measurements that never
    recovered: they are in no range and must not be hidden by one.
    """

    scenario: str
    from_s: float
    to_s: float
    spacing_s: float
    stuntime: Range
    initiator_view: Range | None
    not_recovered: int


class Published(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The document that `publish --format json` writes. `measured` holds the days of the first and the last result."""

    kind: str = "stuntime-published"
    schema_version: int = 1
    tool_version: str
    release: str | None
    measured: tuple[str, str]
    conditions: Conditions
    ranges: tuple[PublishedRange, ...]
    never_recovered: tuple[str, ...]
    left_out: int
    sentence: str = NO_SLA


def published_of(loaded: Loaded, release: str | None) -> Published:
    """Return the ranges of all usable results; raise InvalidError when they were measured under unlike conditions."""
    refuse_contradictions(loaded)
    good = [document for document in loaded.documents if usable(document.result) is None]
    lost = [
        d for d in loaded.documents if d.result.valid and d.result.measurement and not d.result.measurement.recovered
    ]
    conditions = pooled((document.file, document.result) for document in good)
    by_scenario: dict[str, list[Document]] = {}
    for document in good:
        by_scenario.setdefault(document.result.scenario, []).append(document)
    not_recovered = Counter(document.result.scenario for document in lost)
    order = measuring_order(Scenario.parse(scenario) for scenario in sorted(by_scenario))
    days = sorted(document.started.date().isoformat() for document in good)
    return Published(
        tool_version=__version__,
        release=release,
        measured=(days[0], days[-1]),
        conditions=conditions,
        ranges=tuple(_range(s.id, by_scenario[s.id], not_recovered[s.id]) for s in order),
        never_recovered=tuple(sorted(set(not_recovered) - set(by_scenario))),
        left_out=len(loaded.documents) - len(good) - len(lost) + len(loaded.unreadable),
    )


def _range(scenario: str, documents: Sequence[Document], not_recovered: int) -> PublishedRange:
    measured = [document.result.measurement for document in documents if document.result.measurement]
    values = Range.of(m.stuntime_s for m in measured if m.stuntime_s is not None)
    views = Range.of(m.initiator_view_s for m in measured if m.initiator_view_s is not None)
    if values is None:
        raise AssertionError("a usable result has a number")
    spacing_s = median(m.spacing_s for m in measured)
    # A 0 is an outage too short for two probes to tell: what could hide in it belongs to what customers may see.
    hidden = [m.bounds_s.upper for m in measured if m.stuntime_s == 0 and m.bounds_s and m.bounds_s.upper is not None]
    return PublishedRange(
        scenario=scenario,
        from_s=outwards(values.smallest_s, spacing_s, down=True),
        to_s=outwards(max([values.largest_s, *hidden]), spacing_s, down=False),
        spacing_s=spacing_s,
        stuntime=values,
        initiator_view=views,
        not_recovered=not_recovered,
    )


def outwards(value_s: float, spacing_s: float, *, down: bool) -> float:
    """Return a value rounded to a multiple of the spacing, which is itself first rounded to a tenth of its size."""
    step_s = float(f"{spacing_s:.1g}")
    steps = round(value_s / step_s, 6)
    return round((floor(steps) if down else ceil(steps)) * step_s, 6)


def read_published(path: Path) -> Published:
    """Return the published ranges in a file; raise UsageError when it holds none."""
    try:
        published = msgspec.json.decode(path.read_bytes(), type=Published)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            f"{path} holds no published ranges: {error}", "name what `stuntime publish --format json` wrote"
        ) from error
    if published.kind != "stuntime-published" or published.schema_version != 1:
        raise UsageError(f"{path} holds no published ranges of a known version", "write it anew with this stuntime")
    for found in published.ranges:
        Scenario.parse(found.scenario)
    return published


def markdown(published: Published) -> str:
    """Return the ranges as a Markdown article's table, with the conditions and the sentence that it is no SLA."""
    conditions = published.conditions
    versions = ", ".join(f"{name} {version}" for name, version in sorted(conditions.product_versions.items()))
    days = " to ".join(dict.fromkeys(published.measured))
    lines = [f"## Stuntime of live migration{f', {published.release}' if published.release else ''}", ""]
    lines += [
        "How long two virtual machines could not talk while one of them was live-migrated, as the static one saw it.",
        "",
    ]
    for network in dict.fromkeys(Scenario.parse(found.scenario).network for found in published.ranges):
        lines += [
            f"### {network}",
            "",
            "| Migrated VM moves | Initiator | IP | Stuntime | Median | Measurements | Initiator's view |",
            "|---|---|---|---:|---:|---:|---:|",
        ]
        lines += [_row(found) for found in published.ranges if Scenario.parse(found.scenario).network == network]
        lines.append("")
    lines += [f"- **{scenario}**: never recovered, no range can be told." for scenario in published.never_recovered]
    lines += [
        f"Conditions: {conditions.testbed} {conditions.cluster_id}, measured {days}; {versions}; guest image "
        f"{conditions.guest_image}; a probe every {conditions.interval_s:g} s"
        + (f"; accelerator {conditions.accelerator}" if conditions.accelerator else "")
        + ".",
        "",
    ]
    lines += [
        f"- {name}: NIC {network.nic or 'unknown'}, "
        + ", ".join(f"{key} {value}" for key, value in sorted(network.configuration.items()))
        for name, network in conditions.networks.items()
    ]
    lines += [
        "",
        PRECISION,
        "The initiator's view is what the VM that pings sees in its own log; other tools and older",
    ]
    lines[-1] += " figures mean that one, and it can be smaller: a paused VM loses no probe of its own."
    if published.left_out:
        lines += ["", f"{published.left_out} results were invalid, no migration, or not readable, and are not in it."]
    return "\n".join([*lines, "", published.sentence, ""])


def _row(found: PublishedRange) -> str:
    scenario = Scenario.parse(found.scenario)
    view = found.initiator_view
    cells = [
        scenario.path,
        scenario.initiator,
        scenario.ip_family,
        f"{found.from_s:g} to {found.to_s:g} s"
        + (f", and {found.not_recovered} not recovered" if found.not_recovered else ""),
        f"{found.stuntime.median_s:.3f} s",
        str(found.stuntime.n),
        "unknown" if view is None else str(view),
    ]
    return f"| {' | '.join(cells)} |"
