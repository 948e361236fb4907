"""How the prober counts replies while it waits."""

import pytest

from stuntime.ping import Reply
from stuntime.prober import in_a_row


def replies(*seqs: int, late: int | None = None) -> list[Reply]:
    """Return replies a tenth of a second apart, half a second more from the sequence number `late` on."""
    return [Reply(seq % 65536, seq / 10 + (0.5 if late is not None and seq >= late else 0.0), 0.001) for seq in seqs]


def burst(*seqs: int) -> list[Reply]:
    """Return replies that were queued until the next probe would have been sent."""
    at = (seqs[-1] + 1) / 10
    return [Reply(seq, at, at - seq / 10) for seq in seqs]


@pytest.mark.parametrize(
    ("found", "after", "count"),
    [
        ([], None, 0),
        (replies(5), None, 1),
        (replies(*range(1, 11)), None, 10),
        (replies(1, 2, 3, 4, 6, 7, 8), None, 3),
        (replies(*range(1, 11)), 4, 6),
        (replies(*range(1, 11)), 20, 0),
        (replies(*range(1, 11), late=8), None, 3),
        (replies(*range(65530, 65542)), 65533, 8),
        (replies(1, 2, 2, 3, 3, 4), None, 4),
        (burst(*range(1, 12)), None, 1),
        (burst(*range(1, 12)) + replies(12, 13, 14), None, 3),
    ],
)
def test_only_the_last_unbroken_row_counts(found: list[Reply], after: int | None, count: int) -> None:
    """A lost probe, a silent gap and a probe that was sent too early begin the count anew."""
    assert in_a_row(found, after) == count
