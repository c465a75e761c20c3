"""The KV block pool and its prefix cache: who may use a block, and when again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.engine.blocks import BlockPool, Fence
from semipd_core.engine.prefix_cache import PrefixCache, extend_hashes

PREFILL, DECODE = 1, 2


@pytest.fixture
def pool():
    pool = BlockPool(6, PrefixCache())
    pool.open_lane(PREFILL)
    pool.open_lane(DECODE)
    return pool


def test_the_null_block_is_never_handed_out(pool):
    assert sorted(pool.take(5)) == [1, 2, 3, 4, 5]
    assert pool.num_available == 0


def test_a_fenced_block_waits_for_its_step(pool):
    pool.release(pool.take(5), Fence(lane=DECODE, epoch=3))
    assert (pool.num_available, pool.num_fenced) == (0, 5)
    pool.complete(DECODE, 2)
    pool.complete(PREFILL, 3)
    assert pool.num_available == 0
    pool.complete(DECODE, 3)
    assert (pool.num_available, pool.num_fenced) == (5, 0)
    pool.check_integrity([0] * 6)


def test_a_fence_of_a_completed_step_is_none(pool):
    pool.complete(DECODE, 3)
    pool.release(pool.take(5), Fence(lane=DECODE, epoch=3))
    assert pool.num_available == 5


def test_a_lane_that_has_gone_lifts_its_fences(pool):
    pool.release(pool.take(2), Fence(lane=DECODE, epoch=1))
    pool.close_lane(DECODE)
    assert pool.num_available == 5


def test_a_shared_block_waits_for_both_lanes(pool):
    (block,) = pool.take(1)
    pool.publish(b"prefix", block)
    pool.share([block])
    pool.release([block], Fence(lane=PREFILL, epoch=1))
    pool.release([block], Fence(lane=DECODE, epoch=1))
    pool.complete(PREFILL, 1)
    assert pool.num_cached == 0
    pool.complete(DECODE, 1)
    assert pool.num_cached == 1


def test_a_fenced_cached_block_may_be_read_again_at_once(pool):
    (block,) = pool.take(1)
    pool.publish(b"prefix", block)
    pool.release([block], Fence(lane=DECODE, epoch=1))
    assert pool.match([b"prefix"], 1) == [block]
    pool.share([block])
    pool.complete(DECODE, 1)
    assert pool.num_available == 4
    pool.check_integrity([1 if other == block else 0 for other in range(6)])


def test_idle_prefixes_are_evicted_last_and_from_their_end(pool):
    chain = pool.take(3)
    for digest, block in zip((b"0", b"1", b"2"), chain, strict=True):
        pool.publish(digest, block)
    pool.release(chain, None)
    assert pool.take(3) == [4, 5, chain[2]]
    assert pool.match([b"0", b"1", b"2"], 3) == chain[:2]


def test_the_first_block_published_under_a_hash_stays(pool):
    first, second = pool.take(2)
    pool.publish(b"prefix", first)
    pool.publish(b"prefix", second)
    pool.release([first, second], None)
    assert pool.num_cached == 1
    assert pool.match([b"prefix"], 1) == [first]


tokens = st.lists(st.integers(0, 3), max_size=12)


@given(tokens, tokens, st.integers(1, 4))
def test_hashes_are_equal_exactly_where_prefixes_are(left, right, block_tokens):
    hashes = []
    for sequence in (left, right):
        hashes.append([])
        extend_hashes(hashes[-1], sequence, block_tokens)
    assert [len(chain) for chain in hashes] == [len(left) // block_tokens, len(right) // block_tokens]
    for index, (a, b) in enumerate(zip(*hashes, strict=False)):
        end = (index + 1) * block_tokens
        assert (a == b) == (left[:end] == right[:end])


@given(tokens, st.integers(0, 12), st.integers(1, 4))
def test_hashes_grow_without_being_computed_again(sequence, cut, block_tokens):
    grown, at_once = [], []
    extend_hashes(grown, sequence[:cut], block_tokens)
    extend_hashes(grown, sequence, block_tokens)
    extend_hashes(at_once, sequence, block_tokens)
    assert grown == at_once
