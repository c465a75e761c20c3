"""How green contexts divide a GPU: which splits, which percents, what was granted, which graphs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from semipd_core.errors import InvalidSpec
from semipd_core.partition import Band, Partition
from semipd_core.policies.splits import DISJOINT
from semipd_core.sm_grant import MAX_STEP_SMS
from semipd_core.sm_splits import (
    MAX_SPLITS,
    GraphKey,
    Layout,
    SmSplit,
    decode_graph_key,
    legal_splits,
    nearest_split,
    read_green_grant,
)

ANY = Band(prefill_min_percent=1, prefill_max_percent=100, decode_min_percent=1, decode_max_percent=100)
H200 = {"sm_count": 132, "granularity": 8, "minimum": 8}
GPUS = [(132, 8, 8), (114, 8, 8), (144, 8, 8), (148, 8, 8), (108, 2, 4), (78, 8, 8), (80, 2, 2), (188, 8, 8)]

bands = st.tuples(st.integers(1, 100), st.integers(1, 100), st.integers(1, 100), st.integers(1, 100)).map(
    lambda ends: Band(
        prefill_min_percent=min(ends[:2]),
        prefill_max_percent=max(ends[:2]),
        decode_min_percent=min(ends[2:]),
        decode_max_percent=max(ends[2:]),
    )
)


def test_an_h200_has_a_split_near_each_share_that_policies_ask_for():
    assert [(each.prefill_sms, each.decode_sms) for each in legal_splits(**H200, bounds=ANY)] == [
        (16, 116), (24, 108), (40, 92), (56, 76), (64, 68), (80, 52), (96, 36), (104, 28),
    ]  # fmt: skip


def test_decode_on_all_sms_confines_prefill_alone():
    splits = legal_splits(**H200, bounds=ANY, layout=Layout.ASYMMETRIC)
    assert len(splits) == MAX_SPLITS
    assert {each.decode_sms for each in splits} == {132}
    assert (splits[0].prefill_sms, splits[-1].prefill_sms) == (8, 128)


def test_narrow_bounds_have_all_that_the_hardware_tells_apart():
    bounds = Band(
        prefill_min_percent=50, prefill_max_percent=70, decode_min_percent=30, decode_max_percent=60
    )
    assert [each.prefill_sms for each in legal_splits(**H200, bounds=bounds)] == [72, 80, 88]


@given(st.sampled_from(GPUS), bands, st.sampled_from(Layout))
def test_every_split_is_one_that_the_driver_can_make_within_the_bounds_or_what_a_share_inside_comes_to(
    gpu, bounds, layout
):
    sm_count, granularity, minimum = gpu
    try:
        splits = legal_splits(sm_count, granularity, minimum, bounds, layout)
    except InvalidSpec:
        return
    assert 1 <= len(splits) <= MAX_SPLITS
    assert list(splits) == sorted(set(splits), key=lambda each: each.prefill_sms)
    for each in splits:
        assert each.prefill_sms % granularity == 0
        assert min(each.prefill_sms, each.decode_sms) >= minimum
        assert bounds.holds(each.partition) or is_of_a_share_inside(each, bounds, layout)
        given_out = each.prefill_sms + each.decode_sms
        assert given_out == (sm_count if layout is Layout.DISJOINT else sm_count + each.prefill_sms)
    assert len({each.partition for each in splits}) == len(splits), "a percent pair names one split"


def is_of_a_share_inside(split: SmSplit, bounds: Band, layout: Layout) -> bool:
    wanted = (
        DISJOINT if layout is Layout.DISJOINT else [replace(each, decode_percent=100) for each in DISJOINT]
    )
    return any(
        bounds.holds(each)
        and abs(split.prefill_sms - each.prefill_percent * split.sm_count / 100) <= MAX_STEP_SMS
        for each in wanted
    )


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("wanted", DISJOINT, ids=str)
def test_bounds_that_hold_one_share_of_the_policies_hold_a_split(gpu, wanted):
    """What the agent accepts must not end the lane: its grid and the hardware's percents need not meet."""
    (split,) = legal_splits(*gpu, Band.only(wanted))
    assert read_green_grant(wanted.prefill_percent, split.prefill_sms, split.sm_count).reason is None
    assert read_green_grant(wanted.decode_percent, split.decode_sms, split.sm_count).reason is None


