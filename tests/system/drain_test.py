"""SIGTERM under load: not ready at once, open requests finish, exit 0, nothing left."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import httpx
import pytest
from running_service import RunningService, service_manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    "replicas", [pytest.param(1, id="one engine"), pytest.param(2, id="two engines and a proxy")]
)
async def test_open_requests_finish_within_the_drain_time(
    replicas: int, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    chooser = random.Random(1)
    prompts = [[chooser.randrange(3, 384) for _ in range(30)] for _ in range(40)]
    manifest = service_manifest(f"file://{tiny_llama_dir}", replicas=replicas, drain={"timeoutSeconds": 60})
    with RunningService(tmp_path, manifest) as service:
        load = asyncio.create_task(service.complete_all(prompts, 220))
        await service.until_open(len(prompts) // 2)
        service.up.send_signal(signal.SIGTERM)
        await asyncio.to_thread(service.wait_until, lambda: not is_ready(service), 60)
        assert not load.done(), "the load must outlast the signal for this to mean anything"
        completions = await load
        assert [each.finish for each in completions] == ["length"] * len(prompts)
        assert await asyncio.to_thread(service.up.wait, 60) == 0


def is_ready(service: RunningService) -> bool:
    try:
        return httpx.get(f"{service.url}/ready", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


async def test_a_drain_time_that_is_too_short_cuts_what_is_left(tiny_llama_dir: Path, tmp_path: Path) -> None:
    slow = {
        "mode": "Static",
        "initial": {"prefillPercent": 100, "decodePercent": 5},
        "bounds": {"decodeMinPercent": 5},
    }
    manifest = service_manifest(f"file://{tiny_llama_dir}", drain={"timeoutSeconds": 1}, partition=slow)
    with RunningService(tmp_path, manifest) as service:
        load = asyncio.create_task(service.complete_all([[5, 6, 7]] * 40, 240))
        await service.until_open(20)
        started_s = time.monotonic()
        service.up.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(service.up.wait, 60) == 0
        assert time.monotonic() - started_s < 30
        assert any(not each.is_complete for each in await load)


@pytest.mark.parametrize(
    ("is_draining", "replicas"),
    [
        pytest.param(False, 1, id="before the signal, one engine"),
        pytest.param(True, 2, id="while it drains, two engines and a proxy"),
    ],
)
async def test_open_requests_finish_though_the_agent_dies(
    is_draining: bool, replicas: int, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    chooser = random.Random(2)
    prompts = [[chooser.randrange(3, 384) for _ in range(30)] for _ in range(40)]
    manifest = service_manifest(f"file://{tiny_llama_dir}", replicas=replicas, drain={"timeoutSeconds": 120})
    with RunningService(tmp_path, manifest) as service:
        load = asyncio.create_task(service.complete_all(prompts, 220))
        await service.until_open(len(prompts) // 2)
        agent_pid = service.pid("agent")
        if is_draining:
            service.up.send_signal(signal.SIGTERM)
            await asyncio.to_thread(service.wait_until, lambda: not is_ready(service), 60)
        os.kill(agent_pid, signal.SIGKILL)
        if not is_draining:
            service.up.send_signal(signal.SIGTERM)
        assert not load.done(), "the load must outlast the agent for this to mean anything"
        completions = await load
        assert [each.finish for each in completions] == ["length"] * len(prompts)
        assert await asyncio.to_thread(service.up.wait, 120) == 0
