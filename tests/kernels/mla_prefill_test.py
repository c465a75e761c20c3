"""Attention of prompt chunks over latents in Triton's interpreter answers what expanded keys and values do in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from kernel_process import KernelProcess
from paged_rows import TOLERANCES
from torch import Tensor

pytestmark = pytest.mark.slow

SCALE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    heads: int = 3
    nope: int = 24
    rope: int = 16
    value: int = 20
    latent: int = 32
    block_tokens: int = 16
    dtype: torch.dtype = torch.float32

    @property
    def expanded_values(self) -> int:
        """Per token."""
        return self.heads * (self.nope + self.value)


@dataclass(frozen=True, slots=True)
class Chunks:
    """Chunk i has `cached[i]` tokens in its pages and `new[i]` behind them; no entry but theirs is a number."""

    shape: Shape
    cached: Sequence[int]
    new: Sequence[int]
    query: Tensor  # (tokens, heads, nope + rope), strided as in a fused projection
    latents: Tensor
    kv_up: Tensor
    slots: Sequence[Tensor]  # of each chunk's context

    def prefill(self, interpreter: KernelProcess, **settings: int) -> Tensor:
        return interpreter.call(
            "mla_prefill.mla_prefill",
            self.query,
            self.latents,
            self.kv_up,
            torch.cat(list(self.slots)),
            starts([len(slots) for slots in self.slots]),
            starts(self.new),
            max(self.new),
            scale=SCALE,
            **settings,
        )

    def attend(self) -> Tensor:
        """(tokens, heads, v) fp64."""
        parts = self.query.double().split(list(self.new))
        return torch.cat([self._attend_chunk(chunk, part) for chunk, part in enumerate(parts)])

    def _attend_chunk(self, chunk: int, query: Tensor) -> Tensor:
        shape = self.shape
        entries = self.latents.double().flatten(0, 1)[self.slots[chunk]]
        latents, rope = entries.split_with_sizes([shape.latent, shape.rope], 1)
        up = (latents @ self.kv_up.double().T).view(len(entries), shape.heads, -1)
        nope, values = up.split_with_sizes([shape.nope, shape.value], 2)
        keys = torch.cat([nope, rope[:, None].expand(-1, shape.heads, -1)], 2)
        scores = torch.einsum("qhd,khd->hqk", query, keys) * SCALE
        is_hidden = torch.ones(scores.shape[1:]).triu(self.cached[chunk] + 1).bool()
        weights = scores.masked_fill(is_hidden, float("-inf")).softmax(-1)
        return torch.einsum("hqk,khd->qhd", weights, values)


def starts(sizes: Sequence[int]) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0).to(torch.int32)


def build(shape: Shape, cached: Sequence[int], new: Sequence[int]) -> Chunks:
    random = torch.Generator().manual_seed(0)
    contexts = [old + more for old, more in zip(cached, new, strict=True)]
    widths = [-(-context // shape.block_tokens) for context in contexts]
    blocks = (torch.randperm(sum(widths), generator=random) + 1).split(widths)
    offsets = torch.arange(shape.block_tokens)
    slots = [
        (held[:, None] * shape.block_tokens + offsets).flatten()[:context]
        for held, context in zip(blocks, contexts, strict=True)
    ]
    latents = torch.full((sum(widths) + 1, shape.block_tokens, shape.latent + shape.rope), float("nan"))
    entries = torch.randn(sum(contexts), latents.shape[2], generator=random)
    latents.flatten(0, 1)[torch.cat(slots)] = entries
    joined = torch.randn(sum(new), shape.heads + 1, shape.nope + shape.rope, generator=random)
    kv_up = torch.randn(shape.expanded_values, shape.latent, generator=random) / shape.latent**0.5
    dtype = shape.dtype
    return Chunks(shape, cached, new, joined.to(dtype)[:, :-1], latents.to(dtype), kv_up.to(dtype), slots)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    """Expanded keys and values are rounded once more: twice the tolerance of attention over what is cached."""
    tolerance = 2 * TOLERANCES[actual.dtype]
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("shape", "cached", "new"),
    [
        pytest.param(Shape(), [0], [37], id="a prompt from its start"),
        pytest.param(Shape(), [32], [21], id="a chunk behind whole pages"),
        pytest.param(Shape(), [5], [40], id="a chunk behind part of a page"),
        pytest.param(Shape(), [0, 17, 3, 64], [1, 30, 2, 9], id="chunks of all lengths"),
        pytest.param(Shape(dtype=torch.float16, block_tokens=32), [0, 20], [33, 15], id="fp16, pages of 32"),
        pytest.param(Shape(dtype=torch.bfloat16, block_tokens=64), [0, 70], [20, 8], id="bf16, pages of 64"),
        pytest.param(
            Shape(nope=32, rope=8, value=32), [4], [20], id="a rotary part less than an instruction takes"
        ),
        pytest.param(Shape(nope=8, rope=16, value=40), [4], [20], id="values wider than keys"),
    ],
)
def test_chunks_attend_over_expanded_keys_and_values(
    interpreter: KernelProcess, shape: Shape, cached: list[int], new: list[int]
) -> None:
    chunks = build(shape, cached, new)
    assert_near(chunks.prefill(interpreter), chunks.attend())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "window",
    [
        pytest.param(7, id="windows below a tile"),
        pytest.param(32, id="windows of whole tiles"),
        pytest.param(50, id="windows that end in a chunk's own tokens"),
        pytest.param(101, id="all but the last token at once"),
    ],
)
def test_what_is_expanded_at_a_time_does_not_change_the_answer(
    interpreter: KernelProcess, window: int, dtype: torch.dtype
) -> None:
    chunks = build(Shape(dtype=dtype), [0, 30, 12], [20, 19, 21])
    assert sum(len(slots) for slots in chunks.slots) == 102
    answer = chunks.prefill(interpreter, expanded_values_max=window * chunks.shape.expanded_values)
    assert_near(answer, chunks.attend())


def test_a_chunk_alone_is_the_chunk_beside_others(interpreter: KernelProcess) -> None:
    """Within the rounding of the products that expand it, which may depend on how many rows they have."""
    both = build(Shape(), [0, 12], [40, 11])
    alone = replace(both, cached=[12], new=[11], query=both.query[40:], slots=both.slots[1:])
    torch.testing.assert_close(
        both.prefill(interpreter)[40:], alone.prefill(interpreter), rtol=1e-6, atol=1e-6
    )


def test_wrong_tensors_are_refused_by_name(interpreter: KernelProcess) -> None:
    chunks = build(Shape(), [0], [3])
    with pytest.raises(ValueError, match=r"kv_up: .* allowed: \(3 \* \(24 \+ v\), latent\) of torch.float32"):
        replace(chunks, kv_up=chunks.kv_up[1:]).prefill(interpreter)
    with pytest.raises(ValueError, match=r"latents: .* allowed: \(blocks, block_tokens, 32 and 1 to 39\)"):
        replace(chunks, latents=chunks.latents[..., :32].contiguous()).prefill(interpreter)
    with pytest.raises(ValueError, match=r"context_slots: .* allowed: \(3,\) of torch.int64"):
        replace(chunks, slots=[chunks.slots[0].int()]).prefill(interpreter)
