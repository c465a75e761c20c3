import dataclasses
import itertools
import json

import pytest

from semipd_bench.generated_service import write_service_file
from semipd_bench.load import Target
from semipd_bench.outcome import Outcome
from semipd_bench.peers import CONCURRENCIES, Round, judge_peers, median_round, run_round
from semipd_bench.results import ResultsNotWritten, append_result
from semipd_bench.saturation import Rates, rates_of, token_rate
from semipd_bench.shares import (
    BUDGETS_TOKENS,
    CAPS,
    SharesResult,
    SharesRound,
    judge_shares,
    median_rates,
)
from semipd_bench.switch import (
    Interval,
    SwitchResult,
    gaps_overlapping,
    judge_switches,
    steady_requests,
)
from semipd_bench.verdict import Condition
from semipd_cli.service_file import read_service
from semipd_core.partition import Isolation, Partition, Role
from semipd_core.telemetry import StepSample


def shares(
    tpots=(60, 70, 80, 90, 100), prefills=(100, 200, 300, 400, 500), decodes=(80, 60, 40, 20, 10), unified=1.0
):
    """Lone rates are 500 and 100 tokens/s, so the sums over the caps are 1.0, 1.0, 1.0, 1.0, 1.1.

    Three rounds, each on a machine of another speed: ratios are taken within a round.
    """

    def at_speed(speed):
        return SharesRound(
            lone_prefill_tokens_per_s=500 * speed,
            lone_decode_tokens_per_s=100 * speed,
            by_cap={
                cap: Rates(prefill_tokens_per_s=p * speed, decode_tokens_per_s=d * speed, tpot_ms=t / speed)
                for cap, t, p, d in zip(CAPS, tpots, prefills, decodes, strict=True)
            },
            by_budget={
                b: Rates(
                    prefill_tokens_per_s=0, decode_tokens_per_s=100 * unified * speed, tpot_ms=50 / speed
                )
                for b in BUDGETS_TOKENS
            },
        )

    return SharesResult(rounds=tuple(map(at_speed, (1.0, 0.5, 2.0))))


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        pytest.param(shares(), [True, True, True, True], id="all holds"),
        pytest.param(
            shares(tpots=(71, 75, 80, 90, 100)),
            [False, True, True, True],
            id="a small cap protects too little",
        ),
        pytest.param(
            shares(tpots=(60, 80, 77, 90, 100)), [True, True, True, True], id="an inversion within noise"
        ),
        pytest.param(
            shares(tpots=(60, 80, 75, 90, 100)), [True, False, True, True], id="TPOT falls as the cap rises"
        ),
        pytest.param(
            shares(prefills=(100, 200, 150, 400, 500)), [True, True, False, False], id="prefill rate falls"
        ),
        pytest.param(shares(unified=1.2), [True, True, True, False], id="two lanes lose to Unified"),
        pytest.param(shares(unified=1.1), [True, True, True, True], id="nine tenths of Unified is enough"),
    ],
)
def test_conditions_of_shares(result, expected):
    assert [c.holds for c in judge_shares(result)] == expected


def switched(**overrides):
    values = {
        "sent": 100, "lost": 0, "effects_s": (0.5, 0.9), "steady_p99_ms": (80.0, 100.0),
        "switching_p99_ms": 125.0, "switching_worst_ms": 300.0,
    }  # fmt: skip
    return SwitchResult(**(values | overrides))


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        pytest.param(switched(), [True, True, True], id="all holds, gaps at their limit"),
        pytest.param(switched(lost=1), [False, True, True], id="a request is lost"),
        pytest.param(switched(effects_s=(0.5, 2.1)), [True, False, True], id="one wish is late"),
        pytest.param(switched(switching_p99_ms=126.0), [True, True, False], id="tokens stall"),
    ],
)
def test_conditions_of_switches(result, expected):
    assert [c.holds for c in judge_switches(result)] == expected


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        pytest.param((0.0, 0.9), [], id="before the first token"),
        pytest.param((1.1, 1.2), [500], id="inside a gap"),
        pytest.param((1.4, 1.6), [500, 1000], id="across a token"),
        pytest.param((0.0, 9.0), [500, 1000], id="around all"),
        pytest.param((2.5, 9.0), [], id="after the last token"),
    ],
)
def test_gaps_that_overlap_an_interval(interval, expected):
    outcome = Outcome(
        index=0, planned_s=0, sent_s=0, prompt_tokens=1, wanted_tokens=3, output_tokens=3,
        token_s=(1.0, 1.5, 2.5), status=200, error=None,
    )  # fmt: skip
    found = gaps_overlapping([outcome], [Interval(start_s=interval[0], end_s=interval[1])])
    assert found == pytest.approx(expected)


