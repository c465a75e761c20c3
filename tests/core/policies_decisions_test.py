"""Each policy as a table of situations, legal splits as tables, and ModelPredictive against exhaustive search."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.errors import InvalidSpec
from semipd_core.latency.forecast import Forecast
from semipd_core.latency.load import EngineLoad
from semipd_core.latency.nexus import StepModel
from semipd_core.partition import Band, Isolation, Partition, Role
from semipd_core.policies import POLICIES
from semipd_core.policies.decision import PolicyInputs, Reason
from semipd_core.policies.model_predictive import ModelPredictive, best_feasible
from semipd_core.policies.slo_feedback import SloFeedback
from semipd_core.policies.splits import legal_splits, nearest_split
from semipd_core.slo import histogram
from semipd_core.slo.pooled import PooledWindow, WindowState, classify
from semipd_core.telemetry import SloTargets, StepSample

SLO = SloTargets(ttft_percentile=90, ttft_ms=2000, tpot_percentile=90, tpot_ms=250)
ANY = Band(prefill_min_percent=10, prefill_max_percent=100, decode_min_percent=10, decode_max_percent=100)
BOUNDS = Band(prefill_min_percent=20, prefill_max_percent=100, decode_min_percent=40, decode_max_percent=100)


def at(prefill, decode):
    return Partition(prefill_percent=prefill, decode_percent=decode)


def trained(token_us=3300, base_us=60_000, row_us=5000):
    samples = []
    for index in range(1, 60):
        tokens, rows = 16 + index, 1 + index % 13
        common = {
            "at_ns": index,
            "wall_us": 1,
            "prefill_percent": 100,
            "decode_percent": 100,
            "contended_permille": 0,
        }
        samples += [
            StepSample(role=Role.PREFILL, rows=1, tokens=tokens, context_tokens=0, compute_us=token_us * tokens, **common),
            StepSample(
                role=Role.DECODE, rows=rows, tokens=rows, context_tokens=0, compute_us=base_us + row_us * rows, **common
            ),
        ]  # fmt: skip
    return StepModel().observe("e", samples)


TRAINED = trained()


def inputs(current=None, ttft=500.0, tpot=100.0, bad=(), seconds=40.0, isolation=Isolation.MPS, **fields):
    """Twenty judged requests at these latencies; `bad` names the targets that half of them miss."""
    ttft_ms, tpot_ms = {}, {}
    for _ in range(20):
        histogram.add(ttft_ms, ttft)
        histogram.add(tpot_ms, tpot)
    missed = 10 if bad else 0
    window = PooledWindow(
        since_s=0, until_s=seconds, engines=1, arrived=20, prompt_tokens=1600, attained=20 - missed, missed=missed,
        missed_ttft=10 * ("ttft" in bad), missed_tpot=10 * ("tpot" in bad), ttft_ms=ttft_ms, tpot_ms=tpot_ms,
    )  # fmt: skip
    window = fields.pop("window", window)
    bounds = ANY if isolation is Isolation.GREEN_CONTEXT else BOUNDS
    defaults = {
        "load": EngineLoad(decode_rows=6, chunk_tokens=64),
        "steps": TRAINED,
        "window_state": classify(window, SLO),
    }
    return PolicyInputs(
        now_s=100.0, current=current or at(80, 100), splits=legal_splits(isolation, bounds), slo=SLO, window=window,
        demand=window, **(defaults | fields),
    )  # fmt: skip


# --- what every policy shares ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["SLOFeedback", "ModelPredictive"])
@pytest.mark.parametrize(
    ("state", "reason"), [(WindowState.IDLE, Reason.IDLE), (WindowState.NO_DATA, Reason.NO_DATA)]
)
def test_idle_and_no_data_hold_the_last_split_each_with_its_own_reason(policy, state, reason):
    decision = POLICIES[policy].decide(inputs(at(35, 60), bad=("tpot",), window_state=state))
    assert (decision.partition, decision.reason) == (at(35, 60), reason)


@given(
    st.sampled_from(sorted(POLICIES)),
    st.sampled_from(legal_splits(Isolation.MPS, BOUNDS)),
    st.floats(1, 20_000),
    st.floats(1, 2000),
    st.sampled_from([(), ("ttft",), ("tpot",), ("ttft", "tpot")]),
    st.integers(0, 1000),
)
def test_whatever_is_seen_the_answer_is_legal_and_says_why(policy, current, ttft, tpot, bad, kv_permille):
    load = EngineLoad(decode_rows=6, chunk_tokens=64, kv_used_permille=kv_permille)
    seen = inputs(current, ttft, tpot, bad, load=load)
    decision = POLICIES[policy].decide(seen)
    assert decision.partition in seen.splits
    assert decision.message
    assert decision == POLICIES[policy].decide(seen)


def test_static_never_moves():
    decision = POLICIES["Static"].decide(inputs(at(80, 100), bad=("ttft", "tpot")))
    assert (decision.partition, decision.reason) == (at(80, 100), Reason.STATIC)


@pytest.mark.parametrize("policy", ["SLOFeedback", "ModelPredictive"])
@pytest.mark.parametrize(
    ("missed", "judged", "moves"), [(1, 5, False), (2, 10, False), (3, 5, True), (4, 10, True)]
)
def test_misses_that_chance_explains_move_nothing(policy, missed, judged, moves):
    ttft_ms, tpot_ms = {}, {}
    for number in range(judged):
        histogram.add(ttft_ms, 300)
        histogram.add(tpot_ms, 400 if number < missed else 100)
    window = PooledWindow(
        since_s=0, until_s=40, engines=1, arrived=judged, prompt_tokens=80 * judged, attained=judged - missed,
        missed=missed, missed_tpot=missed, ttft_ms=ttft_ms, tpot_ms=tpot_ms,
    )  # fmt: skip
    decision = POLICIES[policy].decide(inputs(at(80, 60), window=window))
    assert (decision.partition != at(80, 60)) == moves, decision
    assert moves or decision.reason is Reason.TOO_FEW_SAMPLES


# --- SLOFeedback -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "partition", "reason"),
    [
        pytest.param(inputs(), at(80, 100), Reason.SLO_MET, id="nothing missed holds"),
        pytest.param(inputs(ttft=2040, bad=("ttft",)), at(90, 100), Reason.TTFT_MISSED, id="TTFT missed raises prefill"),
        pytest.param(
            inputs(ttft=9000, bad=("ttft",)), at(100, 100), Reason.TTFT_MISSED, id="a large miss takes more steps, to the limit"
        ),
        pytest.param(
            inputs(at(100, 100), ttft=2040, bad=("ttft",)), at(100, 90), Reason.TTFT_MISSED,
            id="with prefill at its limit decode shrinks",
        ),
        pytest.param(
            inputs(at(100, 40), ttft=2040, bad=("ttft",)), at(100, 40), Reason.TTFT_MISSED, id="at both limits it holds"
        ),
        pytest.param(
            inputs(at(100, 60), tpot=260, bad=("tpot",)), at(100, 70), Reason.TPOT_MISSED, id="TPOT missed raises decode"
        ),
        pytest.param(
            inputs(tpot=255, bad=("tpot",)), at(70, 100), Reason.TPOT_MISSED, id="with decode at its limit prefill shrinks"
        ),
        pytest.param(
            inputs(load=EngineLoad(token_gap_ms=400)), at(50, 100), Reason.TPOT_MISSED,
            id="slow steps of open requests count before any verdict",
        ),
        pytest.param(
            inputs(seconds=4, ttft=2040, bad=("ttft",)), at(80, 100), Reason.WINDOW_TOO_SHORT, id="a short window is not due"
        ),
        pytest.param(
            inputs(ttft=2200, tpot=270, bad=("ttft", "tpot")), at(80, 100), Reason.BOTH_MISSED, id="both alike hold"
        ),
        pytest.param(
            inputs(at(40, 40), ttft=2200, tpot=270, bad=("ttft", "tpot")), at(100, 100), Reason.BOTH_MISSED,
            id="both missed with share to spare opens both caps",
        ),
        pytest.param(
            inputs(ttft=9000, tpot=270, bad=("ttft", "tpot")), at(100, 100), Reason.BOTH_MISSED, id="of both the worse is helped"
        ),
    ],
)  # fmt: skip
def test_slo_feedback(seen, partition, reason):
    decision = SloFeedback().decide(seen)
    assert (decision.partition, decision.reason) == (partition, reason)


def test_a_window_is_due_by_count_before_its_time():
    window = PooledWindow(since_s=0, until_s=2, engines=1, attained=20, missed=20, missed_ttft=20)
    decision = SloFeedback().decide(inputs(window=window))
    assert decision.reason is Reason.TTFT_MISSED


def test_disjoint_splits_are_raised_along_their_list():
    decision = SloFeedback().decide(
        inputs(at(40, 60), tpot=251, bad=("tpot",), isolation=Isolation.GREEN_CONTEXT)
    )
    assert decision.partition.decode_percent > 60
    assert decision.partition.prefill_percent + decision.partition.decode_percent == 100


# --- ModelPredictive ---------------------------------------------------------------------------------------------

HEAVY = EngineLoad(
    decode_rows=20, chunk_tokens=64
)  # 160 ms alone, 320 ms beside a busy prefill lane of equal cap


def test_met_and_expected_to_be_met_holds():
    decision = ModelPredictive().decide(inputs())
    assert (decision.partition, decision.reason) == (at(80, 100), Reason.SLO_MET)


def test_a_predicted_tpot_miss_lowers_the_prefill_cap_with_numbers():
    decision = ModelPredictive().decide(inputs(at(100, 100), load=HEAVY))
    assert decision.reason is Reason.TPOT_PREDICTED_MISS
    assert decision.partition.prefill_percent < 100
    assert decision.partition.decode_percent == 100
    assert "of 250 ms" in decision.message


def test_a_missed_ttft_with_slack_in_tpot_raises_the_prefill_cap():
    decision = ModelPredictive().decide(inputs(at(40, 100), ttft=2400, bad=("ttft",)))
    assert decision.reason is Reason.TTFT_MISSED
    assert decision.partition.prefill_percent > 40


def test_where_no_split_meets_both_the_message_says_which_target_is_lost():
    seen = inputs(at(40, 100), ttft=60_000, bad=("ttft",))
    decision = ModelPredictive().decide(seen)
    assert decision.reason is Reason.INFEASIBLE
    assert "TTFT given up" in decision.message or "TTFT and TPOT given up" in decision.message


def test_a_full_kv_cache_puts_decode_first():
    load = EngineLoad(decode_rows=6, chunk_tokens=64, kv_used_permille=750)
    decision = ModelPredictive().decide(inputs(at(100, 100), load=load))
    assert decision.reason is Reason.KV_PRESSURE
    assert decision.partition.prefill_percent < 100
    assert "75 % full" in decision.message


def test_without_a_model_it_holds_while_met_and_reacts_while_missed():
    held = ModelPredictive().decide(inputs(steps=StepModel()))
    assert (held.partition, held.reason) == (at(80, 100), Reason.TOO_FEW_SAMPLES)
    moved = ModelPredictive().decide(inputs(steps=StepModel(), ttft=2040, bad=("ttft",)))
    assert (moved.partition, moved.reason) == (at(90, 100), Reason.TTFT_MISSED)


def test_disjoint_splits_get_the_smallest_decode_share_that_meets_tpot():
    seen = inputs(at(10, 90), ttft=2400, bad=("ttft",), isolation=Isolation.GREEN_CONTEXT)
    decision = ModelPredictive().decide(seen)
    forecaster = seen.forecaster()
    fitting = [
        split for split in seen.splits if forecaster.forecast(split).meets_tpot(SLO, ModelPredictive().margin)
    ]
    assert decision.partition == min(fitting, key=lambda split: split.decode_percent)


@given(
    st.sampled_from([Isolation.MPS, Isolation.GREEN_CONTEXT]),
    st.floats(50, 20_000),
    st.floats(20, 1000),
    st.floats(1, 30),
    st.floats(0, 1),
    st.data(),
)
def test_it_agrees_with_exhaustive_search(isolation, ttft, tpot, rows, contention, data):
    bounds = ANY if isolation is Isolation.GREEN_CONTEXT else BOUNDS
    current = data.draw(st.sampled_from(legal_splits(isolation, bounds)))
    load = EngineLoad(
        decode_rows=rows, chunk_tokens=64, decode_contention=contention, prefill_contention=contention
    )
    bad = (("ttft",) if ttft > 2000 else ()) + (("tpot",) if tpot > 250 else ())
    seen = inputs(current, ttft, tpot, bad, load=load, isolation=isolation)
    policy, judge = ModelPredictive(), seen.forecaster()
    decision = policy.decide(seen)
    forecasts = {split: judge.forecast(split) for split in seen.splits}
    now = forecasts[current]
    meets_both = now.meets_ttft(SLO) and now.meets_tpot(SLO)
    fitting = [
        f for f in forecasts.values() if f.meets_ttft(SLO, policy.margin) and f.meets_tpot(SLO, policy.margin)
    ]
    if fitting and isolation is Isolation.MPS:
        widest = max(f.split.decode_percent for f in fitting)
        expected = max(
            (f for f in fitting if f.split.decode_percent == widest), key=lambda f: f.split.prefill_percent
        )
    elif fitting:
        expected = max(fitting, key=lambda f: f.split.prefill_percent)
    else:
        expected = max(forecasts.values(), key=lambda f: f.attainment_permille)
    gain = expected.attainment_permille - now.attainment_permille
    step = max(
        abs(expected.split.prefill_percent - current.prefill_percent),
        abs(expected.split.decode_percent - current.decode_percent),
    )
    if decision.partition != current:
        assert decision.partition == expected.split
        assert gain >= 100 if meets_both else fitting or gain >= 100
    else:
        is_small = step < policy.hysteresis_percent and (step == 0 or not bad)
        assert is_small or (meets_both and (gain < 100 or not fitting)) or (not fitting and gain < 100)


def forecast(split, ttft_ms, tpot_ms):
    return Forecast(split=split, ttft_ms=ttft_ms, tpot_ms=tpot_ms, attainment_permille=0)


def test_decode_shrinks_only_if_ttft_misses_at_the_largest_prefill_cap():
    splits = [
        forecast(at(80, 100), 3000, 150),
        forecast(at(100, 100), 2500, 180),
        forecast(at(100, 80), 1700, 200),
        forecast(at(100, 60), 1500, 220),
    ]
    chosen = best_feasible(splits, SLO, 0.9)
    assert chosen is not None
    assert chosen.split == at(100, 80)
    assert best_feasible(splits[:2], SLO, 0.9) is None


# --- legal splits ------------------------------------------------------------------------------------------------


def test_mps_caps_are_free_in_steps_of_five():
    splits = legal_splits(Isolation.MPS, BOUNDS)
    assert {split.prefill_percent for split in splits} == set(range(20, 101, 5))
    assert {split.decode_percent for split in splits} == set(range(40, 101, 5))


def test_green_contexts_are_at_most_eight_disjoint_pairs():
    splits = legal_splits(Isolation.GREEN_CONTEXT, ANY)
    assert len(splits) == 8
    assert all(split.prefill_percent + split.decode_percent == 100 for split in splits)


@pytest.mark.parametrize("isolation", [Isolation.NONE, Isolation.UNIFIED])
def test_uncapped_back_ends_have_one_split(isolation):
    assert legal_splits(isolation, BOUNDS) == (at(100, 100),)


@pytest.mark.parametrize("isolation", [Isolation.MPS, Isolation.GREEN_CONTEXT])
def test_bounds_without_a_legal_split_are_refused_with_what_is_allowed(isolation):
    narrow = replace(BOUNDS, prefill_min_percent=41, prefill_max_percent=43)
    with pytest.raises(
        InvalidSpec, match=r"spec\.partition\.bounds: got 'prefill 41\.\.43.*allowed: bounds that hold"
    ):
        legal_splits(isolation, narrow)


@pytest.mark.parametrize(
    ("isolation", "wanted", "nearest"),
    [
        pytest.param(Isolation.MPS, at(82, 100), at(80, 100), id="a cap between steps goes to the nearest"),
        pytest.param(Isolation.MPS, at(5, 100), at(20, 100), id="a cap under the bounds goes to their edge"),
        pytest.param(
            Isolation.GREEN_CONTEXT, at(80, 100), at(40, 60), id="oversubscribed caps become their proportion"
        ),
        pytest.param(
            Isolation.GREEN_CONTEXT, at(33, 67), at(30, 70), id="a disjoint pair goes to the nearest"
        ),
    ],
)
def test_nearest(isolation, wanted, nearest):
    bounds = ANY if isolation is Isolation.GREEN_CONTEXT else BOUNDS
    assert nearest_split(legal_splits(isolation, bounds), wanted) == nearest
