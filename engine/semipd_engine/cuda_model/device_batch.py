"""A step's inputs on the device, and the few numbers of them that the host launches by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from semipd_engine.model.batch import PromptChunk


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSpan:
    """Tokens [first, last) of the batch: consecutive ones of one sequence."""

    first: int
    last: int
    context_tokens: int  # KV entries that the last token sees, itself included


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBatch:
    """Rows of one token come first, then prompt chunks."""

    token_ids: Tensor  # (tokens) int64
    positions: Tensor  # (tokens) int64
    kv_slots: Tensor  # (tokens) int64
    tables: Tensor  # (singles, blocks) int32
    contexts: Tensor  # (singles) int32
    chunk_tables: (
        Tensor  # (chunks, blocks) int32; tensors of their own, so that both start at aligned addresses
    )
    chunk_contexts: Tensor  # (chunks) int32
    token_starts: Tensor  # (chunks + 1) int32, from the first chunk's first token
    chunks: Sequence[PromptChunk]  # the same chunks one by one, where attention is over latents; else none
    max_chunk_tokens: int
    sampled: Tensor | None  # (samples) int64: the tokens whose logits are wanted; None: all

    @property
    def num_singles(self) -> int:
        return len(self.contexts)


def prompt_chunks(
    spans: Sequence[ChunkSpan], chunk_tables: Tensor, block_tokens: int
) -> tuple[PromptChunk, ...]:
    """chunk_tables: (chunks, blocks) int32."""
    return tuple(
        _prompt_chunk(span, table, block_tokens)
        for span, table in zip(spans, chunk_tables.unbind(0), strict=True)
    )


def _prompt_chunk(span: ChunkSpan, table: Tensor, block_tokens: int) -> PromptChunk:
    """The mask of a chunk with a past is a description: an attention kernel that knows causality makes no tensor of it."""
    num_tokens = span.last - span.first
    has_past = num_tokens < span.context_tokens
    return PromptChunk(
        first=span.first,
        last=span.last,
        context_tokens=span.context_tokens,
        blocks=table[: -(-span.context_tokens // block_tokens)] if has_past else None,
        mask=causal_lower_right(num_tokens, span.context_tokens) if has_past else None,
    )
