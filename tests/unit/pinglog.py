"""A ping that is told its fate: renders the log that iputils would have written."""

from dataclasses import dataclass

PEER = "10.0.0.2"
START = 1_700_000_000.0


@dataclass(frozen=True)
class Probe:
    """A probe sent at `sent` (seconds after the start), answered after `rtt_s`, or never (None)."""

    sent: float
    rtt_s: float | None = 0.001


def probes(count: int, spacing_s: float = 0.1, *, lost: tuple[int, ...] = ()) -> list[Probe]:
    """Return evenly sent probes, of which those with the sequence numbers `lost` are never answered."""
    return [Probe(i * spacing_s, None if i + 1 in lost else 0.001) for i in range(count)]


def log_lines(sent: list[Probe], *, header: bool = True, step: tuple[float, float] = (0.0, 0.0)) -> list[str]:
    """Return the lines of ping's log; `step` = (when, by how much) moves the clock that stamps them."""
    events = []
    for index, probe in enumerate(sent):
        seq = (index + 1) % 65536
        answered = None if probe.rtt_s is None else probe.sent + probe.rtt_s
        due = sent[index + 1].sent if index + 1 < len(sent) else None
        if due is not None and (answered is None or answered > due):
            events.append((due, f"no answer yet for icmp_seq={seq}"))
        if answered is not None:
            rtt_ms = probe.rtt_s * 1000
            events.append((answered, f"64 bytes from {PEER}: icmp_seq={seq} ttl=64 time={rtt_ms:.3f} ms"))
    events.sort(key=lambda event: event[0])
    when, by = step
    lines = [f"[{START + at + (by if by and at >= when else 0.0):.6f}] {text}\n" for at, text in events]
    return [f"PING {PEER} ({PEER}) 56(84) bytes of data.\n", *lines] if header else lines
