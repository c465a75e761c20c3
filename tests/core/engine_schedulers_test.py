"""Who is planned next: prompts, decode rows, and both in one step."""

from __future__ import annotations

import pytest
from engine_simulation import build_config
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.engine.decode_scheduler import DecodeReason, DecodeRoom, schedule_decode
from semipd_core.engine.mixed_scheduler import schedule_mixed
from semipd_core.engine.prefill_scheduler import (
    Need,
    PrefillReason,
    PrefillRoom,
    in_order,
    schedule_prefill,
)
from semipd_core.engine.request import Request, RequestPhase
from semipd_core.messages import Sampling

SECOND = 1_000_000_000
NOW = 100 * SECOND


def prompt(name, num_tokens, age_s=0.0, planned=0, phase=RequestPhase.WAITING):
    return Request(
        request_id=name,
        tokens=[1] * num_tokens,
        num_prompt=num_tokens,
        max_tokens=10,
        arrived_ns=NOW - int(age_s * SECOND),
        sampling=Sampling(),
        stop_token_ids=frozenset(),
        planned=planned,
        phase=phase,
    )


def decoding(name, num_tokens=4, num_blocks=2, age_s=0.0, max_tokens=10):
    request = prompt(name, num_tokens, age_s, planned=num_tokens - 1, phase=RequestPhase.DECODING)
    request.num_prompt = num_tokens - 1
    request.max_tokens = max_tokens
    request.blocks = list(range(1, num_blocks + 1))
    return request


def block_need(request):
    return Need(blocks=-(-len(request.tokens) // 4), cached_tokens=0)


def prefill_room(**overrides):
    return PrefillRoom(**{"budget_tokens": 16, "blocks": 100, "slots": 100} | overrides)


def decode_room(**overrides):
    return DecodeRoom(
        **{"max_rows": 8, "available_blocks": 9, "fenced_blocks": 0, "block_tokens": 4} | overrides
    )


@pytest.mark.parametrize(
    ("candidates", "settings", "expected"),
    [
        pytest.param(
            [prompt("long", 90), prompt("short", 9), prompt("mid", 40)],
            {},
            ["short", "mid", "long"],
            id="the shortest prompt goes first",
        ),
        pytest.param(
            [prompt("fresh", 20), prompt("aged", 40, age_s=2)],
            {},
            ["aged", "fresh"],
            id="two seconds of age are worth thirty tokens at aging 15",
        ),
        pytest.param(
            [prompt("fresh", 20), prompt("aged", 40, age_s=2)],
            {"spf_aging_tokens_per_s": 0.0},
            ["fresh", "aged"],
            id="without aging only the length counts",
        ),
        pytest.param(
            [prompt("tiny", 1), prompt("starved", 9000, age_s=5), prompt("older", 9000, age_s=6)],
            {},
            ["older", "starved", "tiny"],
            id="who has waited for the cap goes before all, the oldest first",
        ),
        pytest.param(
            [prompt("whole", 30), prompt("started", 60, planned=40)],
            {},
            ["started", "whole"],
            id="only what remains of a prompt counts",
        ),
        pytest.param(
            [prompt("planned", 8, planned=8), prompt("open", 8)],
            {},
            ["open"],
            id="a prompt planned to its end is no candidate",
        ),
        pytest.param(
            [prompt("new", 1), prompt("old", 900, age_s=1)],
            {"prefill_policy": "FCFS"},
            ["old", "new"],
            id="FCFS goes by arrival alone",
        ),
    ],
)
def test_the_order_of_prompts(candidates, settings, expected):
    ordered = in_order(candidates, build_config(**settings), NOW)
    assert [request.request_id for request in ordered] == expected


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 20)), max_size=12))
def test_whoever_has_waited_for_the_cap_goes_before_everyone_younger(shapes):
    candidates = [prompt(f"r{i}", length, age_s) for i, (length, age_s) in enumerate(shapes)]
    config = build_config(spf_max_wait_s=5.0)
    ordered = list(in_order(candidates, config, NOW))
    capped = [request for request in ordered if NOW - request.arrived_ns >= 5 * SECOND]
    assert ordered[: len(capped)] == capped
    assert [r.arrived_ns for r in capped] == sorted(r.arrived_ns for r in capped)


HOLDER = prompt("holder", 40, planned=8, phase=RequestPhase.PREFILLING)


