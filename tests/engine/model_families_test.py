"""Every family computes what transformers computes: the same logits in fp32, however a prompt is cut, and so the same text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from local_engine import FreeTurns, Request, attach_locally, build_engine_config, build_plan
from tiny_family import V2, V2_LITE, YARN, write_tiny_family
from torch import Tensor

from semipd_engine.model import latent_attention
from semipd_engine.model.config import LatentConfig
from semipd_engine.model.executor import Executor

pytestmark = pytest.mark.slow

PROMPT = [5, 9, *range(20, 75), 300, 42, 7]
NUM_TOKENS = 12
LOGITS_WITHIN = 1e-4  # of values whose standard deviation is about 1
GROUPED = {"num_key_value_heads": 2}
WITHOUT_EXPERTS = V2_LITE | {"first_k_dense_replace": 3}

FAMILIES = [
    pytest.param("deepseek_v2", V2_LITE, id="DeepSeek-V2-Lite: queries at once, greedy experts, yarn"),
    pytest.param("deepseek_v2", V2, id="DeepSeek-V2: queries by a latent, experts in groups"),
    pytest.param("deepseek_v2", V2_LITE | {"rope_scaling": None}, id="DeepSeek without yarn"),
    pytest.param("deepseek_v2", V2_LITE | {"rope_scaling": YARN | {"mscale": 1.3}}, id="yarn of two scales"),
    pytest.param("deepseek_v2", WITHOUT_EXPERTS, id="latent attention alone"),
    pytest.param(
        "deepseek_v2", V2_LITE | {"first_k_dense_replace": 0, "n_routed_experts": 5}, id="experts everywhere"
    ),
    pytest.param("qwen2", GROUPED | {"tie_word_embeddings": True}, id="Qwen2: biases of Q, K and V"),
    pytest.param("qwen2", GROUPED | {"rope_scaling": {**YARN, "mscale": None}}, id="Qwen2 with yarn"),
    pytest.param("qwen3", GROUPED | {"head_dim": 32}, id="Qwen3: norms of Q and K"),
    pytest.param("mistral", GROUPED | {"sliding_window": None, "head_dim": 16}, id="Mistral"),
    pytest.param("mistral", GROUPED | {"sliding_window": 512}, id="Mistral, a window as wide as the context"),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_executor(directory: Path, model: Path, **overrides: Any) -> Executor:
    config = build_engine_config(directory, f"file://{model}", **overrides)
    return Executor.build(config, attach_locally(config))


def trace(executor: Executor, chunks: list[int]) -> tuple[list[int], Tensor]:
    """Greedy text after PROMPT cut into `chunks`, in blocks out of order, and the logits that it was chosen by."""
    kept: list[Tensor] = []
    forward = executor._decoder.forward

    def keep(*args: Any) -> Tensor:
        kept.append(forward(*args))
        return kept[-1]

    executor._decoder.forward = keep
    request = Request(0, PROMPT, [7, 3, 11, 2, 9, 5, 1])
    for size in [*chunks, *[1] * (NUM_TOKENS - 1)]:
        tokens, _ = executor.execute(build_plan(request.row(size)), FreeTurns())
        request.tokens += [token for token in tokens if token is not None]
    executor._decoder.forward = forward
    return request.tokens[len(PROMPT) :], torch.cat(kept)


def answer_of_transformers(model: Path, text: list[int]) -> Tensor:
    oracle = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        return oracle(torch.tensor([PROMPT + text[:-1]])).logits[0, len(PROMPT) - 1 :]


@pytest.mark.parametrize(("model_type", "config"), FAMILIES)
def test_logits_and_greedy_text_are_those_of_transformers(
    tmp_path: Path, model_type: str, config: dict[str, Any]
) -> None:
    model = write_tiny_family(tmp_path / "model", model_type, seed=1, **config)
    executor = build_executor(tmp_path, model)
    executor.warm_up()
    for chunks in ([60], [17, 30, 1, 12]):
        text, logits = trace(executor, chunks)
        expected = answer_of_transformers(model, text)
        assert (logits - expected).abs().max() < LOGITS_WITHIN
        assert text == expected.argmax(-1).tolist()


@pytest.mark.parametrize("is_expanded", [True, False])
def test_a_prompt_is_the_same_with_its_latents_expanded_or_its_queries_absorbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_expanded: bool
) -> None:
    model = write_tiny_family(tmp_path / "model", "deepseek_v2", seed=2, **V2)
    monkeypatch.setattr(latent_attention, "is_expanded", lambda *_: is_expanded)
    text, logits = trace(build_executor(tmp_path, model), [25, 35])
    assert (logits - answer_of_transformers(model, text)).abs().max() < LOGITS_WITHIN


@pytest.mark.parametrize(
    ("chunk_tokens", "context_tokens", "heads", "expected"),
    [
        pytest.param(1, 1, 16, True, id="the first token"),
        pytest.param(2048, 2048, 16, True, id="a prompt from its start"),
        pytest.param(168, 12_000, 16, False, id="a short chunk after a long context"),
        pytest.param(169, 12_000, 16, True, id="one token more"),
        pytest.param(16, 17, 16, True, id="a short chunk after a short context"),
        pytest.param(2048, 2048, 128, False, id="more keys and values than are made at a time"),
    ],
)
def test_latents_are_expanded_where_that_is_less_work(
    chunk_tokens: int, context_tokens: int, heads: int, expected: bool
) -> None:
    latent = LatentConfig(
        q_lora_rank=None,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        softmax_scale=1.0,
    )
    assert latent_attention.is_expanded(chunk_tokens, context_tokens, heads, latent) is expected


def test_bf16_stays_near_fp32(tmp_path: Path) -> None:
    """Of latents, norms and experts in bf16, the mean error of a logit is a few units of its last place."""
    model = write_tiny_family(tmp_path / "model", "deepseek_v2", seed=1, **WITHOUT_EXPERTS)
    text, exact = trace(build_executor(tmp_path, model), [60])
    _, rounded = trace(build_executor(tmp_path, model, dtype="BF16"), [60])
    gap = (rounded[0] - exact[0]).abs()
    assert 0 < gap.mean() < 0.02
    assert len(text) == NUM_TOKENS
