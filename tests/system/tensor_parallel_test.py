"""`semipd up` with two ranks to a lane: the agent knows of lanes alone, and nothing is lost when a rank or the agent dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from greedy_oracle import GreedyOracle
from running_service import RunningService, service_manifest

from semipd_agent.processes.identity import group_members

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TOKENS_EACH = 24
PROMPTS = [[5 + number, *range(40, 60 + number)] for number in range(6)]


@pytest.fixture(scope="module")
def oracle(tiny_llama_dir: Path) -> GreedyOracle:
    return GreedyOracle(
        transformers.AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    )


@pytest.fixture(scope="module")
def service(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    manifest = service_manifest(
        f"file://{tiny_llama_dir}", partition={"mode": "Static"}, resources={"gpusPerEngine": 2}
    )
    with RunningService(tmp_path_factory.mktemp("ranks"), manifest) as running:
        yield running


def ranks(service: RunningService, role: str) -> list[int]:
    """The first rank, which is the lane that the agent knows, and the others."""
    lane = service.pid(role)
    return [lane, *sorted(set(group_members(lane)) - {lane})]


async def complete(service: RunningService, oracle: GreedyOracle, load: asyncio.Task) -> None:
    for prompt, completion in zip(PROMPTS, await load, strict=True):
        assert completion.is_complete, completion
        assert len(completion.token_ids) == TOKENS_EACH
        oracle.check(prompt, completion.token_ids)


def start_load(service: RunningService) -> asyncio.Task:
    return asyncio.create_task(service.complete_all(PROMPTS, TOKENS_EACH, stagger_s=0.05))


async def test_a_live_switch_and_a_rank_that_dies_cost_no_token(
    service: RunningService, oracle: GreedyOracle
) -> None:
    before = ranks(service, "prefill")
    assert len(before) == 2
    load = start_load(service)
    response = await asyncio.to_thread(service.put_wish, 60, 100, "during-load")
    assert response.status_code == 200
    await asyncio.to_thread(service.wait_until, lambda: service.is_settled(60, 100), 90)
    await complete(service, oracle, load)
    after = ranks(service, "prefill")
    assert len(after) == 2
    assert not set(before) & set(after)
    load = start_load(service)
    [_, follower] = ranks(service, "decode")
    os.kill(follower, signal.SIGKILL)
    await complete(service, oracle, load)
    await asyncio.to_thread(service.wait_ready)
    assert len(ranks(service, "decode")) == 2


async def test_the_next_agent_adopts_a_lane_with_its_ranks(
    service: RunningService, oracle: GreedyOracle
) -> None:
    await asyncio.to_thread(service.wait_ready)
    before = [*ranks(service, "prefill"), *ranks(service, "decode")]
    assert len(before) == 4
    load = start_load(service)
    await asyncio.to_thread(service.kill, "agent")
    await complete(service, oracle, load)
    await asyncio.to_thread(service.wait_ready)
    assert [*ranks(service, "prefill"), *ranks(service, "decode")] == before
