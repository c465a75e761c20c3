"""Prefixes of prompts, who has seen them, loads that agents tell, and when a request may be asked again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.routing.load import STALE_AFTER_S, pod_load, read_sample
from semipd_core.routing.prefix import BLOCK_BYTES, MAX_BLOCKS, PrefixIndex, chain, read_prefix
from semipd_core.routing.retries import MAX_ATTEMPTS, Refusal, RetryBudget, refusal_of
from semipd_core.telemetry import CoordinatorReport, EngineReport, FrontEndReport, PodLoad, SloTargets

texts = st.binary(max_size=5 * BLOCK_BYTES)


@given(texts, texts, texts)
def test_two_texts_share_as_many_hashes_as_whole_blocks(common, left, right):
    shared = len(common) // BLOCK_BYTES
    assert chain(common + left)[:shared] == chain(common + right)[:shared]


@given(texts)
def test_a_change_changes_every_hash_from_its_block_on(text):
    whole = text + bytes(-len(text) % BLOCK_BYTES)
    if not whole:
        return
    changed = bytes([whole[0] ^ 1]) + whole[1:]
    assert not set(chain(whole)) & set(chain(changed))


def test_a_long_prompt_is_bounded():
    assert len(chain(bytes(2 * MAX_BLOCKS * BLOCK_BYTES))) == MAX_BLOCKS


SYSTEM = {"role": "system", "content": "s" * 3 * BLOCK_BYTES}


def turn(*more: str, **fields: object) -> list[int]:
    messages = [SYSTEM, *({"role": "user", "content": text} for text in more)]
    return read_prefix(json.dumps({"model": "m", "messages": messages, **fields}).encode())


def test_the_next_turn_of_a_conversation_has_the_prefix_of_the_one_before():
    first, second = turn("q" * 600), turn("q" * 600, "and then?")
    shared = sum(a == b for a, b in zip(first, second, strict=False))
    assert shared == len(first) >= 5


def test_conversations_share_their_system_prompt_and_no_more():
    left, right = turn("l" * 600), turn("r" * 600)
    assert left[:3] == right[:3]
    assert not set(left[3:]) & set(right[3:])


def test_tools_come_before_messages_and_settings_do_not_matter():
    tool = [{"type": "function", "function": {"name": "f", "description": "d" * BLOCK_BYTES}}]
    assert not set(turn("q")) & set(turn("q", tools=tool))
    assert turn("q", temperature=0.5, stream=True) == turn("q")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"[1]", id="no object"),
        pytest.param(b'{"prompt": "short"}', id="no whole block"),
    ],
)
def test_a_body_without_a_prefix(body):
    assert read_prefix(body) == []


def test_token_ids_are_a_prompt_too():
    assert read_prefix(json.dumps({"prompt": list(range(300))}).encode())


def test_the_index_knows_how_much_of_a_prompt_each_has_seen():
    index = PrefixIndex()
    index.record([1, 2, 3], "a")
    index.record([1, 2], "b")
    assert index.matches([1, 2, 3, 4]) == {"a": 3, "b": 2}
    assert index.matches([9, 2, 3]) == {}
    index.forget("a")
    assert index.matches([1, 2, 3]) == {"b": 2}


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 30), max_size=6), st.sampled_from("abc"))), st.integers(1, 9)
)
def test_the_index_keeps_to_its_capacity_and_forgets_nobody_halfway(records, capacity):
    index = PrefixIndex(capacity)
    for hashes, name in records:
        index.record(hashes, name)
        assert len(index) <= capacity
    for name in "abc":
        index.forget(name)
    assert len(index) == 0


def report(open_requests: int | None, at_s: float = 100.0, used: int | None = None) -> EngineReport:
    slo = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)
    front_end = None
    if open_requests is not None:
        front_end = FrontEndReport(
            at_s=at_s, ready=True, slo=slo, open_requests=open_requests, queued_requests=1, slots=[]
        )
    coordinator = None
    if used is not None:
        fields = dict.fromkeys(CoordinatorReport.__struct_fields__[:-2], 0)
        coordinator = CoordinatorReport(**fields | {"kv_blocks_total": 100, "kv_blocks_used": used})
    return EngineReport(
        engine_id="e",
        at_s=at_s,
        phase="Steady",
        requested=(80, 100),
        granted=(80, 100),
        front_end=front_end,
        coordinator=coordinator,
    )


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        pytest.param([], (None, None, None, None), id="no engine yet"),
        pytest.param([report(None)], (None, None, None, None), id="no engine speaks"),
        pytest.param([report(0, used=0)], (0, 1, 0, 1000), id="idle is a number"),
        pytest.param([report(3, used=50), report(4, 99.0, used=100)], (7, 2, 750, 2000), id="two engines"),
        pytest.param([report(3), report(None)], (3, 1, None, 1000), id="one of two speaks"),
    ],
)
def test_the_load_of_a_pod(reports: list[EngineReport], expected: tuple[int | None, ...]) -> None:
    load = pod_load(reports, ready=True, now_s=101.0)
    assert (load.open_requests, load.queued_requests, load.kv_used_permille, load.age_ms) == expected


def test_what_is_ours_of_a_load_is_not_counted_twice_and_an_old_load_is_none():
    answer = PodLoad(ready=True, open_requests=5, queued_requests=0, kv_used_permille=0, age_ms=1000)
    sample = read_sample(answer, own_open=2, now_s=50.0)
    assert sample.others_open(50.0) == 3
    assert sample.others_open(49.0 + STALE_AFTER_S) == 3
    assert sample.others_open(49.1 + STALE_AFTER_S) is None
    assert read_sample(answer, own_open=9, now_s=50.0).others_open(50.0) == 0


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (200, None),
        (400, None),
        (404, None),
        (429, Refusal.FULL),
        (500, Refusal.SERVER_ERROR),
        (502, Refusal.GATEWAY),
        (503, Refusal.DRAINING),
        (504, Refusal.GATEWAY),
    ],
)
def test_which_answers_are_refusals(status: int, refusal: Refusal | None) -> None:
    assert refusal_of(status) is refusal


@pytest.mark.parametrize(
    ("refusal", "attempts"),
    [
        pytest.param(Refusal.CONNECT, MAX_ATTEMPTS, id="nobody saw it"),
        pytest.param(Refusal.DRAINING, MAX_ATTEMPTS, id="refused before any work"),
        pytest.param(Refusal.CUT, 3, id="work was lost"),
        pytest.param(Refusal.SERVER_ERROR, 2, id="the request may be what breaks engines"),
    ],
)
def test_how_often_a_request_is_asked(refusal: Refusal, attempts: int) -> None:
    budget = RetryBudget()
    asked = 1
    while budget.note(refusal):
        asked += 1
    assert asked == attempts


@given(st.lists(st.sampled_from(Refusal), min_size=MAX_ATTEMPTS))
def test_no_mixture_of_refusals_is_tried_for_ever(refusals):
    budget = RetryBudget()
    assert not all(budget.note(each) for each in refusals)
