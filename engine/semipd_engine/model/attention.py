"""Paged attention on a CPU: gather the blocks, then one scaled-dot-product call for all decode rows and one per prompt chunk."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semipd_engine.model.batch import Batch, DecodeGroup, PromptChunk


def store(kv: Tensor, kv_slots: Tensor, new: Tensor) -> None:
    """Write keys and values of new tokens.

    kv: one layer, (2, blocks, block_tokens, kv_heads, dim); new: (tokens, 2, kv_heads * dim).
    """
    kv.view(2, -1, new.shape[-1]).index_copy_(1, kv_slots, new.transpose(0, 1))


def attend(query: Tensor, new: Tensor, kv: Tensor, batch: Batch) -> Tensor:
    """Attention of one layer, after `store`.

    query: (tokens, heads, dim); new: (tokens, 2, kv_heads * dim), the keys and values of this step's tokens;
    kv: (2, blocks, block_tokens, kv_heads, dim). Returns (tokens, heads * dim).
    """
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    for group in batch.groups:
        out[group.first : group.last] = _decode(query[group.first : group.last], kv, group)
    for chunk in batch.chunks:
        part = slice(chunk.first, chunk.last)
        out[part] = _prefill(query[part], new[part], kv, chunk)
    return out.flatten(1)


def _decode(query: Tensor, kv: Tensor, group: DecodeGroup) -> Tensor:
    rows, _heads, dim = query.shape
    kv_heads = kv.shape[3]
    keys, values = _gather(kv, group.blocks).view(2, rows, -1, kv_heads, dim).transpose(2, 3)
    answer = F.scaled_dot_product_attention(
        query.unsqueeze(2), keys, values, attn_mask=group.mask, enable_gqa=True
    )
    return answer.squeeze(2)


def _prefill(query: Tensor, new: Tensor, kv: Tensor, chunk: PromptChunk) -> Tensor:
    kv_heads, dim = kv.shape[3:]
    if chunk.blocks is None:
        keys, values = new.view(*new.shape[:2], kv_heads, dim).permute(1, 2, 0, 3)
    else:
        gathered = _gather(kv, chunk.blocks).view(2, -1, kv_heads, dim)
        keys, values = gathered[:, : chunk.context_tokens].transpose(1, 2)
    answer = F.scaled_dot_product_attention(
        query.transpose(0, 1).unsqueeze(0),
        keys.unsqueeze(0),
        values.unsqueeze(0),
        attn_mask=chunk.mask,
        is_causal=chunk.mask is None,
        enable_gqa=True,
    )
    return answer.squeeze(0).transpose(0, 1)


def _gather(kv: Tensor, blocks: Tensor) -> Tensor:
    """The blocks of keys, then of values, one row each."""
    return kv.view(2 * kv.shape[1], -1).index_select(0, blocks)
