"""Decode attention over a latent cache (MLA, DeepSeek-V2, arXiv 2405.04434): one entry per token is all heads' key and value."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from semipd_engine.kernels.paged import check_query, check_rows
from semipd_engine.kernels.softmax import add_tile, multiply
from semipd_engine.kernels.splits import Partials, split_tokens
from semipd_engine.kernels.tiles import is_interpreted, step_keys, tiles_for


def mla_decode(
    query: Tensor,
    latents: Tensor,
    block_tables: Tensor,
    context_tokens: Tensor,
    *,
    latent_dim: int,
    scale: float,
) -> Tensor:
    """Attention of one layer for rows of one token, absorbed: what is mixed are latents, not values.

    query: (rows, heads, latent_dim + rope_dim), the projection to keys multiplied in;
    latents: (blocks, block_tokens, latent_dim + rope_dim); block_tables, context_tokens: as in `paged_decode`;
    scale: of the scores, as the model's own dims demand. Returns (rows, heads, latent_dim), for the projection of values.
    Raises: ValueError for shapes or dtypes other than these.
    """
    rows, heads, dim = query.shape
    check_query(query, latents.dtype)
    check_rows(block_tables, context_tokens, rows)
    if latents.ndim != 3 or latents.shape[2] != dim or latents.stride(2) != 1:
        raise ValueError(f"latents: shape {tuple(latents.shape)}; allowed: (blocks, block_tokens, {dim})")
    if not 0 < latent_dim < dim:
        raise ValueError(f"latent_dim: {latent_dim}; allowed: 1 to {dim - 1}, the rest being rotary")
    tiles = tiles_for(query.device).mla
    out = torch.empty((rows, heads, latent_dim), dtype=query.dtype, device=query.device)
    partials = Partials(query, latent_dim, tiles)
    _attend_latent_split[(rows, triton.cdiv(heads, tiles.heads), tiles.max_splits)](
        query,
        latents,
        block_tables,
        context_tokens,
        partials.mixed,
        partials.logsumexp,
        scale * math.log2(math.e),
        query.stride(0),
        query.stride(1),
        latents.stride(0),
        latents.stride(1),
        block_tables.stride(0),
        HEADS=heads,
        TILE_HEADS=tiles.heads,
        LATENT=latent_dim,
        LATENT_PADDED=max(16, triton.next_power_of_2(latent_dim)),
        ROPE=dim - latent_dim,
        ROPE_PADDED=max(16, triton.next_power_of_2(dim - latent_dim)),
        BLOCK_TOKENS=latents.shape[1],
        TILE_KEYS=step_keys(tiles.keys, query.dtype),
        MIN_SPLIT_TOKENS=tiles.min_split_tokens,
        MAX_SPLITS=tiles.max_splits,
        WIDEN=is_interpreted(),
        num_warps=tiles.launch.num_warps,
        num_stages=tiles.launch.num_stages,
    )
    partials.merge(context_tokens, out)
    return out


@triton.jit
def _attend_latent_split(
    query,
    latents,
    block_tables,
    context_tokens,
    mixed_out,
    logsumexp_out,
    scale,
    query_row,
    query_head,
    latent_block,
    latent_token,
    table_row,
    HEADS: tl.constexpr,
    TILE_HEADS: tl.constexpr,
    LATENT: tl.constexpr,
    LATENT_PADDED: tl.constexpr,
    ROPE: tl.constexpr,
    ROPE_PADDED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    MIN_SPLIT_TOKENS: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    row, tile, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    context = tl.load(context_tokens + row)
    span = split_tokens(context, MIN_SPLIT_TOKENS, MAX_SPLITS, TILE_KEYS)
    first = split * span
    if first >= context:
        return
    last = tl.minimum(first + span, context)

    head = tile * TILE_HEADS + tl.arange(0, TILE_HEADS)
    dim = tl.arange(0, LATENT_PADDED)
    rope = tl.arange(0, ROPE_PADDED)
    is_head, is_dim, is_rope = head[:, None] < HEADS, dim[None, :] < LATENT, rope[None, :] < ROPE
    asking = query + row.to(tl.int64) * query_row + head[:, None] * query_head
    asked = tl.load(asking + dim[None, :], mask=is_head & is_dim, other=0.0)
    asked_rope = tl.load(asking + LATENT + rope[None, :], mask=is_head & is_rope, other=0.0)

    best = tl.full([TILE_HEADS], float("-inf"), tl.float32)
    total = tl.zeros([TILE_HEADS], tl.float32)
    mixed = tl.zeros([TILE_HEADS, LATENT_PADDED], tl.float32)
    for start in range(first, last, TILE_KEYS):
        token = start + tl.arange(0, TILE_KEYS)
        is_seen = token < last
        block = tl.load(block_tables + row * table_row + token // BLOCK_TOKENS, mask=is_seen, other=0)
        place = (block.to(tl.int64) * latent_block + (token % BLOCK_TOKENS) * latent_token)[:, None]
        latent = tl.load(latents + place + dim[None, :], mask=is_seen[:, None] & is_dim, other=0.0)
        turned = tl.load(latents + place + LATENT + rope[None, :], mask=is_seen[:, None] & is_rope, other=0.0)
        scores = tl.zeros([TILE_HEADS, TILE_KEYS], tl.float32)
        scores = multiply(asked, tl.trans(latent), scores, WIDEN)
        scores = multiply(asked_rope, tl.trans(turned), scores, WIDEN) * scale
        scores = tl.where(is_seen[None, :], scores, float("-inf"))
        best, total, mixed = add_tile(scores, latent, best, total, mixed, WIDEN)

    part = (row.to(tl.int64) * HEADS + head) * MAX_SPLITS + split
    place = part[:, None] * LATENT + dim[None, :]
    tl.store(mixed_out + place, mixed / total[:, None], mask=is_head & is_dim)
    tl.store(logsumexp_out + part, best + tl.log2(total), mask=head < HEADS)
