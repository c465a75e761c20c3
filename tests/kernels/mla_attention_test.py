"""Decode over latents in Triton's interpreter is attention with the latents as keys and, without their rotary part, as values."""

from __future__ import annotations

import pytest
import torch
from kernel_process import KernelProcess
from paged_rows import Shape, assert_near, build_paged_rows

pytestmark = pytest.mark.slow

CONTEXTS = [1, 16, 33, 150]


def build(heads: int, latent: int, rope: int, block_tokens: int, dtype: torch.dtype) -> tuple:
    """Query, latents, block tables and context tokens; entries of no row are no numbers."""
    shape = Shape(heads=heads, kv_heads=1, dim=latent + rope, block_tokens=block_tokens, dtype=dtype)
    rows = build_paged_rows(shape, [context - 1 for context in CONTEXTS], [1] * len(CONTEXTS))
    return rows.query, rows.kv[0, :, :, 0], rows.block_tables, rows.context_tokens


def attend(arguments: tuple, latent: int, scale: float) -> torch.Tensor:
    query, latents, tables, contexts = arguments
    answers = []
    for row, context in enumerate(contexts.tolist()):
        entries = latents[tables[row].long()].flatten(0, 1)[:context].double()
        weights = (query[row].double() @ entries.T * scale).softmax(-1)
        answers.append(weights @ entries[:, :latent])
    return torch.stack(answers)


@pytest.mark.parametrize(
    ("heads", "latent", "rope", "block_tokens", "dtype"),
    [
        pytest.param(4, 32, 16, 16, torch.float32, id="fp32, pages of 16"),
        pytest.param(20, 32, 16, 32, torch.float16, id="fp16, pages of 32, more heads than a tile"),
        pytest.param(4, 32, 16, 64, torch.bfloat16, id="bf16, pages of 64"),
        pytest.param(2, 24, 8, 16, torch.float32, id="dims that are no powers of two"),
    ],
)
def test_decode_mixes_latents(
    interpreter: KernelProcess, heads: int, latent: int, rope: int, block_tokens: int, dtype: torch.dtype
) -> None:
    arguments = build(heads, latent, rope, block_tokens, dtype)
    answer = interpreter.call("mla_attention.mla_decode", *arguments, latent_dim=latent, scale=0.2)
    assert_near(answer, attend(arguments, latent, 0.2))


def test_a_row_alone_is_bitwise_the_row_in_a_batch(interpreter: KernelProcess) -> None:
    query, latents, tables, contexts = build(4, 32, 16, 16, torch.bfloat16)
    settings = {"latent_dim": 32, "scale": 0.2}
    together = interpreter.call("mla_attention.mla_decode", query, latents, tables, contexts, **settings)
    alone = interpreter.call(
        "mla_attention.mla_decode", query[3:], latents, tables[3:], contexts[3:], **settings
    )
    assert torch.equal(together[3:], alone)


def test_a_latent_that_leaves_no_rotary_part_is_refused(interpreter: KernelProcess) -> None:
    arguments = build(4, 32, 16, 16, torch.float32)
    with pytest.raises(ValueError, match="latent_dim: 48; allowed: 1 to 47"):
        interpreter.call("mla_attention.mla_decode", *arguments, latent_dim=48, scale=0.2)