def test_steady_load_is_the_same_in_every_second_for_as_long_as_it_is_sent():
    times = [r.at_s for r in itertools.islice(steady_requests(4), 4 * 3600)]
    assert [sum(1 for _ in of) for _, of in itertools.groupby(times, int)] == [4] * 3600


def one_round(tokens_per_s=100.0):
    return Round(
        tokens_per_s=tokens_per_s, ttft_p50_ms=1, ttft_p90_ms=2, tpot_p50_ms=3, tpot_p90_ms=4, worst_gap_ms=5
    )


def test_each_system_is_held_against_the_peer_at_each_concurrency():
    medians = {("two lanes", c): one_round(80) for c in CONCURRENCIES}
    medians |= {("Unified", c): one_round(79) for c in CONCURRENCIES}
    medians |= {("peer", c): one_round(100) for c in CONCURRENCIES}
    holds = [c.holds for c in judge_peers(medians, ["two lanes", "Unified"], "peer")]
    assert holds == [True, True, False, False]


def test_medians_are_taken_number_by_number():
    assert median_round([one_round(1), one_round(9), one_round(3)]).tokens_per_s == 3
    rates = [Rates(prefill_tokens_per_s=p, decode_tokens_per_s=-p, tpot_ms=None) for p in (5, 1, 3)]
    assert dataclasses.astuple(median_rates(rates)) == (3, -3, None)


async def test_a_closed_loop_keeps_its_clients_busy(fake_openai):
    fake_openai.ttft_s, fake_openai.tpot_s = 0.01, 0.002
    async with fake_openai.serve():
        found = await run_round(Target(url=fake_openai.url, model="m", vocabulary_tokens=1000), 4, "s")
    assert len(fake_openai.bodies) == 8
    assert found.tpot_p50_ms >= 2
    assert found.worst_gap_ms >= found.tpot_p50_ms
    assert found.tokens_per_s > 0


@pytest.mark.parametrize("isolation", list(Isolation))
def test_generated_service_files_are_valid(tmp_path, isolation):
    initial = Partition(prefill_percent=40, decode_percent=100)
    file = write_service_file(
        tmp_path / "s.yaml", model_uri="builtin://smollm2-135m", isolation=isolation, initial=initial
    )
    service = read_service(str(file))
    assert service.spec.partition.isolation == isolation.value
    assert service.spec.partition.initial.prefill_percent == 40


def test_results_are_appended_with_what_is_needed_to_read_them(tmp_path):
    condition = Condition(name="n", holds=True, found="f")
    for number in (1, 2):
        path = append_result(tmp_path / "results", "shares", {"x": number}, [condition])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["numbers"]["x"] for r in records] == [1, 2]
    assert set(records[0]) >= {"date", "cpu", "cores", "command", "numbers", "conditions"}


def test_results_that_cannot_be_written_are_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsNotWritten, match=r"shares\.jsonl is not written"):
        append_result(tmp_path / "file", "shares", {}, [])


def step(role, at_s, tokens):
    return StepSample(
        role=role, at_ns=int(at_s * 1e9), rows=1, tokens=tokens, context_tokens=0, wall_us=1, compute_us=1,
        prefill_percent=100, decode_percent=100, contended_permille=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([], 0, id="no step"),
        pytest.param([(5, 128)], 0, id="one step has no length"),
        pytest.param([(5, 128), (6, 100), (9, 20)], 30, id="whole steps, in any order"),
    ],
)
def test_a_rate_counts_whole_steps(steps, expected):
    assert token_rate(
        [step(Role.PREFILL, at_s, tokens) for at_s, tokens in reversed(steps)]
    ) == pytest.approx(expected)


def test_a_mixed_lane_is_split_by_what_its_clients_saw():
    outcome = Outcome(
        index=0, planned_s=0, sent_s=0, prompt_tokens=1, wanted_tokens=9, output_tokens=9,
        token_s=tuple(range(1, 11)), status=200, error=None,
    )  # fmt: skip
    steps = [step(Role.MIXED, at_s, 64) for at_s in range(1, 11)]
    found = rates_of(steps, [outcome], 0.5, 10.5, rows=1)
    assert found == Rates(prefill_tokens_per_s=63, decode_tokens_per_s=1, tpot_ms=1000)
