"""Several values of one scenario, summarised. Pure."""

from collections.abc import Iterable
from statistics import median

from msgspec import Struct


class Range(Struct, frozen=True, forbid_unknown_fields=True):
    """The values of a scenario in seconds, in rising order, and what is said of them."""

    n: int
    smallest_s: float
    median_s: float
    largest_s: float
    values_s: tuple[float, ...]

    @classmethod
    def of(cls, values_s: Iterable[float]) -> "Range | None":
        """Return the range of the values; None when there is none."""
        ordered = tuple(sorted(values_s))
        if not ordered:
            return None
        return cls(len(ordered), ordered[0], median(ordered), ordered[-1], ordered)

    def __str__(self) -> str:
        """Return the range for a person."""
        return in_words(self.smallest_s, self.largest_s)


def in_words(smallest_s: float, largest_s: float) -> str:
    """Return a range for a person: one number when both ends look the same."""
    ends = dict.fromkeys(f"{value:.3f}" for value in (smallest_s, largest_s))
    return f"{' to '.join(ends)} s"
