"""The rank test against counting everything out, and against values of another implementation."""

from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stuntime.ranktest import holm, mann_whitney, smallest_p

VALUES = st.lists(st.integers(0, 6), min_size=1, max_size=6)


def counted_out(ones, others):
    values = [*ones, *others]
    ranks = [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]
    mean = len(ones) * sum(ranks) / len(ranks)
    distance = abs(sum(ranks[: len(ones)]) - mean)
    far = sum(abs(sum(drawn) - mean) >= distance - 1e-9 for drawn in combinations(ranks, len(ones)))
    return far / comb(len(ranks), len(ones))


@given(VALUES, VALUES)
def test_exact_with_ties(ones, others):
    """The p is the share of all ways to draw that are at least as far from the mean."""
    assert mann_whitney(ones, others) == pytest.approx(counted_out(ones, others))


@given(VALUES, VALUES)
def test_the_sides_are_equal(ones, others):
    """Which side is called A makes no difference."""
    assert mann_whitney(ones, others) == pytest.approx(mann_whitney(others, ones))


@pytest.mark.parametrize(
    ("ones", "others", "p"),
    [  # scipy.stats.mannwhitneyu(ones, others, method="exact"); the last one method="asymptotic"
        ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], 0.007936507936507936),
        ([1, 3, 5, 7, 9], [2, 4, 6, 8, 10], 0.6904761904761905),
        ([0.1, 0.2, 0.3], [0.25, 0.35, 0.45, 0.55], 0.11428571428571428),
        ([x * 7 % 97 for x in range(80)], [x * 11 % 97 + 9 for x in range(80)], 0.0230320909727),
    ],
)
def test_values_of_another_implementation(ones, others, p):
    """SciPy comes to the same."""
    assert mann_whitney(ones, others) == pytest.approx(p, rel=1e-6)


def test_smallest_p_is_that_of_complete_separation():
    """Nothing can be further from chance than all of one side above all of the other."""
    for n, m in ((3, 3), (5, 5), (10, 4)):
        assert mann_whitney(range(n), range(100, 100 + m)) == pytest.approx(smallest_p(n, m))


def test_holm():
    """Holm's correction: the smallest p times all comparisons, the next times one less, never falling."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
