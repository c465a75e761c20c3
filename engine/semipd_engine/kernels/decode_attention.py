"""Paged attention of rows of one token each: split-KV, all query heads of one KV head together."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from semipd_engine.kernels.paged import check_cache, check_rows
from semipd_engine.kernels.softmax import add_tile, multiply
from semipd_engine.kernels.splits import Partials, split_tokens
from semipd_engine.kernels.tiles import is_interpreted, step_keys, tiles_for


def paged_decode(query: Tensor, kv: Tensor, block_tables: Tensor, context_tokens: Tensor) -> Tensor:
    """Attention of one layer for rows of one token, whose keys and values are in their pages already.

    query: (rows, heads, dim); kv: (2, blocks, block_tokens, kv_heads, dim);
    block_tables: (rows, blocks) int32, the blocks of each row in order; context_tokens: (rows) int32, KV entries
    that the row sees, itself included; 0 for a row that only fills a captured graph. Returns (rows, heads, dim).
    The grid is that of the shapes, not of the contexts, so one captured graph serves all contexts.
    Raises: ValueError for shapes or dtypes other than these.
    """
    rows, heads, dim = query.shape
    check_cache(query, kv)
    check_rows(block_tables, context_tokens, rows)
    tiles = tiles_for(query.device).decode
    kv_heads = kv.shape[3]
    out = torch.empty((rows, heads, dim), dtype=query.dtype, device=query.device)
    partials = Partials(query, dim, tiles)
    _attend_split[(rows, kv_heads, tiles.max_splits)](
        query,
        kv[0],
        kv[1],
        block_tables,
        context_tokens,
        partials.mixed,
        partials.logsumexp,
        math.log2(math.e) / math.sqrt(dim),
        query.stride(0),
        query.stride(1),
        kv.stride(1),
        kv.stride(2),
        kv.stride(3),
        block_tables.stride(0),
        HEADS=heads,
        GROUP=heads // kv_heads,
        GROUP_PADDED=max(tiles.heads, triton.next_power_of_2(heads // kv_heads)),
        DIM=dim,
        DIM_PADDED=max(16, triton.next_power_of_2(dim)),
        BLOCK_TOKENS=kv.shape[2],
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
def _attend_split(
    query,
    keys,
    values,
    block_tables,
    context_tokens,
    mixed_out,
    logsumexp_out,
    scale,
    query_row,
    query_head,
    kv_block,
    kv_token,
    kv_head_stride,
    table_row,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    MIN_SPLIT_TOKENS: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    row, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    context = tl.load(context_tokens + row)
    span = split_tokens(context, MIN_SPLIT_TOKENS, MAX_SPLITS, TILE_KEYS)
    first = split * span
    if first >= context:
        return
    last = tl.minimum(first + span, context)

    member = tl.arange(0, GROUP_PADDED)
    head = kv_head * GROUP + member
    dim = tl.arange(0, DIM_PADDED)
    is_dim = dim[None, :] < DIM
    is_answer = (member[:, None] < GROUP) & is_dim
    asked = tl.load(
        query + row.to(tl.int64) * query_row + head[:, None] * query_head + dim[None, :],
        mask=is_answer,
        other=0.0,
    )

    best = tl.full([GROUP_PADDED], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_PADDED], tl.float32)
    mixed = tl.zeros([GROUP_PADDED, DIM_PADDED], tl.float32)
    for start in range(first, last, TILE_KEYS):
        token = start + tl.arange(0, TILE_KEYS)
        is_seen = token < last
        block = tl.load(block_tables + row * table_row + token // BLOCK_TOKENS, mask=is_seen, other=0)
        place = block.to(tl.int64) * kv_block + (token % BLOCK_TOKENS) * kv_token + kv_head * kv_head_stride
        is_entry = is_seen[:, None] & is_dim
        key = tl.load(keys + place[:, None] + dim[None, :], mask=is_entry, other=0.0)
        value = tl.load(values + place[:, None] + dim[None, :], mask=is_entry, other=0.0)
        zeros = tl.zeros([GROUP_PADDED, TILE_KEYS], tl.float32)
        scores = multiply(asked, tl.trans(key), zeros, WIDEN) * scale
        scores = tl.where(is_seen[None, :], scores, float("-inf"))
        best, total, mixed = add_tile(scores, value, best, total, mixed, WIDEN)

    part = (row.to(tl.int64) * HEADS + head) * MAX_SPLITS + split
    tl.store(mixed_out + part[:, None] * DIM + dim[None, :], mixed / total[:, None], mask=is_answer)
    tl.store(logsumexp_out + part, best + tl.log2(total), mask=member < GROUP)
