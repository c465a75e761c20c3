"""Paged attention of prompt chunks of any lengths in one launch: causal, behind whatever of the prompt is cached.

A program takes a run of a chunk's tokens with all query heads of one KV head, so that each key is read once for the group.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from semipd_engine.kernels.paged import check_cache, check_rows
from semipd_engine.kernels.softmax import add_tile, multiply
from semipd_engine.kernels.tiles import is_interpreted, step_keys, tiles_for


def paged_prefill(
    query: Tensor,
    kv: Tensor,
    block_tables: Tensor,
    context_tokens: Tensor,
    token_starts: Tensor,
    max_chunk_tokens: int,
) -> Tensor:
    """Attention of one layer for prompt chunks, whose keys and values are in their pages already.

    query: (tokens, heads, dim), the chunks one after the other; kv: (2, blocks, block_tokens, kv_heads, dim);
    block_tables: (chunks, blocks) int32; context_tokens: (chunks) int32, KV entries that a chunk's last token sees,
    itself included; token_starts: (chunks + 1) int32, where each chunk begins in `query`, and the end;
    max_chunk_tokens: of the longest chunk. Returns (tokens, heads, dim).
    A token's answer does not depend on how its prompt is cut: keys are summed from position 0 in the same tiles.
    Raises: ValueError for shapes or dtypes other than these.
    """
    tokens, heads, dim = query.shape
    chunks = len(token_starts) - 1
    check_cache(query, kv)
    check_rows(block_tables, context_tokens, chunks)
    if token_starts.dtype != torch.int32:
        raise ValueError(f"token_starts: {token_starts.dtype}; allowed: torch.int32")
    tiles = tiles_for(query.device).prefill
    kv_heads = kv.shape[3]
    group = heads // kv_heads
    tile_rows = max(tiles.rows, triton.next_power_of_2(group))
    out = torch.empty((tokens, heads, dim), dtype=query.dtype, device=query.device)
    _attend_chunk[(triton.cdiv(max_chunk_tokens, tile_rows // group), chunks, kv_heads)](
        query,
        kv[0],
        kv[1],
        block_tables,
        context_tokens,
        token_starts,
        out,
        math.log2(math.e) / math.sqrt(dim),
        query.stride(0),
        query.stride(1),
        kv.stride(1),
        kv.stride(2),
        kv.stride(3),
        block_tables.stride(0),
        HEADS=heads,
        GROUP=group,
        DIM=dim,
        DIM_PADDED=max(16, triton.next_power_of_2(dim)),
        BLOCK_TOKENS=kv.shape[2],
        TILE_ROWS=tile_rows,
        TILE_KEYS=step_keys(tiles.keys, query.dtype),
        WIDEN=is_interpreted(),
        num_warps=tiles.launch.num_warps,
        num_stages=tiles.launch.num_stages,
    )
    return out


@triton.jit
def _attend_chunk(
    query,
    keys,
    values,
    block_tables,
    context_tokens,
    token_starts,
    out,
    scale,
    query_row,
    query_head,
    kv_block,
    kv_token,
    kv_head_stride,
    table_row,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    TILE_TOKENS: tl.constexpr = TILE_ROWS // GROUP
    tile, chunk, kv_head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start_token = tl.load(token_starts + chunk)
    num_tokens = tl.load(token_starts + chunk + 1) - start_token
    first = tile * TILE_TOKENS
    if first >= num_tokens:
        return
    context = tl.load(context_tokens + chunk)
    cached = context - num_tokens

    pair = tl.arange(0, TILE_ROWS)  # (token, head of the group)
    token = first + pair // GROUP
    head = kv_head * GROUP + pair % GROUP
    is_pair = (pair < TILE_TOKENS * GROUP) & (token < num_tokens)
    dim = tl.arange(0, DIM_PADDED)
    is_dim = dim[None, :] < DIM
    is_answer = is_pair[:, None] & is_dim
    query_token = (start_token + token).to(tl.int64)
    asked = tl.load(
        query + (query_token * query_row + head * query_head)[:, None] + dim[None, :],
        mask=is_answer,
        other=0.0,
    )

    best = tl.full([TILE_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([TILE_ROWS], tl.float32)
    mixed = tl.zeros([TILE_ROWS, DIM_PADDED], tl.float32)
    last = tl.minimum(context, cached + first + TILE_TOKENS)
    for start in range(0, last, TILE_KEYS):
        position = start + tl.arange(0, TILE_KEYS)
        is_seen = position < last
        block = tl.load(block_tables + chunk * table_row + position // BLOCK_TOKENS, mask=is_seen, other=0)
        place = (
            block.to(tl.int64) * kv_block + (position % BLOCK_TOKENS) * kv_token + kv_head * kv_head_stride
        )
        is_entry = is_seen[:, None] & is_dim
        key = tl.load(keys + place[:, None] + dim[None, :], mask=is_entry, other=0.0)
        value = tl.load(values + place[:, None] + dim[None, :], mask=is_entry, other=0.0)
        zeros = tl.zeros([TILE_ROWS, TILE_KEYS], tl.float32)
        scores = multiply(asked, tl.trans(key), zeros, WIDEN) * scale
        scores = tl.where(position[None, :] <= (cached + token)[:, None], scores, float("-inf"))
        best, total, mixed = add_tile(scores, value, best, total, mixed, WIDEN)

    answer = mixed / total[:, None]
    place = (query_token * HEADS + head)[:, None] * DIM + dim[None, :]
    tl.store(out + place, answer.to(out.dtype.element_ty), mask=is_answer)
