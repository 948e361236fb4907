"""Is a difference beyond chance? An exact rank test for few values, and the correction for many comparisons. Pure.

Written out rather than taken from a library: SciPy is larger than everything else in the image together, and its exact
mode knows no ties, of which rounded times of probes are full.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from math import comb, erfc, sqrt

ALPHA = 0.05
#: Up to this many values together the distribution is counted out; above it the normal approximation is used.
EXACT_UP_TO = 120


def mann_whitney(ones: Sequence[float], others: Sequence[float]) -> float:
    """Return the two-sided p of the Mann-Whitney U test: how likely so large a difference of ranks is by chance.

    Exact, with ties: the distribution of the sum of midranks over all ways to draw `len(ones)` of all values, counted
    out (Hollander, Wolfe & Chicken, Nonparametric Statistical Methods, 3rd ed., 4.1). Two-sided is the chance of a sum
    at least as far from the expected one. For many values the normal approximation with the corrections for ties and
    continuity (ibid.).
    """
    ranks = _doubled_midranks([*ones, *others])
    n, total = len(ones), len(ranks)
    distance = abs(2 * sum(ranks[:n]) - n * sum(ranks) * 2 // total)  # both doubled again: the mean may be a half
    if total > EXACT_UP_TO:
        return _normal(ranks, n, distance / 4)
    return _beyond(ranks, n, distance)


def smallest_p(ones: int, others: int) -> float:
    """Return the smallest p that so many values can give, where no two are alike: 2 / C(n+m, n)."""
    return 2 / comb(ones + others, ones)


def holm(ps: Sequence[float]) -> list[float]:
    """Return the p of each comparison corrected for their number (Holm 1979), in the same order."""
    corrected = [0.0] * len(ps)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, ps[index] * (len(ps) - place)))
        corrected[index] = highest
    return corrected


def _doubled_midranks(values: Sequence[float]) -> list[int]:
    """Return the rank of each value times two, so that the mean rank of equal ones is a whole number."""
    ordered = sorted(values)
    return [bisect_left(ordered, value) + bisect_right(ordered, value) + 1 for value in values]


def _beyond(ranks: Sequence[int], n: int, distance: int) -> float:
    """Return the share of all draws of n ranks whose sum is at least so far from the mean.

    `draws[k]` is a polynomial in one large integer: the number of draws of k ranks with the sum s stands at bit
    s * width. Adding a rank to all sums is a shift.
    """
    total = len(ranks)
    width = total + 1  # no count exceeds 2 ** total
    draws = [0] * (n + 1)
    draws[0] = 1
    for seen, rank in enumerate(ranks, 1):
        for k in range(min(seen, n), 0, -1):
            draws[k] += draws[k - 1] << (rank * width)
    mean = n * sum(ranks) * 2 // total
    mask, counts, far, place = (1 << width) - 1, draws[n], 0, 0
    while counts:
        if abs(2 * place - mean) >= distance:
            far += counts & mask
        counts >>= width
        place += 1
    return far / comb(total, n)


def _normal(ranks: Sequence[int], n: int, distance: float) -> float:
    total = len(ranks)
    m = total - n
    ties = sum(count**3 - count for count in Counter(ranks).values())
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    return 1.0 if variance <= 0 else erfc(max(0.0, distance - 0.5) / sqrt(variance) / sqrt(2))
