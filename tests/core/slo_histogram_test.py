"""Histograms merge like sums, and their percentiles stay within the bucket error of the exact ones."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.slo import histogram
from semipd_core.telemetry import WindowSlot

LATENCIES = st.floats(min_value=histogram.FLOOR_MS, max_value=10_000_000.0)
HISTOGRAMS = st.dictionaries(st.integers(0, 400), st.integers(1, 1000), max_size=20)


def counted(values):
    counts: dict[int, int] = {}
    for value in values:
        histogram.add(counts, value)
    return counts


@given(st.lists(LATENCIES, min_size=1, max_size=60), st.integers(1, 100))
def test_a_percentile_is_within_the_stated_error_of_the_exact_one(values, percent):
    exact = sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]
    estimate = histogram.percentile(counted(values), percent)
    assert estimate == pytest.approx(exact, rel=histogram.RELATIVE_ERROR + 1e-9)


@given(LATENCIES, LATENCIES)
def test_a_larger_value_never_falls_into_a_smaller_bucket(a, b):
    low, high = sorted((a, b))
    assert histogram.bucket_of(low) <= histogram.bucket_of(high)


@given(HISTOGRAMS, HISTOGRAMS, HISTOGRAMS)
def test_merging_is_associative_and_commutative(a, b, c):
    merge = histogram.merge
    assert merge([merge([a, b]), c]) == merge([a, merge([b, c])]) == merge([c, b, a])


@given(st.lists(LATENCIES, max_size=30), st.lists(LATENCIES, max_size=30))
def test_merged_parts_are_the_histogram_of_the_whole(a, b):
    assert histogram.merge([counted(a), counted(b)]) == counted(a + b)


@pytest.mark.parametrize("value_ms", [-1.0, 0.0, 0.05, histogram.FLOOR_MS])
def test_values_under_the_floor_share_the_first_bucket(value_ms):
    assert histogram.bucket_of(value_ms) == 0


def test_an_empty_histogram_has_no_percentile():
    assert histogram.percentile({}, 90) is None


def test_a_slot_survives_json():
    slot = WindowSlot(start_s=10, ttft_ms=counted([1.0, 5.0, 900.0]))
    assert msgspec.json.decode(msgspec.json.encode(slot), type=WindowSlot) == slot
