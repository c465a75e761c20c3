import asyncio
import time

import pytest

from semipd_bench.load import Load, Target, build_prompt, open_client
from semipd_bench.outcome import Outcome, attainment_permille, percentile, quarters
from semipd_bench.trace import TraceRequest
from semipd_core.telemetry import SloTargets

SLO = SloTargets(ttft_percentile=90, ttft_ms=200, tpot_percentile=90, tpot_ms=50)


async def run(fake, requests):
    async with fake.serve():
        target = Target(url=fake.url, model="m", vocabulary_tokens=1000)
        async with open_client(target) as client:
            return await Load(target, seed="s", clock=time.monotonic).run(client, requests)


def request(at_s=0.0, prompt=20, output=5):
    return TraceRequest(at_s=at_s, prompt_tokens=prompt, output_tokens=output)


async def test_latencies_are_those_of_the_server(fake_openai):
    fake_openai.ttft_s, fake_openai.tpot_s = 0.1, 0.02
    (outcome,) = await run(fake_openai, [request(output=10)])
    assert outcome.is_complete
    assert outcome.output_tokens == 10
    assert outcome.ttft_ms >= 100
    assert outcome.token_s[-1] - outcome.sent_s >= 0.1 + 9 * 0.02
    assert len(list(outcome.gaps())) == 9


async def test_prompts_have_the_exact_length_and_differ_from_the_first_token_block_on(fake_openai):
    await run(fake_openai, [request(prompt=16), request(prompt=33), request(prompt=16)])
    prompts = [body["prompt"] for body in fake_openai.bodies]
    assert sorted(map(len, prompts)) == [16, 16, 33]
    assert len({tuple(prompt[:16]) for prompt in prompts}) == 3
    assert all(body["ignore_eos"] and body["stream"] for body in fake_openai.bodies)


async def test_arrivals_do_not_wait_for_answers(fake_openai):
    fake_openai.ttft_s = 0.4
    outcomes = await run(fake_openai, [request(at_s=0.05 * i, output=1) for i in range(6)])
    assert max(o.sent_s for o in outcomes) < min(o.token_s[0] for o in outcomes)


@pytest.mark.parametrize(
    ("change", "wording"),
    [
        pytest.param({"refuse_every": 1}, "HTTP 429.*queue full", id="refused"),
        pytest.param({"break_after": 2}, "ended before", id="the stream breaks off"),
    ],
)
async def test_a_failure_is_an_outcome_and_is_not_retried(fake_openai, change, wording):
    for name, value in change.items():
        setattr(fake_openai, name, value)
    (outcome,) = await run(fake_openai, [request()])
    assert not outcome.is_complete
    assert not outcome.attains(SLO)
    assert len(fake_openai.bodies) == 1
    with pytest.raises(AssertionError, match=wording):
        raise AssertionError(outcome.error)


async def test_a_service_that_is_not_there_is_an_outcome():
    target = Target(url="http://127.0.0.1:9", model="m", vocabulary_tokens=1000)
    async with open_client(target) as client:
        (outcome,) = await Load(target, seed="s", clock=time.monotonic).run(client, [request()])
    assert outcome.status is None
    assert "ConnectError" in outcome.error


async def test_a_cancelled_run_counts_its_open_requests_as_failed(fake_openai):
    fake_openai.ttft_s = 30
    async with fake_openai.serve():
        target = Target(url=fake_openai.url, model="m", vocabulary_tokens=1000)
        async with open_client(target) as client:
            load = Load(target, seed="s", clock=time.monotonic)
            task = asyncio.create_task(load.run(client, [request(), request(at_s=60)]))
            while not fake_openai.bodies:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert load.sent == 1
    assert [o.error for o in load.outcomes] == ["cancelled"]


def outcome(ttft_ms=100.0, tpot_ms=20.0, tokens=5, planned_s=0.0, error=None):
    first = ttft_ms / 1e3
    token_s = tuple(first + tpot_ms * i / 1e3 for i in range(tokens))
    return Outcome(
        index=0, planned_s=planned_s, sent_s=0.0, prompt_tokens=1, wanted_tokens=tokens, output_tokens=tokens,
        token_s=token_s, status=200, error=error,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "attains"),
    [
        pytest.param(outcome(), True, id="both targets met"),
        pytest.param(outcome(ttft_ms=201), False, id="the first token is late"),
        pytest.param(outcome(tpot_ms=51), False, id="tokens are slow"),
        pytest.param(outcome(tpot_ms=51, tokens=1), True, id="one token is judged by TTFT alone"),
        pytest.param(outcome(error="HTTP 429"), False, id="a failure is a miss"),
    ],
)
def test_attainment_of_one_request(one, attains):
    assert one.attains(SLO) is attains


def test_a_request_belongs_to_the_quarter_in_which_it_was_due():
    parts = quarters([outcome(planned_s=s) for s in (0, 29.9, 30, 90, 119, 130)], 120)
    assert [len(part) for part in parts] == [2, 1, 0, 3]
    assert [attainment_permille(part, SLO) for part in parts] == [1000, 1000, None, 1000]


@pytest.mark.parametrize(
    ("percent", "expected"), [(1, 1), (50, 5), (90, 9), (91, 10), (100, 10)], ids=lambda v: f"{v}"
)
def test_percentile_is_the_nearest_rank(percent, expected):
    assert percentile(list(range(10, 0, -1)), percent) == expected


def test_prompts_are_repeatable_and_stay_inside_the_vocabulary():
    prompt = build_prompt(500, 300, "a")
    assert prompt == build_prompt(500, 300, "a")
    assert 150 <= min(prompt) <= max(prompt) < 300
