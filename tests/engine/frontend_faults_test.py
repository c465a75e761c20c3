"""Clients that leave, a coordinator that dies, a full queue, a drain, an agent that is gone."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
import pytest_asyncio
from fake_coordinator import TOKENIZER, say
from front_end_process import (
    RunningFrontEnd,
    build_config,
    chat,
    completion,
    events_of,
    running_front_end,
    start_module,
    until,
    until_no_listener,
    wait_ready,
)
from kept_connection import KeptConnection

from semipd_core import messages
from semipd_core.engine_config import SpecError
from semipd_core.telemetry import FrontEndReport, SloTargets

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
BODY = msgspec.json.encode(completion())
TEXT = "the quick brown fox jumps over the lazy dog, then rests"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningFrontEnd]:
    async with running_front_end(tmp_path_factory.mktemp("fe")) as running:
        yield running


@pytest.fixture
def front_end(process: RunningFrontEnd) -> RunningFrontEnd:
    """Shared by the tests that leave it as they found it."""
    process.coordinator.reset()
    return process


async def window(front_end: RunningFrontEnd) -> FrontEndReport:
    response = await front_end.client.get("/internal/window")
    return msgspec.json.decode(response.content, type=FrontEndReport)


async def test_it_is_not_ready_while_a_role_has_no_lane(front_end: RunningFrontEnd) -> None:
    front_end.coordinator.say_lanes(False)
    await wait_ready(front_end.client, ready=False)
    assert not (await window(front_end)).ready
    kept = asyncio.create_task(front_end.client.post(COMPLETIONS, json=completion()))
    front_end.coordinator.say_lanes(True)
    await wait_ready(front_end.client)
    assert (await kept).status_code == 200, "requests that come meanwhile are kept"


def total(report: FrontEndReport, name: str) -> int:
    return sum(getattr(slot, name) for slot in report.slots)


async def generations(front_end: RunningFrontEnd, finish: str) -> float:
    """Choices that have ended so, by the metrics."""
    text = (await front_end.client.get("/metrics")).text
    start = f'semipd_frontend_generations_total{{finish="{finish}"}} '
    return sum(float(line.removeprefix(start)) for line in text.splitlines() if line.startswith(start))


def post(
    front_end: RunningFrontEnd, request_id: str | None = None, **fields: object
) -> asyncio.Task[httpx.Response]:
    headers = {"x-request-id": request_id} if request_id else {}
    return asyncio.create_task(front_end.client.post(COMPLETIONS, json=completion(**fields), headers=headers))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("has_begun", [False, True])
async def test_a_client_that_leaves_is_aborted_at_once(front_end, stream, has_begun):
    coordinator = front_end.coordinator
    coordinator.pause_s = 0.05
    missed_before = total(await window(front_end), "missed")
    if not has_begun:
        coordinator.gate.clear()
    request_id = f"leaving-{stream}-{has_begun}"
    answer = post(front_end, request_id, stream=stream, n=2)
    await until(lambda: len(coordinator.submits) == 2 and coordinator.num_tokens_sent >= 2 * has_begun)
    answer.cancel()
    await until(lambda: len(coordinator.aborts) == 2)
    assert set(coordinator.aborts) == {submit.request_id for submit in coordinator.submits}
    await until(
        lambda: any(
            f'"request_id": "{request_id}"' in line and '"status": 499' in line
            for line in front_end.log_text().splitlines()
        )
    )
    report = await window(front_end)
    assert (report.open_requests, total(report, "missed")) == (0, missed_before)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_coordinator_that_dies_leaves_one_unbroken_text(front_end, stream):
    coordinator = front_end.coordinator
    coordinator.model = say(TEXT)
    coordinator.pause_s = 0.01
    answer = post(front_end, stream=stream)
    for _ in range(3):
        sent = coordinator.num_tokens_sent
        await until(lambda sent=sent: coordinator.num_tokens_sent >= sent + 2)
        await coordinator.crash()
        await wait_ready(front_end.client, ready=False)
        await coordinator.start()
        await wait_ready(front_end.client)
    response = await answer
    if stream:
        events = events_of(response.text)
        assert "".join(event["choices"][0]["text"] for event in events) == TEXT
    else:
        assert response.json()["choices"][0]["text"] == TEXT
    first, *again = coordinator.submits
    assert len(again) == 3
    ids = TOKENIZER.encode(TEXT).ids
    for submit in again:
        assert submit.generated == ids[: len(submit.generated)] != []
        assert msgspec.structs.replace(submit, generated=[]) == first  # the seed too


async def test_a_request_that_comes_while_the_coordinator_is_away_waits_for_it(front_end):
    await front_end.coordinator.crash()
    await wait_ready(front_end.client, ready=False)
    answer = post(front_end)
    await asyncio.sleep(0.1)
    await front_end.coordinator.start()
    assert (await answer).status_code == 200


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (500, "server_error")],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_coordinator_cannot_serve_keeps_its_status(front_end, stream, status, kind):
    front_end.coordinator.refuse = messages.Failed(request_id="", status=status, message="12 blocks, 9 exist")
    errors_before = await generations(front_end, "error")
    response = await post(front_end, stream=stream)
    assert response.status_code == status
    assert response.json()["error"]["message"] == "12 blocks, 9 exist"
    assert response.json()["error"]["type"] == kind
    assert await generations(front_end, "error") == errors_before + 1
    front_end.coordinator.refuse = None
    assert (await post(front_end)).status_code == 200


async def fail_after_a_token(front_end: RunningFrontEnd, *, stream: bool) -> httpx.Response:
    coordinator = front_end.coordinator
    coordinator.pause_s = 0.02
    answer = post(front_end, stream=stream)
    await until(lambda: coordinator.num_tokens_sent >= 1)
    await coordinator.crash()
    coordinator.refuse = messages.Failed(request_id="", status=500, message="killed two lanes")
    await coordinator.start()
    return await answer


async def test_a_failure_after_the_first_token_ends_the_stream_with_an_error_event(front_end):
    errored_before = total(await window(front_end), "errored")
    cut_before = await generations(front_end, "cut")
    events = events_of((await fail_after_a_token(front_end, stream=True)).text)
    assert events[-1]["error"]["message"] == "killed two lanes"
    assert total(await window(front_end), "errored") == errored_before + 1
    assert await generations(front_end, "cut") == cut_before + 1


async def test_an_answer_that_is_no_stream_is_not_cut_but_refused_as_a_whole(front_end):
    errors_before, cut_before = [await generations(front_end, finish) for finish in ("error", "cut")]
    assert (await fail_after_a_token(front_end, stream=False)).status_code == 500
    assert await generations(front_end, "error") == errors_before + 1
    assert await generations(front_end, "cut") == cut_before


async def test_a_full_queue_refuses_with_retry_after_until_a_first_token_comes(tmp_path):
    async with running_front_end(tmp_path, max_queued_requests=2) as front_end:
        coordinator = front_end.coordinator
        coordinator.gate.clear()
        waiting = [post(front_end), post(front_end)]
        await until(lambda: len(coordinator.submits) == 2)
        report = await window(front_end)
        assert (report.open_requests, report.queued_requests) == (2, 2)
        refused = await post(front_end)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert "2 requests wait" in refused.json()["error"]["message"]
        coordinator.gate.set()
        assert [(await one).status_code for one in waiting] == [200, 200]
        assert (await post(front_end)).status_code == 200
        report = await window(front_end)
        counts = [total(report, name) for name in ("arrived", "rejected", "missed", "attained", "completed")]
        assert counts == [4, 1, 1, 3, 3]


async def test_an_open_request_past_its_target_counts_as_missed_before_it_ends(tmp_path):
    slo = SloTargets(ttft_percentile=90, ttft_ms=50, tpot_percentile=90, tpot_ms=1000)
    async with running_front_end(tmp_path, slo=slo) as front_end:
        front_end.coordinator.gate.clear()
        answer = post(front_end)
        async with asyncio.timeout(10):
            while total(report := await window(front_end), "missed_ttft") == 0:
                await asyncio.sleep(0.05)
        assert report.open_requests == 1
        front_end.coordinator.gate.set()
        await answer
        report = await window(front_end)
        assert [total(report, name) for name in ("missed", "attained", "completed")] == [1, 0, 1]


async def test_the_window_counts_tokens(front_end):
    names = ("prompt_tokens", "cached_tokens", "output_tokens")
    before = await window(front_end)
    front_end.coordinator.cached_tokens = 2
    await post(front_end, prompt=[5, 6, 7], max_tokens=4)
    after = await window(front_end)
    assert after.ready
    assert [total(after, name) - total(before, name) for name in names] == [3, 2, 4]


@pytest.mark.parametrize("how", ["SIGTERM", "HTTP"])
async def test_a_drain_is_not_ready_at_once_and_finishes_what_is_open(tmp_path, how):
    async with running_front_end(tmp_path) as front_end:
        front_end.coordinator.gate.clear()
        answer = post(front_end, stream=True)
        await until(lambda: len(front_end.coordinator.submits) == 1)
        if how == "HTTP":
            drained = await front_end.client.post("/internal/drain")
            assert drained.json() == {"openRequests": 1}
        else:
            front_end.process.send_signal(signal.SIGTERM)
            await wait_ready(front_end.client, ready=False)
        assert (await front_end.client.get("/ready")).status_code == 503
        refused = await post(front_end)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        front_end.coordinator.gate.set()
        assert events_of((await answer).text)
        front_end.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await front_end.process.wait() == 0
        assert not Path(front_end.config.front_socket).exists()


@contextlib.asynccontextmanager
async def public_front_end(directory: Path) -> AsyncIterator[tuple[RunningFrontEnd, int]]:
    """With its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with running_front_end(directory, host="127.0.0.1", port=port) as front_end:
        yield front_end, port


