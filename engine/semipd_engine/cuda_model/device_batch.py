"""A step's inputs on the device, and the few numbers of them that the host launches by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSpan:
    """Tokens [first, last) of the batch: consecutive ones of one sequence."""

    first: int
    last: int
    context_tokens: int  # KV entries that the last token sees, itself included


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentContexts:
    """What prompt chunks see, one context after the other."""

    slots: Tensor  # (sum of contexts) int64: block * block_tokens + offset
    starts: Tensor  # (chunks + 1) int32: where each begins in `slots`, and the end


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
    latent_contexts: (
        LatentContexts | None
    )  # of the chunks, where there are some and attention is over latents
    max_chunk_tokens: int
    sampled: Tensor | None  # (samples) int64: the tokens whose logits are wanted; None: all

    @property
    def num_singles(self) -> int:
        return len(self.contexts)


def latent_contexts(
    spans: Sequence[ChunkSpan], chunk_tables: Tensor, chunk_contexts: Tensor, block_tokens: int
) -> LatentContexts:
    """Lengths are the host's, so that nothing is read back. chunk_tables, chunk_contexts: as in `DeviceBatch`."""
    width = -(-max(span.context_tokens for span in spans) // block_tokens)
    offsets = torch.arange(block_tokens, device=chunk_tables.device)
    slots = (chunk_tables[:, :width, None] * block_tokens + offsets).flatten(1)
    return LatentContexts(
        slots=torch.cat([row[: span.context_tokens] for row, span in zip(slots, spans, strict=True)]),
        starts=F.pad(chunk_contexts.cumsum(0, dtype=torch.int32), (1, 0)),
    )
