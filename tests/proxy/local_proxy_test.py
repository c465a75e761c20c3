"""The local proxy before two real front ends: balance, retries, readiness, leaving clients, drain."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest
import pytest_asyncio
from fake_coordinator import say
from front_end_process import (
    RunningFrontEnd,
    completion,
    events_of,
    running_front_end,
    start_module,
    stop,
    until,
    wait_ready,
)

from semipd_core.proxy_config import ProxyConfig
from semipd_core.telemetry import EngineUsage

COMPLETIONS = "/v1/completions"


def slow(test: Callable[..., object]) -> Callable[..., object]:
    return pytest.mark.slow(pytest.mark.asyncio(loop_scope="module")(test))


@dataclass(slots=True, eq=False, kw_only=True)
class RunningProxy:
    process: asyncio.subprocess.Process
    client: httpx.AsyncClient
    front_ends: list[RunningFrontEnd]

    @property
    def num_submits(self) -> list[int]:
        return [len(one.coordinator.submits) for one in self.front_ends]

    def post(self, **fields: object) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.client.post(COMPLETIONS, json=completion(**fields)))


@contextlib.asynccontextmanager
async def running_proxy(directory: Path) -> AsyncIterator[RunningProxy]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with contextlib.AsyncExitStack() as stack:
        front_ends = []
        for index in range(2):
            (engine_directory := directory / f"engine-{index}").mkdir()
            front_ends.append(await stack.enter_async_context(running_front_end(engine_directory)))
        config = ProxyConfig(
            host="127.0.0.1",
            port=port,
            upstreams=[one.config.front_socket for one in front_ends],
            served_name="tiny",
            agent_lock=front_ends[0].config.agent_lock,
            error_file=str(directory / "error.json"),
        )
        (config_path := directory / "proxy.json").write_bytes(msgspec.json.encode(config))
        process, _ = await start_module("semipd_engine.proxy", config_path)
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20)
        )
        try:
            await wait_ready(client)
            yield RunningProxy(process=process, client=client, front_ends=front_ends)
        finally:
            await stop(process)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def processes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningProxy]:
    async with running_proxy(tmp_path_factory.mktemp("proxy")) as running:
        yield running


@pytest.fixture
def proxy(processes: RunningProxy) -> RunningProxy:
    """Shared by the tests that leave it as they found it."""
    for one in processes.front_ends:
        one.coordinator.reset()
    return processes


@slow
async def test_equal_engines_take_turns_and_a_loaded_one_is_spared(proxy):
    for _ in range(4):
        assert (await proxy.post()).status_code == 200
    assert proxy.num_submits == [2, 2]
    for one in proxy.front_ends:
        one.coordinator.gate.clear()
    waiting = [proxy.post(), proxy.post()]
    await until(lambda: proxy.num_submits == [3, 3])
    proxy.front_ends[1].coordinator.gate.set()
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for _ in range(3):
        assert (await proxy.post()).status_code == 200
    assert proxy.num_submits == [3, 6]
    proxy.front_ends[0].coordinator.gate.set()
    await asyncio.gather(*waiting)


@slow
async def test_a_stream_passes_unbuffered_with_its_headers(proxy):
    coordinators = [one.coordinator for one in proxy.front_ends]
    for one in coordinators:
        one.model = say("the quick brown fox")
        one.pause_s = 0.05
    body = completion(stream=True)
    headers = {"x-request-id": "through"}
    async with proxy.client.stream("POST", COMPLETIONS, json=body, headers=headers) as response:
        assert response.headers["x-request-id"] == "through"
        assert response.headers["content-type"].startswith("text/event-stream")
        assert len(response.headers.get_list("date")) == 1
        chunks = aiter(response.aiter_text())
        first = await anext(chunks)
        assert "the" in first
        assert sum(one.num_tokens_sent for one in coordinators) < 4
        text = first + "".join([chunk async for chunk in chunks])
    assert "".join(event["choices"][0]["text"] for event in events_of(text)) == "the quick brown fox"
    assert [one.submits[0].request_id for one in coordinators if one.submits] == ["through"]


@slow
async def test_a_client_that_leaves_the_proxy_leaves_the_engine(proxy):
    for one in proxy.front_ends:
        one.coordinator.gate.clear()
    answer = proxy.post(stream=True)
    await until(lambda: sum(proxy.num_submits) == 1)
    answer.cancel()
    await until(lambda: sum(len(one.coordinator.aborts) for one in proxy.front_ends) == 1)


@slow
async def test_a_front_end_that_dies_or_drains_before_its_first_byte_costs_nothing(tmp_path):
    async with running_proxy(tmp_path) as proxy:
        dying, living = proxy.front_ends
        dying.coordinator.gate.clear()
        answers = [proxy.post(stream=stream) for stream in (True, False)]
        await until(lambda: proxy.num_submits == [1, 1])
        dying.process.kill()
        assert [(await one).status_code for one in answers] == [200, 200]
        assert proxy.num_submits == [1, 2]
        assert all([(await proxy.post()).status_code == 200 for _ in range(3)])
        assert (await proxy.client.get("/ready")).status_code == 200
        await living.client.post("/internal/drain")
        refused = await proxy.post()
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "unavailable"
        assert "retry-after" in refused.headers
        await wait_ready(proxy.client, ready=False)


@slow
async def test_errors_pass_and_internal_paths_do_not(proxy):
    response = await proxy.post(n="x")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "n")
    assert (await proxy.client.get("/internal/window")).status_code == 404
    assert (await proxy.client.get("/v1/models")).json()["data"][0]["id"] == "tiny"
    assert (await proxy.client.get("/health")).status_code == 200
    metrics = (await proxy.client.get("/metrics")).text
    assert 'semipd_proxy_requests_total{status="400"} 1.0' in metrics
    assert 'semipd_proxy_upstream_ready{upstream="1"} 1.0' in metrics


@slow
async def test_an_endpoint_picker_finds_the_engines_of_the_pod_as_one(proxy):
    busy = EngineUsage(waiting=3, running=2, kv_blocks_total=100, kv_blocks_used=50, block_tokens=16)
    first, second = (one.coordinator for one in proxy.front_ends)
    first.usage = second.usage = busy
    metrics = (await proxy.client.get("/metrics")).text
    assert 'vllm:num_requests_waiting{model_name="tiny"} 6.0' in metrics
    assert 'vllm:kv_cache_usage_perc{model_name="tiny"} 0.5' in metrics
    second.usage = None
    assert 'vllm:num_requests_waiting{model_name="tiny"} 3.0' in (await proxy.client.get("/metrics")).text
    first.usage = None
    assert "vllm:" not in (await proxy.client.get("/metrics")).text


@slow
async def test_a_drain_finishes_what_is_open_and_exits_0(tmp_path):
    async with running_proxy(tmp_path) as proxy:
        for one in proxy.front_ends:
            one.coordinator.gate.clear()
        answer = proxy.post(stream=True)
        await until(lambda: sum(proxy.num_submits) == 1)
        proxy.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            with pytest.raises(httpx.ConnectError):
                while True:
                    await proxy.client.get("/health")
                    await asyncio.sleep(0.05)
        for one in proxy.front_ends:
            one.coordinator.gate.set()
        assert events_of((await answer).text)
        async with asyncio.timeout(10):
            assert await proxy.process.wait() == 0