@pytest.mark.parametrize(
    ("candidates", "room", "chunks", "reason"),
    [
        pytest.param(
            [prompt("a", 6), prompt("b", 9)],
            prefill_room(),
            [("a", 6), ("b", 9)],
            PrefillReason.ALL_PLANNED,
            id="several prompts share a step",
        ),
        pytest.param(
            [prompt("a", 6), prompt("b", 30), prompt("c", 40)],
            prefill_room(),
            [("a", 6), ("b", 10)],
            PrefillReason.BUDGET_SPENT,
            id="the last prompt is chunked to fill the budget",
        ),
        pytest.param(
            [prompt("a", 8), prompt("b", 12), prompt("c", 12)],
            prefill_room(blocks=4, budget_tokens=99),
            [("a", 8)],
            PrefillReason.OUT_OF_BLOCKS,
            id="nobody overtakes the first prompt without blocks",
        ),
        pytest.param(
            [prompt("a", 8), prompt("b", 12), prompt("c", 13), HOLDER],
            prefill_room(blocks=2, budget_tokens=99),
            [("a", 8), ("holder", 32)],
            PrefillReason.OUT_OF_BLOCKS,
            id="who holds its blocks goes on behind a misfit",
        ),
        pytest.param(
            [prompt("a", 8), prompt("b", 8)],
            prefill_room(slots=1),
            [("a", 8)],
            PrefillReason.OUT_OF_SLOTS,
            id="a prompt without a slot waits",
        ),
        pytest.param(
            [prompt("a", 8)],
            prefill_room(blocks=-3),
            [],
            PrefillReason.OUT_OF_BLOCKS,
            id="an overdrawn reserve admits nobody",
        ),
    ],
)
def test_sharing_a_prefill_step(candidates, room, chunks, reason):
    decision = schedule_prefill(candidates, room, block_need, build_config(), NOW)
    assert [(chunk.request.request_id, chunk.num_tokens) for chunk in decision.chunks] == chunks
    assert decision.reason is reason


def test_cached_tokens_cost_no_budget():
    decision = schedule_prefill(
        [prompt("a", 20)],
        prefill_room(budget_tokens=8),
        lambda _: Need(blocks=1, cached_tokens=16),
        build_config(),
        NOW,
    )
    assert decision.chunks[0].num_tokens == 4


FULL = {"num_tokens": 9, "num_blocks": 2}  # its next position needs a third block of four


@pytest.mark.parametrize(
    ("running", "room", "rows", "victim", "reason"),
    [
        pytest.param(
            [decoding("a"), decoding("b")],
            decode_room(),
            ["a", "b"],
            None,
            DecodeReason.ALL_READY,
            id="all that can go on do",
        ),
        pytest.param(
            [decoding("a"), decoding("b"), decoding("c")],
            decode_room(max_rows=2),
            ["a", "b"],
            None,
            DecodeReason.ROWS_FULL,
            id="first come, first served up to max_rows",
        ),
        pytest.param(
            [decoding("done", max_tokens=1), decoding("b")],
            decode_room(),
            ["b"],
            None,
            DecodeReason.ALL_READY,
            id="who has its last token in flight is left out",
        ),
        pytest.param(
            [decoding("a", **FULL), decoding("b", **FULL)],
            decode_room(available_blocks=1, fenced_blocks=1),
            ["a"],
            None,
            DecodeReason.BLOCKS_FENCED,
            id="a fenced block is waited for rather than taken from someone",
        ),
        pytest.param(
            [decoding("late", age_s=1), decoding("a", age_s=9, **FULL), decoding("b", age_s=5)],
            decode_room(available_blocks=0),
            [],
            "late",
            DecodeReason.OUT_OF_BLOCKS,
            id="the latest arrival is the victim",
        ),
        pytest.param(
            [decoding("alone", **FULL)],
            decode_room(available_blocks=0),
            [],
            "alone",
            DecodeReason.OUT_OF_BLOCKS,
            id="a lone request is its own victim",
        ),
    ],
)
def test_choosing_decode_rows(running, room, rows, victim, reason):
    decision = schedule_decode(running, room)
    assert [request.request_id for request in decision.rows] == rows
    assert (decision.victim and decision.victim.request_id) == victim
    assert decision.reason is reason


@pytest.mark.parametrize(
    ("budget", "rows", "chunks"),
    [
        pytest.param(16, ["x", "y"], [("a", 6), ("b", 8)], id="prompts share what decode rows leave"),
        pytest.param(3, ["x", "y"], [("a", 1)], id="decode rows go first"),
        pytest.param(1, ["x"], [], id="decode rows keep to the budget too"),
    ],
)
def test_mixing_decode_rows_and_prompts(budget, rows, chunks):
    decision = schedule_mixed(
        [decoding("x"), decoding("y")],
        [prompt("b", 30), prompt("a", 6)],
        decode_room(),
        prefill_room(budget_tokens=budget),
        block_need,
        build_config(),
        NOW,
    )
    assert [request.request_id for request in decision.decode.rows] == rows
    assert decision.prefill is not None
    assert [(c.request.request_id, c.num_tokens) for c in decision.prefill.chunks] == chunks


def test_mixing_waits_for_the_victim():
    decision = schedule_mixed(
        [decoding("x", **FULL)],
        [prompt("a", 6)],
        decode_room(available_blocks=0),
        prefill_room(),
        block_need,
        build_config(),
        NOW,
    )
    assert decision.decode.victim is not None
    assert decision.prefill is None
