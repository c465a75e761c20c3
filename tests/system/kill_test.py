"""kill -9 of each process in turn, under load: what clients see, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from greedy_oracle import GreedyOracle
from running_service import RunningService, service_manifest

from semipd_shell import failpoints

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TOKENS_EACH = 60


@pytest.fixture(scope="module")
def oracle(tiny_llama_dir: Path) -> GreedyOracle:
    return GreedyOracle(
        transformers.AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    )


@pytest.fixture(scope="module")
def service(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    static = {"mode": "Static"}  # a switch of a loop's own would replace a lane
    manifest = service_manifest(f"file://{tiny_llama_dir}", partition=static)
    with RunningService(tmp_path_factory.mktemp("kill"), manifest) as running:
        yield running


def make_prompts(seed: int, count: int = 12) -> list[list[int]]:
    chooser = random.Random(seed)
    return [[chooser.randrange(3, 384) for _ in range(chooser.randint(4, 80))] for _ in range(count)]


async def under_load(service: RunningService, seed: int, kill_at_s: tuple[float, ...], role: str) -> list:
    """The completions of a staggered load during which `role` is killed at each of `kill_at_s`."""
    prompts = make_prompts(seed)
    load = asyncio.create_task(service.complete_all(prompts, TOKENS_EACH, stagger_s=0.05))
    last_s = 0.0
    for at_s in kill_at_s:
        await asyncio.sleep(at_s - last_s)
        last_s = at_s
        await asyncio.to_thread(service.kill, role)
    return list(zip(prompts, await load, strict=True))


@pytest.mark.parametrize("role", ["prefill", "decode", "coordinator", "memory", "agent", "zygote"])
async def test_every_request_completes_with_its_tokens_when_this_dies(
    role: str, service: RunningService, oracle: GreedyOracle
) -> None:
    await asyncio.to_thread(service.wait_ready)
    before = service.status()
    for prompt, completion in await under_load(service, sum(map(ord, role)), (0.3,), role):
        assert completion.is_complete, (role, completion)
        assert len(completion.token_ids) == TOKENS_EACH
        oracle.check(prompt, completion.token_ids)
    await asyncio.to_thread(service.wait_ready)
    if role == "agent":
        survivors = {each["pid"] for each in before["engines"][0]["processes"]}
        assert survivors == {each["pid"] for each in service.status()["engines"][0]["processes"]}


async def test_connections_close_when_the_front_end_dies_and_it_is_ready_again(
    service: RunningService,
) -> None:
    await asyncio.to_thread(service.wait_ready)
    outcomes = await under_load(service, 7, (0.4,), "frontend")
    assert any(completion.error for _, completion in outcomes), "somebody was cut off"
    await asyncio.to_thread(service.wait_ready)
    [completion] = await service.complete_all(make_prompts(8, 1), 5)
    assert completion.is_complete


def engine_failpoints() -> list[str]:
    return sorted(name for name in failpoints.FAILPOINTS if not name.startswith("agent."))


@pytest.mark.parametrize("name", engine_failpoints())
async def test_every_request_completes_when_a_process_dies_at(
    name: str, tiny_llama_dir: Path, tmp_path: Path, oracle: GreedyOracle
) -> None:
    """Generated from the table of failpoints: each boundary of the message exchange, in the middle of traffic."""
    (tmp_path / "once").mkdir()
    passes = {"lane.layer_computed": 40, "lane.turn_held": 40}.get(name, 1 if _is_rare(name) else 6)
    manifest = service_manifest(f"file://{tiny_llama_dir}")
    environment = {
        failpoints.ENVIRONMENT: f"{name}={passes}",
        failpoints.ONCE_ENVIRONMENT: str(tmp_path / "once"),
    }
    with RunningService(tmp_path, manifest, **environment) as service:
        prompts = make_prompts(seed=5, count=6)
        load = asyncio.create_task(service.complete_all(prompts, 20, stagger_s=0.02))
        await asyncio.sleep(0.1)
        response = await asyncio.to_thread(service.put_wish, 60, 100, "during-load")
        assert response.status_code == 200
        completions = await load
        await asyncio.to_thread(service.wait_until, lambda: service.is_settled(60, 100))
        assert (tmp_path / "once" / name).exists(), "the place was never passed"
    for prompt, completion in zip(prompts, completions, strict=True):
        assert completion.is_complete, completion
        oracle.check(prompt, completion.token_ids)


def _is_rare(name: str) -> bool:
    """Places that a process passes once in its life, or once in a switch."""
    return not name.startswith(
        ("coordinator.plan", "coordinator.result", "coordinator.tokens", "lane.plan", "lane.result")
    )


async def test_a_request_that_kills_two_lanes_gets_a_500_and_the_others_go_on(
    tiny_llama_dir: Path, tmp_path: Path, oracle: GreedyOracle
) -> None:
    manifest = service_manifest(f"file://{tiny_llama_dir}")
    poison = 383
    with RunningService(tmp_path, manifest, **{failpoints.POISON_ENVIRONMENT: str(poison)}) as service:
        prompts = [[token for token in prompt if token != poison] for prompt in make_prompts(9, 8)]
        poisoned = [*prompts[:4], [5, poison, 6], *prompts[4:]]
        completions = await service.complete_all(poisoned, 30, stagger_s=0.05)
        killer = completions.pop(4)
        assert not killer.is_complete
        assert killer.status == 500 or "500" in (killer.error or ""), killer
        for prompt, completion in zip(prompts, completions, strict=True):
            if poison in completion.token_ids:
                continue
            assert completion.is_complete, completion
            oracle.check(prompt, completion.token_ids)
        assert await asyncio.to_thread(service.wait_ready) < 30
