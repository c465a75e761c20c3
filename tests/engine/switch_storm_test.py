"""The engine's real processes against transformers' greedy `generate`, in every isolation mode and through switches (fp32)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from engine_processes import EngineProcesses, engine_config
from greedy_oracle import GreedyOracle

from semipd_core.messages import Sampling
from semipd_core.partition import Isolation, Partition, Role

pytestmark = pytest.mark.slow
MODES = [pytest.param(isolation, id=isolation.value) for isolation in Isolation]
VOCABULARY = 384


def make_prompts(seed: int, count: int, longest: int = 60) -> list[list[int]]:
    chooser = random.Random(seed)
    return [
        [chooser.randrange(3, VOCABULARY) for _ in range(chooser.randint(1, longest))] for _ in range(count)
    ]


@pytest.fixture(scope="module")
def oracle(tiny_llama_dir: Path) -> Iterator[GreedyOracle]:
    threads = torch.get_num_threads()
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)
    yield GreedyOracle(model)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("isolation", MODES)
def test_greedy_tokens_equal_the_oracle(
    isolation: Isolation, tiny_llama_dir: Path, tmp_path: Path, oracle: GreedyOracle
) -> None:
    config = engine_config(tmp_path, f"file://{tiny_llama_dir}", isolation=isolation)
    prompts = make_prompts(seed=1, count=12)
    with EngineProcesses(config) as engine:
        first = engine.generate(prompts, max_tokens=24)
        again = engine.generate(prompts, max_tokens=24)
        report = engine.report()
    assert any(each.cached_tokens for each in again), "the second round finds its prefixes"
    assert report.kv_blocks_used == 0
    for prompt, one, other in zip(prompts, first, again, strict=True):
        oracle.check(prompt, one.tokens)
        oracle.check(prompt, other.tokens)
    oracle.assert_few_near_ties()


@pytest.mark.parametrize("isolation", MODES)
def test_preemption_by_recompute_changes_no_token(
    isolation: Isolation, tiny_llama_dir: Path, tmp_path: Path, oracle: GreedyOracle
) -> None:
    block_bytes = 4 * 2 * 2 * 2 * 16 * 4  # tokens, K and V, layers, kv heads, head_dim, fp32
    config = engine_config(
        tmp_path,
        f"file://{tiny_llama_dir}",
        isolation=isolation,
        max_context_tokens=96,
        kv_bytes=block_bytes * 40,
        prefix_cache=False,
    )
    prompts = make_prompts(seed=2, count=8, longest=12)
    with EngineProcesses(config) as engine:
        results = engine.generate(prompts, max_tokens=40)
        assert engine.report().preemptions > 0
    for prompt, result in zip(prompts, results, strict=True):
        oracle.check(prompt, result.tokens)
    oracle.assert_few_near_ties()


def test_fifty_switches_change_no_token(tiny_llama_dir: Path, tmp_path: Path, oracle: GreedyOracle) -> None:
    config = engine_config(tmp_path, f"file://{tiny_llama_dir}")
    prompts = make_prompts(seed=3, count=60, longest=100)
    chooser = random.Random(3)
    with EngineProcesses(config) as engine:
        for number, prompt in enumerate(prompts):
            engine.submit(f"storm-{number}", prompt, 100)
        for _ in range(50):
            role = chooser.choice([Role.PREFILL, Role.DECODE])
            engine.switch(role, chooser.choice([20, 40, 60, 80, 100]))
        engine.pump_until(lambda: all(each.ended for each in engine.results.values()))
        late = engine.generate(prompts[:4], max_tokens=20)
        results = [engine.results[f"storm-{number}"] for number in range(len(prompts))]
    for prompt, result in zip(prompts, results, strict=True):
        assert len(result.tokens) == 100
        oracle.check(prompt, result.tokens)
    for prompt, result in zip(prompts, late, strict=False):
        oracle.check(prompt, result.tokens)
    oracle.assert_few_near_ties()


@pytest.mark.parametrize("isolation", MODES)
def test_sampled_tokens_are_the_same_whatever_the_batch_or_lane(
    isolation: Isolation, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    prompts = make_prompts(seed=4, count=6)
    sampling = Sampling(temperature=0.8, top_p=0.95, top_k=50, seed=11)
    config = engine_config(tmp_path, f"file://{tiny_llama_dir}", isolation=isolation)
    with EngineProcesses(config, Partition(prefill_percent=60, decode_percent=100)) as engine:
        together = engine.generate(prompts, max_tokens=20, sampling=sampling)
        alone = [engine.generate([prompt], max_tokens=20, sampling=sampling)[0] for prompt in prompts]
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    assert len({tuple(each.tokens) for each in together}) > 1


def test_bf16_through_switches_has_exact_counts_and_log_probabilities_within_a_tenth(
    tiny_llama_dir: Path, tmp_path: Path
) -> None:
    """The harness refuses tokens that come twice, late or changed; the bound is in nats, against transformers in bf16."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.bfloat16).eval()
    config = engine_config(tmp_path, f"file://{tiny_llama_dir}", dtype="BF16")
    prompts = make_prompts(seed=5, count=12, longest=80)
    with EngineProcesses(config) as engine:
        for number, prompt in enumerate(prompts):
            engine.submit(f"bf16-{number}", prompt, 60, sampling=Sampling(logprob=True))
        for percent in (60, 40, 80, 100):
            for role in (Role.PREFILL, Role.DECODE):
                engine.switch(role, percent)
        engine.pump_until(lambda: all(each.ended for each in engine.results.values()))
        results = [engine.results[f"bf16-{number}"] for number in range(len(prompts))]
    for prompt, result in zip(prompts, results, strict=True):
        assert (len(result.tokens), len(result.logprobs), result.finish) == (60, 60, "length")
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *result.tokens]])).logits[0, len(prompt) - 1 : -1].float()
        expected = logits.log_softmax(-1).gather(1, torch.tensor(result.tokens)[:, None]).squeeze(1)
        assert float((expected - torch.tensor(result.logprobs)).abs().max()) < 0.1
