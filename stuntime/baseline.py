"""The baseline of a lab: what its scenarios measured when all was well, kept as a file that people review."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from stuntime import __version__
from stuntime.conditions import Conditions, pooled
from stuntime.documents import Document, Loaded, refuse_contradictions, refused, usable
from stuntime.errors import InvalidError, UsageError
from stuntime.ranges import Range
from stuntime.scenario import Scenario, measuring_order
from stuntime.threshold import Thresholds, threshold_of

AT_LEAST = 10


class LeftOut(Struct, frozen=True, forbid_unknown_fields=True):
    """A document that is not in the baseline, and why: whoever reviews it has to know."""

    file: str
    why: str


class Baseline(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The document that `baseline create` writes.

    `at_least` is how many values were asked for (10 unless a switch said fewer); `inputs_sha256` is the digest of the
    documents it was made of, whatever they were called: of their sorted digests. `measured` holds the days of the
    first and the last of them.
    """

    kind: str = "stuntime-baseline"
    schema_version: int = 1
    tool_version: str
    author: str
    created: str
    measured: tuple[str, str]
    at_least: int
    conditions: Conditions
    runs: tuple[str, ...]
    inputs_sha256: str
    scenarios: dict[str, Range]
    left_out: tuple[LeftOut, ...]


def baseline_of(loaded: Loaded, *, author: str, created: str, at_least: int = AT_LEAST) -> Baseline:
    """Return the baseline of all usable results; `created` is a day.

    Raise InvalidError when results contradict each other, were measured under different conditions, or are too few.
    """
    if not author.strip():
        raise UsageError("the author has no name", "name a person who answers for the baseline")
    refuse_contradictions(loaded)
    good = [document for document in loaded.documents if usable(document.result) is None]
    conditions = pooled((document.file, document.result) for document in good)
    values: defaultdict[str, list[float]] = defaultdict(list)
    for document in good:
        values[document.result.scenario].extend(_value_s(document))
    few = {scenario: len(found) for scenario, found in sorted(values.items()) if len(found) < at_least}
    if few:
        raise InvalidError(
            f"too few values for a baseline of {at_least}: "
            + ", ".join(f"{scenario} has {count}" for scenario, count in few.items()),
            "measure more often (suite --repeat 10), or say --at-least N, which the baseline records",
            reason="too-few-values",
        )
    order = measuring_order(Scenario.parse(scenario) for scenario in sorted(values))
    ranges = {scenario.id: found for scenario in order if (found := Range.of(values[scenario.id])) is not None}
    days = sorted(document.started.date().isoformat() for document in good)
    return Baseline(
        tool_version=__version__,
        author=author.strip(),
        created=created,
        measured=(days[0], days[-1]),
        at_least=at_least,
        conditions=conditions,
        runs=tuple(sorted({document.result.run for document in good})),
        inputs_sha256=_digest(document.digest for document in good),
        scenarios=ranges,
        left_out=tuple(LeftOut(Path(file).name, why) for file, why in refused(loaded)),
    )


def _value_s(document: Document) -> Iterable[float]:
    measured = document.result.measurement
    return () if measured is None or measured.stuntime_s is None else (measured.stuntime_s,)


def _digest(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def read_baseline(path: Path) -> Baseline:
    """Return the baseline in a file; raise UsageError when it holds none, or one whose numbers contradict it."""
    try:
        baseline = msgspec.json.decode(path.read_bytes(), type=Baseline)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{path} holds no baseline: {error}", "name what `stuntime baseline create` wrote") from error
    if baseline.kind != "stuntime-baseline" or baseline.schema_version != 1:
        raise UsageError(f"{path} holds no baseline of a known version", "write it anew with this stuntime")
    for scenario, found in baseline.scenarios.items():
        Scenario.parse(scenario)
        if any(value < 0 for value in found.values_s) or not _agrees(found):
            raise UsageError(
                f"{path}: what it says of {scenario} does not follow from its values",
                "a baseline is not edited by hand: create it anew",
            )
    return baseline


def _agrees(found: Range) -> bool:
    again = Range.of(found.values_s)
    return (
        again is not None
        and again.n == found.n
        and (again.smallest_s, again.largest_s) == (found.smallest_s, found.largest_s)
    )


def thresholds_yaml(baseline: Baseline, thresholds: Thresholds) -> str:
    """Return the thresholds that come from a baseline, as a thresholds file."""
    lines = [
        f"# Thresholds from the baseline of {baseline.conditions.cluster_id}, {baseline.created}, {baseline.author}",
        "scenarios:",
    ]
    for scenario, found in baseline.scenarios.items():
        threshold = threshold_of(Scenario.parse(scenario), thresholds, found.largest_s)
        lines += [f"  {scenario}:", f"    threshold: {threshold.seconds:g}  # {found.n} values, {found}"]
    return "\n".join([*lines, ""])