@pytest.mark.parametrize("gpu", GPUS)
@given(bounds=bands)
def test_bounds_that_the_agent_accepts_hold_a_split(gpu, bounds):
    assume(any(bounds.holds(each) for each in DISJOINT))
    assert legal_splits(*gpu, bounds)


@given(st.sampled_from(GPUS), bands)
def test_disjoint_percents_never_sum_to_more_than_the_device(gpu, bounds):
    try:
        splits = legal_splits(*gpu, bounds)
    except InvalidSpec:
        return
    for each in splits:
        assert 98 <= each.partition.prefill_percent + each.partition.decode_percent <= 100


@pytest.mark.parametrize("gpu", GPUS)
def test_what_policies_ask_for_is_granted_as_asked(gpu):
    splits = legal_splits(*gpu, ANY)
    for wanted in DISJOINT:
        found = nearest_split(splits, wanted)
        grants = [
            read_green_grant(wanted.prefill_percent, found.prefill_sms, found.sm_count),
            read_green_grant(wanted.decode_percent, found.decode_sms, found.sm_count),
        ]
        assert [(each.percent, each.reason) for each in grants] == [
            (wanted.prefill_percent, None),
            (wanted.decode_percent, None),
        ]


@pytest.mark.parametrize(
    ("requested", "sms", "granted"),
    [
        pytest.param(60, 80, 60, id="rounded up"),
        pytest.param(50, 64, 50, id="rounded down"),
        pytest.param(60, 132, 100, id="the whole GPU is not 60 %"),
        pytest.param(60, 40, 30, id="much less is told as it is"),
    ],
)
def test_a_grant_is_the_wish_only_where_rounding_explains_the_difference(requested, sms, granted):
    grant = read_green_grant(requested, sms, 132)
    assert grant.percent == granted
    assert (grant.reason is None) == (granted == requested)


@pytest.mark.parametrize(
    ("wanted", "prefill_sms"),
    [
        pytest.param((60, 40), 80, id="disjoint"),
        pytest.param((80, 100), 56, id="oversubscribed caps become their proportion"),
        pytest.param((100, 100), 64, id="two whole caps share evenly"),
        pytest.param((1, 99), 16, id="less than there is"),
    ],
)
def test_a_wish_goes_to_the_nearest_split(wanted, prefill_sms):
    partition = Partition(prefill_percent=wanted[0], decode_percent=wanted[1])
    assert nearest_split(legal_splits(**H200, bounds=ANY), partition).prefill_sms == prefill_sms


def test_where_decode_has_all_sms_the_wish_is_prefills_own():
    splits = legal_splits(**H200, bounds=ANY, layout=Layout.ASYMMETRIC)
    wanted = Partition(prefill_percent=80, decode_percent=100)
    assert nearest_split(splits, wanted).prefill_sms == 112


@pytest.mark.parametrize(
    ("numbers", "path"),
    [
        pytest.param((132, 0, 8), "granularity", id="no granularity"),
        pytest.param((132, 8, 133), "minimum", id="minimum above the device"),
        pytest.param((8, 8, 8), "spec.partition.bounds", id="a device of one step has no split"),
    ],
)
def test_impossible_numbers_are_refused_with_their_field(numbers, path):
    with pytest.raises(InvalidSpec) as refused:
        legal_splits(*numbers, ANY)
    assert refused.value.path == path


def test_bounds_without_a_split_say_which_there_are():
    bounds = Band.only(Partition(prefill_percent=97, decode_percent=3))
    with pytest.raises(InvalidSpec, match=r"prefill 97\.\.97, decode 3\.\.3.*\(60, 39\)"):
        legal_splits(**H200, bounds=bounds)


def test_one_graph_serves_all_splits_where_decode_keeps_all_sms():
    splits = legal_splits(**H200, bounds=ANY, layout=Layout.ASYMMETRIC)
    assert {decode_graph_key(each, 8) for each in [*splits, None]} == {GraphKey(split=None, bucket=8)}


def test_each_split_has_its_graph_where_decode_is_confined():
    splits = legal_splits(**H200, bounds=ANY)
    assert {decode_graph_key(each, 8) for each in splits} == {
        GraphKey(split=each, bucket=8) for each in splits
    }
