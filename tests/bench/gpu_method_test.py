"""The method of the GPU's goodput: common arrivals, the crossing of 90 %, its interval, and the SLO rule."""

from __future__ import annotations

import statistics

import pytest
from gpu_bench.crossing import Attained, bootstrap, find_crossing
from gpu_bench.live_switch import CASES, attempt, held_twice_bytes, left_of
from gpu_bench.llama import BLOCK_VALUES, LLAMA_8B, weights, write_model
from gpu_bench.slo_rule import targets
from gpu_bench.steps import LIMITS, PLANS, compare, interference
from gpu_bench.workloads import CONTEXT_TOKENS, arrivals, mixed, workloads
from hypothesis import given
from hypothesis import strategies as st

from semipd_bench.trace import bundled_trace, read_trace
from semipd_core.profile.format import Point


def points(*shares, requests=200):
    return [
        Attained(rate_per_s=float(rate), attained=round(share * requests), requests=requests)
        for rate, share in shares
    ]


# --- the crossing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measured", "rate", "is_open"),
    [
        pytest.param([(1, 1.0), (2, 0.95), (4, 0.85)], 3.0, False, id="linear between its neighbours"),
        pytest.param([(4, 0.85), (1, 1.0), (2, 0.95)], 3.0, False, id="in any order"),
        pytest.param([(1, 1.0), (2, 0.9), (4, 0.5)], 2.0, False, id="exactly at a rate"),
        pytest.param([(1, 0.99), (2, 0.92)], 2.0, True, id="at least the largest, where none loses it"),
        pytest.param([(1, 0.8), (2, 0.7)], None, False, id="none, where none keeps it"),
        pytest.param(
            [(1, 1.0), (2, 0.88), (3, 0.96), (4, 0.6)],
            3.0625,
            False,
            id="a rise is noise: the two are pooled",
        ),
    ],
)
def test_the_crossing_of_ninety_percent_is(measured, rate, is_open):
    crossing = find_crossing(points(*measured))
    assert crossing.rate_per_s == (None if rate is None else pytest.approx(rate))
    assert crossing.is_open is is_open


@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1)), min_size=1, max_size=8, unique_by=lambda p: p[0])
)
def test_a_crossing_lies_within_the_measured_rates_and_more_attained_never_lowers_it(measured):
    crossing = find_crossing(points(*measured))
    better = find_crossing(points(*((rate, min(1.0, share + 0.05)) for rate, share in measured)))
    if crossing.rate_per_s is not None:
        rates = [rate for rate, _ in measured]
        assert min(rates) <= crossing.rate_per_s <= max(rates)
        assert better.rate_per_s is not None
        assert better.rate_per_s >= crossing.rate_per_s - 1e-9


def test_an_interval_holds_the_crossing_is_the_same_each_time_and_narrows_with_requests():
    measured = [(4, 0.99), (6, 0.95), (8, 0.84), (10, 0.5)]
    few, many = (bootstrap(points(*measured, requests=n)) for n in (100, 10_000))
    crossing = find_crossing(points(*measured)).rate_per_s
    assert few == bootstrap(points(*measured, requests=100))
    assert few.low_per_s <= crossing <= few.high_per_s
    assert many.high_per_s - many.low_per_s < (few.high_per_s - few.low_per_s) / 3


# --- arrivals --------------------------------------------------------------------------------------------------


def test_a_higher_rate_is_the_same_process_faster():
    slow, fast = (arrivals(mixed, rate_per_s=rate, seed="s") for rate in (2.0, 6.0))
    assert len(fast.requests) > 2 * len(slow.requests)
    for a, b in zip(slow.requests, fast.requests, strict=False):
        assert (a.prompt_tokens, a.output_tokens) == (b.prompt_tokens, b.output_tokens)
        assert a.at_s == pytest.approx(3 * b.at_s)


def test_a_shorter_run_has_the_first_requests_of_a_longer_one():
    short, long = (arrivals(mixed, rate_per_s=6.0, seed="s", run_s=seconds) for seconds in (20.0, 60.0))
    assert 0 < len(short.requests) < len(long.requests)
    assert long.requests[: len(short.requests)] == short.requests


def test_arrivals_have_the_rate_and_differ_by_seed():
    trace = arrivals(mixed, rate_per_s=50.0, seed="s", run_s=100.0)
    assert len(trace.requests) == pytest.approx(5000, rel=0.05)
    assert trace.requests != arrivals(mixed, rate_per_s=50.0, seed="t", run_s=100.0).requests


@pytest.mark.parametrize("name", ["conv", "mixed"])
def test_every_request_fits_into_the_context_and_has_a_tpot(name):
    trace = arrivals(workloads(read_trace(bundled_trace()))[name], rate_per_s=100.0, seed=name)
    assert all(r.prompt_tokens + r.output_tokens <= CONTEXT_TOKENS for r in trace.requests)
    assert all(r.output_tokens >= 2 and r.prompt_tokens >= 16 for r in trace.requests)


