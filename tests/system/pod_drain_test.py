"""SIGTERM to real engine pods under load: what is told at once, what is served on, what is finished, and what is handed over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from api_server import API_SERVER_IS_BUILT, api_server_with_crds
from kept_connection import KeptConnection
from running_pod import RunningPod
from running_service import Completion
from service_endpoints import ClusterProxy, EndpointSlices, own_address, running_cluster_proxy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
    pytest.mark.skipif(own_address() is None, reason="this machine has no address but loopback"),
]
SHORT = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 3, "ignore_eos": True}


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with api_server_with_crds(tmp_path_factory.mktemp("api-server")) as path:
        yield path


def some_prompts(count: int) -> list[list[int]]:
    chooser = random.Random(1)
    return [[chooser.randrange(3, 384) for _ in range(30)] for _ in range(count)]


async def ask_until_refused(url: str) -> list[int]:
    """The status of one request after the other, by a client that keeps its connections, until there is no listener."""
    found = []
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        with contextlib.suppress(httpx.ConnectError):
            while True:
                found.append((await client.post("/v1/completions", json=SHORT)).status_code)
                await asyncio.sleep(0.2)
    return found


async def test_a_pod_is_not_ready_at_once_serves_who_does_not_know_yet_and_finishes_its_streams(
    tiny_llama_dir: Path, kubeconfig: Path, tmp_path: Path
) -> None:
    uri = f"file://{tiny_llama_dir}"
    async with contextlib.AsyncExitStack() as stack:
        running = RunningPod("one", tmp_path / "one", kubeconfig, uri, drain={"timeoutSeconds": 60})
        pod = stack.enter_context(running)
        pod.wait_ready()
        metrics = (await asyncio.to_thread(httpx.get, f"{pod.url}/metrics")).text
        assert 'vllm:num_requests_running{model_name="tiny"} 0.0' in metrics
        idle = await stack.enter_async_context(KeptConnection.open(pod.port))
        assert (await idle.ask("/v1/completions", json.dumps(SHORT).encode()))[0] == 200
        load = asyncio.create_task(pod.complete_all(some_prompts(12), 200))
        await pod.until_open(6)
        asking = asyncio.create_task(ask_until_refused(pod.url))
        pod.up.send_signal(signal.SIGTERM)
        await asyncio.to_thread(pod.wait_until, lambda: not pod.is_ready(), 60)
        late = await asyncio.to_thread(httpx.post, f"{pod.url}/v1/completions", json=SHORT, timeout=60)
        assert late.status_code == 200
        assert late.headers["connection"] == "close"
        assert await idle.is_closed(), "who has not asked since is told before it asks again"
        assert set(await asking) == {200}
        assert [each.finish for each in await load] == ["length"] * 12
        assert await asyncio.to_thread(pod.up.wait, 60) == 0


async def test_what_is_open_when_the_time_to_drain_is_over_is_told_so(
    tiny_llama_dir: Path, kubeconfig: Path, tmp_path: Path
) -> None:
    slow = {
        "mode": "Static",
        "initial": {"prefillPercent": 100, "decodePercent": 5},
        "bounds": {"decodeMinPercent": 5},
    }
    uri = f"file://{tiny_llama_dir}"
    spec = {"drain": {"timeoutSeconds": 1}, "partition": slow}
    with RunningPod("one", tmp_path / "one", kubeconfig, uri, **spec) as pod:
        pod.wait_ready()
        load = asyncio.create_task(pod.complete_all([[5, 6, 7]] * 60, 240))
        await pod.until_open(30)
        pod.up.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(pod.up.wait, 60) == 0
        cut = [each for each in await load if not each.is_complete]
        assert cut
        assert all("time to drain is over" in (each.error or "") or each.status == 503 for each in cut)


@contextlib.asynccontextmanager
async def proxied_pods(
    kubeconfig: Path, directory: Path, model_uri: str
) -> AsyncIterator[tuple[ClusterProxy, list[RunningPod], EndpointSlices]]:
    """Two pods that start together, and their proxy."""
    slices = EndpointSlices(kubeconfig, "tiny-engines")
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(slices.close)
        pods = [
            stack.enter_context(RunningPod(name, directory / name, kubeconfig, model_uri))
            for name in ("one", "two")
        ]
        for pod in pods:
            await asyncio.to_thread(pod.wait_ready)
        for pod in pods:
            slices.put(pod.name, pod.port, pod.agent_port)
        running = running_cluster_proxy(kubeconfig, directory, service="tiny-engines")
        proxy = await stack.enter_async_context(running)
        await proxy.until_upstreams("one", "two")
        yield proxy, pods, slices


async def complete_through(
    proxy: ClusterProxy, pod: RunningPod, prompts: list[list[int]], period_s: float
) -> list[Completion]:
    """Six at once every `period_s`, so that a fast machine too has several open. `pod` only reads the answers."""

    async def one(number: int, prompt: list[int]) -> Completion:
        await asyncio.sleep(number // 6 * period_s)
        return await pod.complete(proxy.client, prompt, 120)

    return await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts)))


async def test_a_rollout_behind_the_proxy_fails_no_request(
    tiny_llama_dir: Path, kubeconfig: Path, tmp_path: Path
) -> None:
    prompts = some_prompts(60)
    async with proxied_pods(kubeconfig, tmp_path, f"file://{tiny_llama_dir}") as (proxy, pods, slices):
        await proxy.until('semipd_proxy_upstream_load_known{upstream="one"}', 1)
        expected = await complete_through(proxy, pods[0], prompts, 0.0)
        assert [each.finish for each in expected] == ["length"] * len(prompts)
        load = asyncio.create_task(complete_through(proxy, pods[0], prompts, 1.5))
        await proxy.until('semipd_proxy_open_requests{upstream="one"}', 2)
        pods[0].up.send_signal(signal.SIGTERM)
        await proxy.until_upstreams("two")  # by the agent's word: the slice still says ready
        assert not load.done()
        slices.put("one", pods[0].port, pods[0].agent_port, terminating=True)
        found = await load
        assert [each.finish for each in found] == ["length"] * len(prompts)
        assert [each.token_ids for each in found] == [each.token_ids for each in expected]
        assert await asyncio.to_thread(pods[0].up.wait, 60) == 0


async def test_a_pod_that_is_killed_costs_only_the_streams_that_had_a_token(
    tiny_llama_dir: Path, kubeconfig: Path, tmp_path: Path
) -> None:
    prompts = some_prompts(40)
    async with proxied_pods(kubeconfig, tmp_path, f"file://{tiny_llama_dir}") as (proxy, pods, _):
        load = asyncio.create_task(complete_through(proxy, pods[0], prompts, 0.6))
        await proxy.until('semipd_proxy_open_requests{upstream="one"}', 2)
        pods[0].kill("frontend")
        found = await load
        broken = [each for each in found if not each.is_complete]
        assert all(each.token_ids and "ended in the middle" in (each.error or "") for each in broken)
        assert len(broken) < len(prompts) / 2
        refused = await proxy.metric("semipd_proxy_streams_cut_total")
        assert refused == len(broken)
