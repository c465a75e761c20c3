"""An engine's real processes serve DeepSeek-V2 as transformers computes it, through switches and from cached latents."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
import transformers
from engine_processes import EngineProcesses, engine_config
from greedy_oracle import GreedyOracle
from tiny_family import V2, VOCAB_SIZE, write_tiny_family

from semipd_core.partition import Role

pytestmark = pytest.mark.slow

NUM_TOKENS = 30


def test_switches_and_cached_latents_change_no_token(tmp_path: Path) -> None:
    model = write_tiny_family(tmp_path / "model", "deepseek_v2", seed=5, **V2)
    chooser = random.Random(5)
    prompts = [[chooser.randrange(3, VOCAB_SIZE) for _ in range(length)] for length in (1, 9, 40, 61, 100)]
    with EngineProcesses(engine_config(tmp_path / "engine", f"file://{model}")) as engine:
        for number, prompt in enumerate(prompts):
            engine.submit(f"first-{number}", prompt, NUM_TOKENS)
        engine.switch(Role.PREFILL, 40)
        engine.switch(Role.DECODE, 60)
        engine.pump_until(lambda: all(each.ended for each in engine.results.values()))
        first = [engine.results[f"first-{number}"] for number in range(len(prompts))]
        again = engine.generate(prompts, max_tokens=NUM_TOKENS)
        assert engine.report().kv_blocks_used == 0
    assert all(each.cached_tokens for each, prompt in zip(again, prompts, strict=True) if len(prompt) > 4)
    oracle = GreedyOracle(transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32))
    for prompt, one, other in zip(prompts, first, again, strict=True):
        assert len(one.tokens) == len(other.tokens) == NUM_TOKENS
        oracle.check(prompt, one.tokens)
        oracle.check(prompt, other.tokens)
    oracle.assert_few_near_ties()
