"""A lane kept warm, in a whole service: going back to its share under streams loses nothing and starts nothing."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from greedy_oracle import GreedyOracle
from running_service import Completion, RunningService, service_manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TOKENS = 100
DEADLINE_S = 90.0


class Load:
    """Streams, one round after the other, until it is told to end; at least one round."""

    def __init__(self, service: RunningService) -> None:
        chooser = random.Random(12)
        lengths = [chooser.randint(4, 60) for _ in range(4)]
        self._prompts = [[chooser.randrange(3, 384) for _ in range(length)] for length in lengths]
        self._service = service
        self.is_ending = False
        self.answers: list[tuple[list[int], Completion]] = []

    async def run(self) -> None:
        while not (self.is_ending and self.answers):
            completions = await self._service.complete_all(self._prompts, TOKENS, stagger_s=0.02)
            self.answers += zip(self._prompts, completions, strict=True)


def decode_lanes(service: RunningService) -> dict[tuple[int, bool], int]:
    """Pids by share and whether the lane stands by."""
    found: list[dict[str, Any]] = service.status()["engines"][0]["processes"]
    return {
        (each["requestedPercent"], each["standby"]): each["pid"] for each in found if each["role"] == "decode"
    }


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def test_a_switch_there_and_back_under_streams_uses_the_warm_lane_and_loses_no_token(
    tiny_llama_dir: Path, tmp_path: Path
) -> None:
    oracle = GreedyOracle(
        transformers.AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    )
    partition = {"mode": "Static", "initial": {"prefillPercent": 80, "decodePercent": 80}}
    manifest = service_manifest(f"file://{tiny_llama_dir}", partition=partition)
    with RunningService(tmp_path, manifest, SEMIPD_STANDBY_LANES="2") as service:
        at_80 = decode_lanes(service)[80, False]
        load = Load(service)
        streaming = asyncio.create_task(load.run())
        await service.until_open(1)
        for percent in (60, 80):
            assert service.put_wish(80, percent, f"to-{percent}").status_code == 200
            is_settled = partial(service.is_settled, 80, percent)
            await asyncio.to_thread(service.wait_until, is_settled, DEADLINE_S)
        waiting = decode_lanes(service)[60, True]
        before, busy_before = cpu_ticks(waiting), cpu_ticks(at_80)
        load.is_ending = True
        await streaming
        idle, busy = cpu_ticks(waiting) - before, cpu_ticks(at_80) - busy_before
        assert idle <= max(3, busy // 5), "a lane that stands by costs no CPU"
        assert decode_lanes(service) == {(80, False): at_80, (60, True): waiting}, (
            "no lane was started for 80"
        )
        assert [each["form"] for each in service.status()["switches"]] == ["Cold", "Warm"]
    for prompt, completion in load.answers:
        assert completion.is_complete, completion
        assert len(completion.token_ids) == TOKENS
        oracle.check(prompt, completion.token_ids)
