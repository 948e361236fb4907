"""Evidence of a result: is it there and intact, and where its probes lie on the reference clock. Reads files."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from stuntime.arrivals import parse_observer_log
from stuntime.errors import InvalidError
from stuntime.ping import parse_ping_log
from stuntime.result import EvidenceFile, Result
from stuntime.scenario import Scenario
from stuntime.timeline import Timeline, timeline_of

_PING_LOG, _OBSERVER_LOG = "ping.log", "observer.log"


@dataclass(frozen=True)
class Evidence:
    """What is known of a result's evidence.

    `files` holds (file, what is wrong with it: empty, `missing` or `changed`). `answered` are the times at which the
    probes' round trips were complete, `lost` those at which the unanswered ones were sent, in epoch seconds of the
    reference clock; both are empty when the logs are not here.
    """

    files: tuple[tuple[EvidenceFile, str], ...]
    answered: tuple[float, ...] = ()
    lost: tuple[float, ...] = ()

    @property
    def intact(self) -> bool:
        """Whether there is evidence and all of it is as it was."""
        return bool(self.files) and not any(wrong for _, wrong in self.files)


def read_evidence(result: Result, root: Path) -> Evidence:
    """Return what is known of the evidence below `root`; what is missing, changed or unreadable is said, not raised."""
    files = tuple((file, _wrong_with(root / file.file, file)) for file in result.evidence)
    logs = {Path(file.file).name: root / file.file for file, wrong in files if not wrong}
    if _PING_LOG not in logs:
        return Evidence(files)
    try:
        timeline = _timeline(result, logs)
    except (OSError, InvalidError):
        return Evidence(files)
    return Evidence(files, tuple(answer.time for answer in timeline.answers), _sent(timeline))


def _wrong_with(path: Path, file: EvidenceFile) -> str:
    try:
        with path.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return "missing"
    return "" if digest == file.sha256 else "changed"


def _timeline(result: Result, logs: dict[str, Path]) -> Timeline:
    with logs[_PING_LOG].open(encoding="utf-8", errors="replace", newline="\n") as lines:
        log = parse_ping_log(lines)
    arrivals = None
    if _OBSERVER_LOG in logs:
        with logs[_OBSERVER_LOG].open(encoding="utf-8", errors="replace") as lines:
            arrivals = parse_observer_log(lines)
    initiator = Scenario.parse(result.scenario).initiator
    return timeline_of(
        log,
        initiator=initiator,
        arrivals=arrivals,
        warm_up_until=result.migration.requested if result.migration else None,
        interval_s=result.interval_s,
        apart_s=_ahead_s(result, "static") - _ahead_s(result, initiator),
    )


def _ahead_s(result: Result, role: str) -> float:
    """Return by how much a guest's clock was ahead of the testbed's."""
    sample = result.clocks[role].before if role in result.clocks else None
    return sample.ahead_s if sample else 0.0


def _sent(timeline: Timeline) -> tuple[float, ...]:
    """Return when each lost probe was sent, told by the answered one before it (the first one after it, if none)."""
    ordered = sorted(timeline.answers)
    sent, place = [], 0
    for seq in timeline.lost:
        while place + 1 < len(ordered) and ordered[place + 1].seq < seq:
            place += 1
        sent.append(ordered[place].sent + (seq - ordered[place].seq) * timeline.spacing_s)
    return tuple(sent)
