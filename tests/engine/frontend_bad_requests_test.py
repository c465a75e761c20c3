"""Every bad request gets an OpenAI error body that names the field, what was given and what is allowed; the server lives on."""

# ruff: noqa: E501  # one row of the table a line

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from fake_coordinator import TOKENIZER
from front_end_process import CONTEXT_TOKENS, RunningFrontEnd, chat, completion, running_front_end

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
TOO_LONG = list(range(10, 20)) * (CONTEXT_TOKENS // 10 + 1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def front_end(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningFrontEnd]:
    async with running_front_end(tmp_path_factory.mktemp("fe"), max_queued_requests=8) as running:
        yield running


@pytest.mark.parametrize(
    ("path", "body", "param", "wording"),
    [
        pytest.param(COMPLETIONS, completion(n="3"), "n", "got '3', allowed: int or null", id="n as text"),
        pytest.param(COMPLETIONS, completion(n=True), "n", "got True, allowed: int", id="n as boolean"),
        pytest.param(COMPLETIONS, completion(n=0), "n", "got 0, allowed: 1..8", id="n below"),
        pytest.param(COMPLETIONS, completion(n=9), "n", "got 9, allowed: 1..8", id="n above"),
        pytest.param(COMPLETIONS, completion(n=5, prompt=["a", "b"]), "n", "10 choices in all", id="more choices than the queue holds"),
        pytest.param(COMPLETIONS, completion(max_tokens=0), "max_tokens", "got 0, allowed: 1 or more", id="no tokens wanted"),
        pytest.param(COMPLETIONS, completion(max_tokens=1.5), "max_tokens", "got 1.5, allowed: int", id="half a token"),
        pytest.param(COMPLETIONS, completion(max_tokens=CONTEXT_TOKENS), "max_tokens", f"allowed: 1..{CONTEXT_TOKENS - 1}", id="more tokens than the context leaves"),
        pytest.param(COMPLETIONS, completion(temperature=-0.1), "temperature", "got -0.1, allowed: 0..2", id="cold"),
        pytest.param(COMPLETIONS, completion(temperature=2.5), "temperature", "got 2.5, allowed: 0..2", id="hot"),
        pytest.param(COMPLETIONS, completion(temperature="hot"), "temperature", "got 'hot', allowed: float", id="temperature as text"),
        pytest.param(COMPLETIONS, completion(top_p=0), "top_p", "above 0, up to 1", id="top_p of nothing"),
        pytest.param(COMPLETIONS, completion(top_p=1.01), "top_p", "got 1.01", id="top_p above one"),
        pytest.param(COMPLETIONS, completion(top_k=-2), "top_k", "got -2", id="negative top_k"),
        pytest.param(COMPLETIONS, completion(seed=2**63), "seed", "64-bit", id="seed too wide"),
        pytest.param(COMPLETIONS, completion(seed=10**30), "seed", "64-bit", id="seed of thirty digits"),
        pytest.param(COMPLETIONS, completion(stop=["a"] * 5), "stop", "got '5 strings', allowed: up to 4", id="five stop strings"),
        pytest.param(COMPLETIONS, completion(stop=["a", ""]), "stop[1]", "1..256 characters", id="an empty stop string"),
        pytest.param(COMPLETIONS, completion(stop=[1]), "stop[0]", "got 1, allowed: str", id="a number as stop string"),
        pytest.param(COMPLETIONS, completion(ignore_eos="yes"), "ignore_eos", "got 'yes', allowed: bool", id="ignore_eos as text"),
        pytest.param(COMPLETIONS, completion(stream=1), "stream", "got 1, allowed: bool", id="stream as number"),
        pytest.param(COMPLETIONS, completion(stream_options={"include_usage": True}), "stream_options", "only with stream: true", id="stream_options without stream"),
        pytest.param(COMPLETIONS, completion(stream=True, stream_options={"include_usage": 1}), "stream_options.include_usage", "got 1", id="nested field"),
        pytest.param(COMPLETIONS, {"model": "tiny"}, "prompt", "required", id="no prompt"),
        pytest.param(COMPLETIONS, {"prompt": "a"}, "model", "required", id="no model"),
        pytest.param(COMPLETIONS, completion(model=7), "model", "got 7, allowed: str", id="model as number"),
        pytest.param(COMPLETIONS, completion(prompt=None), "prompt", "got None", id="null prompt"),
        pytest.param(COMPLETIONS, completion(prompt=[]), "prompt", "got []", id="list of no prompts"),
        pytest.param(COMPLETIONS, completion(prompt=""), "prompt", "0 tokens", id="empty prompt"),
        pytest.param(COMPLETIONS, completion(prompt=["a", [1]]), "prompt[1]", "same type as prompt[0]", id="text and ids mixed"),
        pytest.param(COMPLETIONS, completion(prompt=[1, "a"]), "prompt[1]", "a token id", id="text among ids"),
        pytest.param(COMPLETIONS, completion(prompt=[[1], [1, -1]]), "prompt[1][1]", "got -1", id="negative id in the second prompt"),
        pytest.param(COMPLETIONS, completion(prompt=[5, TOKENIZER.get_vocab_size()]), "prompt[1]", f"0..{TOKENIZER.get_vocab_size() - 1}", id="id outside the vocabulary"),
        pytest.param(COMPLETIONS, completion(prompt=TOO_LONG), "prompt", f"got '{len(TOO_LONG)} tokens', allowed: 1..{CONTEXT_TOKENS - 1}", id="prompt ids longer than the context"),
        pytest.param(COMPLETIONS, completion(prompt="fox " * 200), "prompt", "the context holds 128", id="prompt text longer than the context"),
        pytest.param(COMPLETIONS, completion(prompt=[["x"] * 70]), "prompt[0][0]", "got 'x'", id="texts two levels deep"),
        pytest.param(COMPLETIONS, completion(prompt=["x"] * 65), "prompt", "up to 64", id="65 prompts"),
        pytest.param(COMPLETIONS, completion(logprobs=2), "logprobs", "got 2", id="logprobs"),
        pytest.param(COMPLETIONS, completion(echo=True), "echo", "not supported", id="echo"),
        pytest.param(COMPLETIONS, completion(best_of=3, n=2), "best_of", "got 3, allowed: absent or 2", id="best_of above n"),
        pytest.param(COMPLETIONS, completion(presence_penalty=0.5), "presence_penalty", "got 0.5, allowed: absent or 0", id="presence penalty"),
        pytest.param(COMPLETIONS, completion(logit_bias={"5": 1}), "logit_bias", "not supported", id="logit bias"),
        pytest.param(CHAT, chat(tools=[{"type": "function"}]), "tools", "not supported", id="tools"),
        pytest.param(CHAT, chat(response_format={"type": "json_object"}), "response_format", "json_object", id="JSON mode"),
        pytest.param(CHAT, chat(logprobs=True), "logprobs", "got True", id="chat logprobs"),
        pytest.param(CHAT, chat(max_completion_tokens=-1), "max_completion_tokens", "got -1", id="negative max_completion_tokens"),
        pytest.param(CHAT, chat(max_completion_tokens=500), "max_completion_tokens", "the context holds 128 tokens", id="more chat tokens than the context leaves"),
        pytest.param(CHAT, {"model": "tiny", "messages": []}, "messages", "at least one", id="no messages"),
        pytest.param(CHAT, {"model": "tiny", "messages": "hi"}, "messages", "got 'hi', allowed: array", id="messages as text"),
        pytest.param(CHAT, {"model": "tiny", "messages": [{"role": "robot", "content": "a"}]}, "messages[0].role", "got 'robot', allowed: 'system'", id="unknown role"),
        pytest.param(CHAT, {"model": "tiny", "messages": [{"content": "a"}]}, "messages[0].role", "required", id="no role"),
        pytest.param(CHAT, {"model": "tiny", "messages": [{"role": "user"}]}, "messages[0].content", "got None", id="no content"),
        pytest.param(CHAT, {"model": "tiny", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type", "got 'image_url', allowed: 'text'", id="an image"),
        pytest.param(CHAT, {"model": "tiny", "messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}, "messages[0].content[0].text", "got 3", id="a text part that is a number"),
        pytest.param(CHAT, {"model": "tiny", "messages": [{"role": "user", "content": "a"}] * 2}, "messages", "roles must alternate", id="what the template refuses"),
        pytest.param(CHAT, chat("fox " * 200), "messages", "the context holds 128", id="chat longer than the context"),
    ],
)  # fmt: skip
async def test_a_bad_field_is_named(front_end, path, body, param, wording):
    response = await front_end.client.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["param"] == param
    assert wording in error["message"]
    assert error["type"] == "invalid_request_error"
    assert front_end.coordinator.submits == []


@pytest.mark.parametrize(
    ("body", "wording"),
    [
        pytest.param(b"", "not valid JSON", id="nothing"),
        pytest.param(b'{"model": "tiny"', "truncated", id="cut off"),
        pytest.param(b"{'model': 'tiny'}", "malformed", id="single quotes"),
        pytest.param(b'{"model": "\xff"}', "not valid JSON", id="not UTF-8"),
        pytest.param(b'{"model": "tiny", "prompt": "\\ud800"}', "not valid JSON", id="half a surrogate pair"),
        pytest.param(b'{"temperature": 1e999}', "not valid JSON", id="a number beyond floats"),
        pytest.param(b'{"temperature": NaN}', "malformed", id="NaN"),
        pytest.param(b"[1]", "a JSON list, allowed: one JSON object", id="a list"),
        pytest.param(b'{"a":' * 5000, "nested too deeply", id="nested beyond reason"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(front_end, body, wording):
    response = await front_end.client.post(COMPLETIONS, content=body)
    assert response.status_code == 400
    assert wording in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("GET", "/v1/nothing", 404, id="unknown path"),
        pytest.param("GET", COMPLETIONS, 405, id="wrong method"),
        pytest.param("GET", "/v1/models/other", 404, id="card of an unknown model"),
    ],
)
async def test_wrong_addresses_get_an_error_body_too(front_end, method, path, status):
    response = await front_end.client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_an_unknown_model_is_not_found(front_end, path):
    body = {"model": "gpt-5", "prompt": "a", "messages": [{"role": "user", "content": "a"}]}
    response = await front_end.client.post(path, json=body)
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": "model: got 'gpt-5', allowed: 'tiny'",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


async def test_fields_that_ask_for_nothing_are_accepted_after_all_that(front_end):
    inert = {
        "logprobs": None, "echo": False, "best_of": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {},
        "suffix": None, "user": "me", "some_field_of_tomorrow": 1, "stop": None, "top_k": -1, "seed": None,
    }  # fmt: skip
    response = await front_end.client.post(COMPLETIONS, json=completion(**inert))
    assert response.status_code == 200, response.text
    inert = {
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "logprobs": False,
        "store": True,
    }
    response = await front_end.client.post(CHAT, json=chat(**inert))
    assert response.status_code == 200, response.text
    front_end.coordinator.submits.clear()