def test_the_mix_is_sixty_percent_short_and_forty_percent_long():
    drawn = arrivals(mixed, rate_per_s=200.0, seed="s").requests
    mean = statistics.fmean(request.prompt_tokens for request in drawn)
    assert 0.6 * 496 + 0.4 * 3500 < mean < 0.6 * 520 + 0.4 * 5905  # long ones are cut at the context


def test_an_slo_is_a_multiple_of_the_median_single_request():
    slo = targets([40.0, 38.0, 90.0], [5.0, 5.2, 4.9], 7.5)
    assert (slo.ttft_ms, slo.tpot_ms, slo.ttft_percentile, slo.tpot_percentile) == (300, 38, 90, 90)
    with pytest.raises(ValueError, match="no single requests"):
        targets([], [], 7.5)


# --- tables ----------------------------------------------------------------------------------------------------


def measured(setting, wall_us):
    return Point(
        setting=setting,
        steps=10,
        wall_us=wall_us,
        wall_p90_us=wall_us,
        compute_us=wall_us,
        contended_permille=0,
    )


def test_steps_are_held_against_the_limits_and_what_is_missing_is_neither_met_nor_lost():
    rows = compare(
        [measured(LIMITS[0].setting, 5_000), measured(LIMITS[4].setting, 2048 * 1_000_000 // 44_000)]
    )
    assert [row["meets"] for row in rows] == [True, None, None, None, False]
    assert rows[0]["found"] == 5.0
    assert rows[4]["found"] == pytest.approx(44_000, rel=0.001)


def test_interference_is_the_time_together_over_the_lone_time():
    times = {None: 10_000}
    points_of = [measured(setting, times.get(setting.beside, 14_000)) for setting in PLANS["splits"]]
    rows = interference(points_of)
    assert len(rows) == 9
    assert all(row["decodeOverLone"] == row["prefillOverLone"] == 1.4 for row in rows)
    assert {(row["prefillPercent"], row["decodePercent"]) for row in rows} >= {(20, 100), (20, 80), (80, 20)}


def test_memory_held_twice_is_what_a_switch_adds_to_the_steady_state():
    steady, switching = [("steady", 100)] * 3, [("switching", used) for used in (100, 160, 100)]
    others = [("", 0), ("", 500), *[("resting", 150)] * 9]
    assert held_twice_bytes([*others, *steady, *switching]) == 60
    assert held_twice_bytes([*others, *steady]) is None
    assert held_twice_bytes([]) is None


@pytest.mark.parametrize("isolation", ["MPS", "GreenContext"])
def test_switches_of_each_isolation_change_both_shares_in_some_case(isolation):
    pairs = [case.splits for case in CASES.values() if case.isolation == isolation]
    assert any(a[0] != b[0] and a[1] != b[1] for a, b in pairs)


def test_an_isolation_that_does_not_serve_ends_no_other_and_is_tried_again_last():
    def refuses():
        raise RuntimeError("no MPS")

    assert left_of({}) == [*CASES]
    found = {"MPS": attempt(refuses)}
    assert found == {"MPS": {"failed": "RuntimeError: no MPS"}}
    assert left_of(found) == ["GreenContext", "MPS, both shares", "MPS"]
    assert left_of({"MPS": {"gapRatio": 1.0}}) == ["GreenContext", "MPS, both shares"]


# --- the model -------------------------------------------------------------------------------------------------


def test_the_random_model_has_the_size_of_llama_8b():
    assert sum(weight.num_bytes for weight in weights(LLAMA_8B)) == 2 * 8_030_261_248


def test_no_two_rows_of_the_random_head_are_equal():
    """Row i begins at value i x hidden of a block that repeats: equal ones would tie at each argmax."""
    hidden, vocab = LLAMA_8B["hidden_size"], LLAMA_8B["vocab_size"]
    assert len({row * hidden % BLOCK_VALUES for row in range(vocab)}) == vocab


def test_the_random_model_is_one_that_the_engine_reads(tmp_path):
    from semipd_engine.model import sources

    tiny = dict(LLAMA_8B) | {
        "vocab_size": 400, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    directory = write_model(tmp_path / "model", tiny)
    source = sources.open_source(f"file://{directory}")
    config = source.read_config("BF16", None)
    assert (config.num_layers, config.vocab_size) == (2, 400)
    source.write_tokenizer(tmp_path)
    from tokenizers import Tokenizer

    from semipd_engine.frontend.text_stream import Detokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 400
    assert all(Detokenizer(tokenizer).push(token) for token in range(400)), "the client counts chunks of text"
    assert tokenizer.decode(tokenizer.encode("a b\n").ids) == "a b\n"
    before = (directory / "config.json").stat().st_mtime_ns
    assert write_model(directory, tiny) == directory
    assert (directory / "config.json").stat().st_mtime_ns == before
