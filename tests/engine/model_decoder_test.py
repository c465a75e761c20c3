"""The decoder computes what transformers computes: greedy text token by token, every shape, fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from local_engine import BLOCK_TOKENS, FreeTurns, Request, attach_locally, build_engine_config, build_plan
from tiny_llama import write_tiny_llama

from semipd_engine.model.executor import Executor

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TIE = 1e-3  # a smaller gap between the two best logits is decided by the order of summation
PROMPTS = [[5], list(range(10, 27)), [7, 300, 42] * 20]
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def generate(executor: Executor, prompt: list[int], num_tokens: int) -> list[int]:
    request = Request(0, prompt, range(1, 1 + -(-(len(prompt) + num_tokens) // BLOCK_TOKENS)))
    for _ in range(num_tokens):
        tokens, _ = executor.execute(
            build_plan(request.row(len(request.tokens) - request.computed)), FreeTurns()
        )
        request.tokens.append(tokens[0])
    return request.tokens[len(prompt) :]


def count_ties(oracle: Any, prompt: list[int], ours: list[int]) -> int:
    """Steps where our token is not the oracle's, each of which must be a tie; compared teacher-forced."""
    with torch.inference_mode():
        logits = oracle(torch.tensor([prompt + ours])).logits[0, len(prompt) - 1 : -1].float()
    best = logits.topk(2).values
    ties = 0
    for step, token in enumerate(ours):
        if token != int(logits[step].argmax()):
            assert best[step, 0] - logits[step, token] < TIE, f"step {step}: {token}, gap {best[step]}"
            ties += 1
    return ties


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({}, id="grouped-query attention, tied head"),
        pytest.param({"num_key_value_heads": 4}, id="multi-head attention"),
        pytest.param({"num_key_value_heads": 1}, id="multi-query attention"),
        pytest.param({"tie_word_embeddings": False}, id="head of its own"),
        pytest.param({"head_dim": 32}, id="heads wider than the hidden size"),
        pytest.param({"rope_scaling": LLAMA3_ROPE}, id="llama3 rope scaling"),
        pytest.param({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, id="linear rope scaling"),
        pytest.param({"num_hidden_layers": 5, "rope_theta": 500000.0}, id="more layers, another theta"),
    ],
)
def test_greedy_text_equals_that_of_transformers(tmp_path: Path, overrides: dict[str, Any]) -> None:
    directory = write_tiny_llama(tmp_path / "model", seed=3, **overrides)
    oracle = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    oracle.generation_config.eos_token_id = None
    attachment = attach_locally(build_engine_config(tmp_path, f"file://{directory}"))
    executor = Executor.build(build_engine_config(tmp_path, ""), attachment)
    executor.warm_up()
    for prompt in PROMPTS:
        ours = generate(executor, prompt, 40)
        ties = count_ties(oracle, prompt, ours)
        expected = oracle.generate(
            torch.tensor([prompt]), max_new_tokens=40, do_sample=False, pad_token_id=0
        )[0, len(prompt) :].tolist()
        assert ours == expected or ties > 0


def test_a_turn_is_taken_for_each_layer_and_for_the_head(tmp_path: Path, tiny_llama_dir: Path) -> None:
    config = build_engine_config(tmp_path, f"file://{tiny_llama_dir}")
    executor = Executor.build(config, attach_locally(config))
    turns = FreeTurns()
    request = Request(0, range(5, 40), range(1, 9))
    executor.execute(build_plan(request.row(20)), turns)
    assert turns.taken == 2  # a chunk that is not the last wants no logits
    executor.execute(build_plan(request.row(15)), turns)
    assert turns.taken == 2 + 3


def test_bf16_log_probabilities_stay_near_those_of_fp32(tmp_path: Path, tiny_llama_dir: Path) -> None:
    """Teacher-forced along the fp32 text: off by at most 0.1 at any token, 0.02 on average."""
    probabilities = {}
    prompt = list(range(10, 27))
    text = None
    for dtype in ("FP32", "BF16"):
        config = build_engine_config(tmp_path, f"file://{tiny_llama_dir}", dtype=dtype)
        executor = Executor.build(config, attach_locally(config))
        if text is None:
            text = generate(executor, prompt, 48)
        probabilities[dtype] = teacher_forced(executor, prompt, text)
    gap = (probabilities["FP32"] - probabilities["BF16"]).abs()
    assert 0 < gap.max() <= 0.1
    assert gap.mean() <= 0.02


def teacher_forced(executor: Executor, prompt: list[int], text: list[int]) -> torch.Tensor:
    """Log-probabilities of `text`, one decode step each."""
    request = Request(0, prompt + text, range(1, 9))
    logits = []
    decoder = executor._decoder
    forward = decoder.forward

    def keep(batch, turns):
        logits.append(forward(batch, turns))
        return logits[-1]

    decoder.forward = keep
    request.tokens = list(prompt)
    for token in text:
        executor.execute(build_plan(request.row(len(request.tokens) - request.computed)), FreeTurns())
        request.tokens.append(token)
    decoder.forward = forward
    return torch.cat(logits).log_softmax(-1)[range(len(text)), text]
