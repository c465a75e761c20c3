"""Fisher's test against counting, and as a test should behave."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.cluster.verdicts import Verdicts, chance_of_as_bad

counts = st.builds(Verdicts, attained=st.integers(0, 60), missed=st.integers(0, 60))


def counted(some: Verdicts, others: Verdicts) -> float:
    """By the definition: of all ways to deal the misses out, those that give `some` as many or more."""
    missed = some.missed + others.missed
    ways = [math.comb(some.judged, k) * math.comb(others.judged, missed - k) for k in range(missed + 1)]
    return sum(ways[some.missed :]) / sum(ways)


@given(counts, counts)
def test_it_is_the_share_of_deals_with_as_many_misses(some: Verdicts, others: Verdicts) -> None:
    if some.judged and others.judged:
        assert chance_of_as_bad(some, others) == pytest.approx(counted(some, others), abs=1e-9)
    else:
        assert chance_of_as_bad(some, others) == 1.0


@given(counts, counts)
def test_one_more_miss_never_looks_better(some: Verdicts, others: Verdicts) -> None:
    worse = Verdicts(attained=some.attained, missed=some.missed + 1)
    if some.judged:
        assert chance_of_as_bad(worse, others) <= chance_of_as_bad(some, others) + 1e-9


def test_a_fleet_of_many_requests_is_no_overflow() -> None:
    bad, good = Verdicts(attained=0, missed=50), Verdicts(attained=200_000, missed=2_000)
    assert chance_of_as_bad(bad, good) < 1e-60
    assert chance_of_as_bad(good, bad) == pytest.approx(1.0)
