"""What a client sees of a good request, streamed and whole, against a coordinator that invents the tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from fake_coordinator import EOS, TOKENIZER, say
from front_end_process import (
    CONTEXT_TOKENS,
    RunningFrontEnd,
    chat,
    completion,
    events_of,
    rss_bytes,
    running_front_end,
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

TEXT = "the quick brown fox jumps over – the lazy dog 🦊, then rests"
NUM_TOKENS = len(TOKENIZER.encode(TEXT).ids)
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningFrontEnd]:
    async with running_front_end(tmp_path_factory.mktemp("fe")) as running:
        yield running


@pytest.fixture
def front_end(process: RunningFrontEnd) -> RunningFrontEnd:
    process.coordinator.reset()
    process.coordinator.model = say(TEXT)
    return process


async def streamed(front_end: RunningFrontEnd, path: str, body: dict) -> list[dict]:
    response = await front_end.client.post(path, json=body | {"stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events_of(response.text)


def text_of(events: list[dict], index: int = 0) -> str:
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(
        choice["text"] if "text" in choice else choice["delta"].get("content", "") for choice in choices
    )


def finishes_of(events: list[dict], index: int = 0) -> list[str | None]:
    return [
        choice["finish_reason"] for event in events for choice in event["choices"] if choice["index"] == index
    ]


async def test_a_completion(front_end):
    front_end.coordinator.cached_tokens = 2
    response = await front_end.client.post(
        COMPLETIONS, json=completion(prompt="the quick brown", max_tokens=60)
    )
    body = response.json()
    assert body["object"] == "text_completion"
    assert body["model"] == "tiny"
    assert body["choices"] == [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}]
    num_prompt = len(TOKENIZER.encode("the quick brown").ids)
    assert body["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": NUM_TOKENS + 1,
        "total_tokens": num_prompt + NUM_TOKENS + 1,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


async def test_a_chat_goes_through_the_template(front_end):
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": "there"}]},
    ]
    response = await front_end.client.post(CHAT, json={"model": "tiny", "messages": messages})
    (choice,) = response.json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": TEXT, "refusal": None}
    (submit,) = front_end.coordinator.submits
    prompt = "<s><system>be brief\n<user>hi\nthere\n<assistant>"
    assert TOKENIZER.decode(submit.prompt, skip_special_tokens=False) == prompt
    assert submit.max_tokens == CONTEXT_TOKENS - len(submit.prompt)


@pytest.mark.parametrize("burst", [1, 3, 100])
@pytest.mark.parametrize("stop", [None, "lazy", ["over –", "zzz"], " 🦊", "no such text"])
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_streamed_text_equals_whole_text_and_finish_comes_once_with_the_last(
    front_end, path, stop, burst
):
    front_end.coordinator.burst = burst
    body = (completion(max_tokens=60) if path == COMPLETIONS else chat()) | {"stop": stop}
    events = await streamed(front_end, path, body)
    whole = (await front_end.client.post(path, json=body)).json()["choices"][0]
    text = whole["text"] if path == COMPLETIONS else whole["message"]["content"]
    first_stop = stop[0] if isinstance(stop, list) else stop or "\0"
    assert text_of(events) == text == TEXT.partition(first_stop)[0]
    assert finishes_of(events)[-1] == whole["finish_reason"] == "stop"
    assert set(finishes_of(events)[:-1]) == {None}


async def test_one_chunk_with_text_per_token_whatever_the_burst(front_end):
    front_end.coordinator.model = say("the quick brown fox")
    front_end.coordinator.burst = 3
    events = await streamed(front_end, CHAT, chat(max_tokens=4))
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas == [
        {"role": "assistant", "content": "the"},
        {"content": " quick"},
        {"content": " brown"},
        {"content": " fox"},
    ]
    assert finishes_of(events) == [None, None, None, "length"]


async def test_a_matched_stop_string_aborts_the_rest(front_end):
    front_end.coordinator.pause_s = 0.01
    response = await front_end.client.post(
        COMPLETIONS, json=completion(max_tokens=60, stop="brown"), headers={"x-request-id": "stopping"}
    )
    assert response.json()["choices"][0]["text"] == "the quick "
    await until(lambda: front_end.coordinator.aborts == ["stopping"])


async def test_include_usage_puts_usage_into_a_last_chunk_without_choices(front_end):
    events = await streamed(
        front_end, COMPLETIONS, completion(max_tokens=5, stream_options={"include_usage": True})
    )
    assert all(event["usage"] is None for event in events[:-1])
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 5


async def test_without_stream_options_no_chunk_has_usage(front_end):
    assert not any(
        "usage" in event for event in await streamed(front_end, COMPLETIONS, completion(max_tokens=5))
    )


async def test_continuous_usage_counts_up_on_every_chunk(front_end):
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = await streamed(front_end, COMPLETIONS, completion(max_tokens=4, stream_options=options))
    assert [event["usage"]["completion_tokens"] for event in events] == [1, 2, 3, 4, 4]


@pytest.mark.parametrize("stream", [False, True])
async def test_three_choices_of_two_prompts_have_their_own_index_seed_and_text(front_end, stream):
    front_end.coordinator.model = lambda submit: (
        TOKENIZER.encode(f"{TOKENIZER.decode(submit.prompt)}, seed {submit.sampling.seed}").ids
    )
    body = completion(prompt=["fox", "dog"], n=3, seed=40, max_tokens=60)
    expected = [f"{word}, seed {seed}" for word in ("fox", "dog") for seed in (40, 41, 42)]
    if stream:
        events = await streamed(front_end, COMPLETIONS, body)
        assert [text_of(events, index) for index in range(6)] == expected
    else:
        response = (await front_end.client.post(COMPLETIONS, json=body)).json()
        assert [choice["text"] for choice in response["choices"]] == expected
        assert [choice["index"] for choice in response["choices"]] == list(range(6))
        assert response["usage"]["prompt_tokens"] == sum(
            len(TOKENIZER.encode(word).ids) for word in ("fox", "dog")
        )


async def test_what_was_asked_reaches_the_coordinator(front_end):
    body = completion(
        prompt=[5, 6, 7], temperature=0.5, top_p=0.9, top_k=7, seed=-1, max_tokens=9, ignore_eos=True
    )
    response = await front_end.client.post(COMPLETIONS, json=body, headers={"x-request-id": "mine"})
    (submit,) = front_end.coordinator.submits
    assert response.headers["x-request-id"] == submit.request_id == "mine"
    assert response.json()["id"] == "cmpl-mine"
    assert (submit.prompt, submit.max_tokens, submit.stop_token_ids) == ([5, 6, 7], 9, [])
    sampling = submit.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
    assert 0 <= sampling.seed < 2**63


async def test_defaults_are_those_of_openai(front_end):
    await front_end.client.post(COMPLETIONS, json={"model": "tiny", "prompt": "the"})
    (submit,) = front_end.coordinator.submits
    sampling = submit.sampling
    assert (submit.max_tokens, submit.stop_token_ids) == (16, [EOS])
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 1.0, 0)


async def test_the_default_length_shrinks_to_what_the_context_leaves(front_end):
    prompt = [5] * (CONTEXT_TOKENS - 3)
    response = await front_end.client.post(COMPLETIONS, json={"model": "tiny", "prompt": prompt})
    assert response.json()["usage"]["completion_tokens"] == 3


async def test_ignore_eos_goes_on_after_the_stop_token(front_end):
    front_end.coordinator.model = lambda _: [*TOKENIZER.encode("the").ids, EOS, *TOKENIZER.encode(" fox").ids]
    response = await front_end.client.post(COMPLETIONS, json=completion(ignore_eos=True))
    assert response.json()["choices"][0]["text"] == "the fox"


async def test_requests_of_one_id_are_told_apart(front_end):
    front_end.coordinator.gate.clear()
    try:
        body = completion(max_tokens=5)
        both = [
            asyncio.create_task(
                front_end.client.post(COMPLETIONS, json=body, headers={"x-request-id": "same"})
            )
            for _ in range(2)
        ]
        await until(lambda: len(front_end.coordinator.submits) == 2)
    finally:
        front_end.coordinator.gate.set()
    assert [(await one).status_code for one in both] == [200, 200]
    first, second = (submit.request_id for submit in front_end.coordinator.submits)
    assert first == "same"
    assert second.startswith("same-")


async def test_return_token_ids_gives_every_token_once_and_in_order(front_end):
    expected = [*TOKENIZER.encode(TEXT).ids, EOS]
    whole = (await front_end.client.post(COMPLETIONS, json=completion(return_token_ids=True))).json()
    assert whole["choices"][0]["token_ids"] == expected
    events = await streamed(front_end, COMPLETIONS, completion(return_token_ids=True))
    assert [token for event in events for token in event["choices"][0]["token_ids"]] == expected


async def test_the_model_list(front_end):
    (card,) = (await front_end.client.get("/v1/models")).json()["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("tiny", "model", CONTEXT_TOKENS)
    assert (await front_end.client.get("/v1/models/tiny")).json() == card


async def test_one_log_line_per_request_with_its_numbers(front_end):
    await front_end.client.post(
        COMPLETIONS, json=completion(max_tokens=3), headers={"x-request-id": "logged"}
    )
    await until(lambda: '"request_id": "logged"' in front_end.log_text())
    (line,) = (line for line in front_end.log_text().splitlines() if '"request_id": "logged"' in line)
    for part in ('"status": 200', '"output_tokens": 3', '"finish": "length"', '"ttft_ms"', '"tpot_ms"'):
        assert part in line


async def test_metrics_have_help_and_units(front_end):
    await front_end.client.post(COMPLETIONS, json=completion(max_tokens=3))
    text = (await front_end.client.get("/metrics")).text
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    helped = {
        line.split()[2] for line in text.splitlines() if line.startswith("# HELP") and len(line.split()) > 3
    }
    assert names == helped
    assert {
        "semipd_frontend_ttft_seconds",
        "semipd_frontend_tpot_seconds",
        "semipd_frontend_e2e_seconds",
    } <= names
    assert 'semipd_frontend_requests_total{status="200"}' in text


async def test_memory_stays_below_120_mb(front_end):
    assert rss_bytes(front_end.process.pid) < 120e6