async def test_a_drain_closes_idle_connections_after_the_lag_and_answers_on_the_others(
    tmp_path: Path,
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        front_end, port = await stack.enter_async_context(public_front_end(tmp_path))
        idle, late, open_one = [await stack.enter_async_context(KeptConnection.open(port)) for _ in range(3)]
        assert [(await each.ask(COMPLETIONS, BODY))[0] for each in (idle, late, open_one)] == [200] * 3
        front_end.coordinator.gate.clear()
        open_one.send_head(COMPLETIONS, BODY)
        open_one.send(BODY)
        late.send_head(COMPLETIONS, BODY)
        await until(lambda: len(front_end.coordinator.submits) == 4)
        assert (await front_end.client.post("/internal/drain", params={"lagSeconds": 0})).is_success
        assert await idle.is_closed()
        await until_no_listener(port)
        late.send(BODY)
        await until(lambda: len(front_end.coordinator.submits) == 5)
        front_end.coordinator.gate.set()
        for each in (open_one, late):
            status, headers = await each.answer()
            assert (status, headers["connection"]) == (200, "close")
            assert await each.is_closed()
        front_end.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await front_end.process.wait() == 0


async def test_a_stream_that_began_before_the_drain_is_finished_and_its_connection_closed(
    tmp_path: Path,
) -> None:
    async with public_front_end(tmp_path) as (front_end, port):
        front_end.coordinator.model = say("the quick brown fox " * 8)
        front_end.coordinator.pause_s = 0.1
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            request = client.stream("POST", COMPLETIONS, json=completion(stream=True))
            async with request as answer:
                chunks = answer.aiter_text()
                text = await anext(chunks)
                await front_end.client.post("/internal/drain")
                await until_no_listener(port)
                text += "".join([chunk async for chunk in chunks])
            assert answer.status_code == 200
            assert events_of(text)
            with pytest.raises(httpx.TransportError):  # refused, or closed while it is asked
                await client.get("/health")


async def test_who_does_not_know_yet_is_served_for_the_lag_of_the_drain(tmp_path: Path) -> None:
    async with public_front_end(tmp_path) as (front_end, port), KeptConnection.open(port) as kept:
        assert (await kept.ask(COMPLETIONS, BODY))[0] == 200
        await front_end.client.post("/internal/drain", params={"lagSeconds": 60})
        async with KeptConnection.open(port) as late:
            for each in (kept, late):
                status, headers = await each.ask(COMPLETIONS, BODY)
                assert (status, headers["connection"]) == (200, "close")
                assert await each.is_closed()


async def test_a_stream_that_ends_within_the_lag_is_the_last_of_its_connection(tmp_path: Path) -> None:
    """Its head left before the drain and could not say so; a client that kept the connection would be reset later."""
    async with public_front_end(tmp_path) as (front_end, port), KeptConnection.open(port) as kept:
        front_end.coordinator.model = say("the quick brown fox " * 8)
        front_end.coordinator.pause_s = 0.05
        body = msgspec.json.encode(completion(stream=True))
        kept.send_head(COMPLETIONS, body)
        kept.send(body)
        async with asyncio.timeout(20):
            head = await kept.reader.readuntil(b"\r\n\r\n")
            assert b"connection: close" not in head.lower()
            await front_end.client.post("/internal/drain", params={"lagSeconds": 60})
            assert (await kept.reader.read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_an_api_key_guards_v1_and_nothing_else(tmp_path):
    async with running_front_end(tmp_path, api_key="s3cret") as front_end:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}):
            response = await front_end.client.post(COMPLETIONS, json=completion(), headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
        assert (await front_end.client.get("/v1/models")).status_code == 401
        right = {"authorization": "Bearer s3cret"}
        assert (await front_end.client.post(CHAT, json=chat(), headers=right)).status_code == 200
        assert (await front_end.client.get("/health")).status_code == 200


async def test_tcp_serves_the_api_but_not_the_internal_paths(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with (
        running_front_end(tmp_path, host="127.0.0.1", port=port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        assert (await client.post(COMPLETIONS, json=completion())).status_code == 200
        assert (await client.get("/internal/window")).status_code == 404
        assert (await client.post("/internal/drain")).status_code == 404
        assert (await client.get("/ready")).status_code == 200


async def test_a_port_in_use_is_exit_code_2_and_a_message_with_the_field(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = build_config(tmp_path, host="127.0.0.1", port=taken.getsockname()[1])
        config_path = tmp_path / "engine.json"
        config_path.write_bytes(msgspec.json.encode(config))
        process, _ = await start_module("semipd_engine.frontend", config_path)
        async with asyncio.timeout(20):
            assert await process.wait() == 2
    error = msgspec.json.decode(Path(config.error_file).read_bytes(), type=SpecError)
    assert error.path == "port"
    assert error.given == f"127.0.0.1:{config.port}"
    assert "in use" in error.allowed


async def test_before_the_model_is_there_it_lives_but_is_not_ready(tmp_path):
    config = build_config(tmp_path)
    config_path = tmp_path / "engine.json"
    config_path.write_bytes(msgspec.json.encode(config))
    process, _ = await start_module("semipd_engine.frontend", config_path)
    transport = httpx.AsyncHTTPTransport(uds=config.front_socket)
    async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
        await wait_ready(client, ready=False)
        assert (await client.get("/health")).status_code == 200
        response = await client.post(COMPLETIONS, json=completion())
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
