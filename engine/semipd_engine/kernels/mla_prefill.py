"""Attention of prompt chunks over a latent cache (MLA, DeepSeek-V2, arXiv 2405.04434), expanded to each head's keys and values.

Contexts stand one after the other, and a window of them at a time is expanded, attended and dropped: what is expanded in memory
does not grow with the past. A program keeps the sums of its tokens from one window to the next.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from semipd_engine.kernels.paged import check_query
from semipd_engine.kernels.softmax import add_tile, multiply
from semipd_engine.kernels.tiles import is_interpreted, step_keys, tiles_for

EXPANDED_VALUES_MAX = 1 << 26  # keys and values of all heads in a window: 128 MiB in bf16


def mla_prefill(
    query: Tensor,
    latents: Tensor,
    kv_up: Tensor,
    context_slots: Tensor,
    context_starts: Tensor,
    token_starts: Tensor,
    max_chunk_tokens: int,
    *,
    scale: float,
    expanded_values_max: int = EXPANDED_VALUES_MAX,
) -> Tensor:
    """Attention of one layer for prompt chunks, whose latents are in their pages already: causal, behind what is cached.

    query: (tokens, heads, nope + rope), the chunks one after the other; latents: (blocks, block_tokens, latent + rope);
    kv_up: (heads * (nope + v), latent), for each head the rows of its keys, then those of its values;
    context_slots: (sum of contexts) int64, block * block_tokens + offset of all that each chunk's last token sees;
    context_starts, token_starts: (chunks + 1) int32, where each chunk begins in `context_slots` and in `query`, and the end;
    max_chunk_tokens: of the longest chunk; scale: of the scores; expanded_values_max: in memory at a time.
    Returns (tokens, heads, v).
    Raises: ValueError for shapes or dtypes other than these.
    """
    nope, rope, value_dim = _head_dims(query, latents, kv_up)
    _check_contexts(context_slots, context_starts, token_starts)
    tokens, heads, _ = query.shape
    latent_dim, contexts = kv_up.shape[1], len(context_slots)
    tiles = tiles_for(query.device).mla_prefill
    window = max(1, expanded_values_max // len(kv_up))  # tokens
    out = torch.empty((tokens, heads, value_dim), dtype=query.dtype, device=query.device)
    kept = tokens if window < contexts else 0  # tokens whose sums outlive a window
    levels = torch.empty((2, kept, heads), dtype=torch.float32, device=query.device)
    mixed = torch.empty((kept, heads, value_dim), dtype=torch.float32, device=query.device)
    for first in range(0, contexts, window):
        entries = latents.flatten(0, 1).index_select(0, context_slots[first : first + window])
        _attend_window[(triton.cdiv(max_chunk_tokens, tiles.rows), len(token_starts) - 1, heads)](
            query,
            F.linear(entries[:, :latent_dim], kv_up),
            entries,
            context_starts,
            token_starts,
            levels,
            mixed,
            out,
            scale * math.log2(math.e),
            first,
            min(first + window, contexts),
            tokens,
            query.stride(0),
            query.stride(1),
            HEADS=heads,
            LATENT=latent_dim,
            NOPE=nope,
            NOPE_PADDED=max(16, triton.next_power_of_2(nope)),
            ROPE=rope,
            ROPE_PADDED=max(16, triton.next_power_of_2(rope)),
            VALUE=value_dim,
            VALUE_PADDED=max(16, triton.next_power_of_2(value_dim)),
            TILE_ROWS=tiles.rows,
            TILE_KEYS=step_keys(tiles.keys, query.dtype),
            WIDEN=is_interpreted(),
            num_warps=tiles.launch.num_warps,
            num_stages=tiles.launch.num_stages,
        )
    return out


def _head_dims(query: Tensor, latents: Tensor, kv_up: Tensor) -> tuple[int, int, int]:
    """Of a head: of its key what comes from the latent, what is rotary, and of its value. Raises: ValueError."""
    check_query(query, latents.dtype)
    heads, dim = query.shape[1:]
    rope = latents.shape[-1] - kv_up.shape[-1]
    if latents.ndim != 3 or not latents.is_contiguous() or not 0 < rope < dim:
        given = f"shape {tuple(latents.shape)}, strides {latents.stride()}"
        allowed = f"(blocks, block_tokens, {kv_up.shape[-1]} and 1 to {dim - 1}), contiguous"
        raise ValueError(f"latents: {given}; allowed: {allowed}")
    nope, rows = dim - rope, len(kv_up) // heads
    if len(kv_up) % heads or rows <= nope or kv_up.dtype != latents.dtype:
        given, allowed = f"shape {tuple(kv_up.shape)}, {kv_up.dtype}", f"({heads} * ({nope} + v), latent)"
        raise ValueError(f"kv_up: {given}; allowed: {allowed} of {latents.dtype}")
    return nope, rope, rows - nope


def _check_contexts(context_slots: Tensor, context_starts: Tensor, token_starts: Tensor) -> None:
    """Raises: ValueError."""
    for name, tensor, length, dtype in (
        ("context_slots", context_slots, context_slots.numel(), torch.int64),
        ("context_starts", context_starts, token_starts.numel(), torch.int32),
        ("token_starts", token_starts, token_starts.numel(), torch.int32),
    ):
        if tensor.shape != (length,) or tensor.dtype != dtype or not tensor.is_contiguous():
            given = f"shape {tuple(tensor.shape)}, {tensor.dtype}"
            raise ValueError(f"{name}: {given}; allowed: ({length},) of {dtype}, contiguous")


@triton.jit(do_not_specialize=["window_first", "window_last", "tokens"])
def _attend_window(
    query,
    expanded,
    entries,
    context_starts,
    token_starts,
    levels,
    mixed_sums,
    out,
    scale,
    window_first,
    window_last,
    tokens,
    query_row,
    query_head,
    HEADS: tl.constexpr,
    LATENT: tl.constexpr,
    NOPE: tl.constexpr,
    NOPE_PADDED: tl.constexpr,
    ROPE: tl.constexpr,
    ROPE_PADDED: tl.constexpr,
    VALUE: tl.constexpr,
    VALUE_PADDED: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_KEYS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    tile, chunk, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    start_token = tl.load(token_starts + chunk)
    num_tokens = tl.load(token_starts + chunk + 1) - start_token
    first = tile * TILE_ROWS
    if first >= num_tokens:
        return
    context_first = tl.load(context_starts + chunk)
    context = tl.load(context_starts + chunk + 1) - context_first
    cached = context - num_tokens
    last = tl.minimum(context, cached + first + TILE_ROWS)
    low = tl.maximum(window_first - context_first, 0)  # positions of the context that are in the window
    high = tl.minimum(window_last - context_first, last)
    if low >= high:
        return

    token = first + tl.arange(0, TILE_ROWS)
    nope = tl.arange(0, NOPE_PADDED)[None, :]
    rope = tl.arange(0, ROPE_PADDED)[None, :]
    value_dim = tl.arange(0, VALUE_PADDED)[None, :]
    is_token = token < num_tokens
    query_token = (start_token + token).to(tl.int64)
    asking = query + (query_token * query_row + head * query_head)[:, None]
    asked = tl.load(asking + nope, mask=is_token[:, None] & (nope < NOPE), other=0.0)
    asked_rope = tl.load(asking + NOPE + rope, mask=is_token[:, None] & (rope < ROPE), other=0.0)

    level = levels + query_token * HEADS + head
    answer = (query_token * HEADS + head)[:, None] * VALUE + value_dim
    is_answer = is_token[:, None] & (value_dim < VALUE)
    is_begun = tl.where(is_token, low, 0) > 0  # in a window before
    best = tl.load(level, mask=is_begun, other=float("-inf"))
    total = tl.load(level + tokens * HEADS, mask=is_begun, other=0.0)
    mixed = tl.load(mixed_sums + answer, mask=is_begun[:, None] & is_answer, other=0.0)
    for start in range(low, high, TILE_KEYS):
        position = start + tl.arange(0, TILE_KEYS)
        is_held = (position < high)[:, None]
        entry = (context_first - window_first + position).to(tl.int64)[:, None]
        place = expanded + entry * (HEADS * (NOPE + VALUE)) + head * (NOPE + VALUE)
        key = tl.load(place + nope, mask=is_held & (nope < NOPE), other=0.0)
        value = tl.load(place + NOPE + value_dim, mask=is_held & (value_dim < VALUE), other=0.0)
        turned = tl.load(
            entries + entry * (LATENT + ROPE) + LATENT + rope, mask=is_held & (rope < ROPE), other=0.0
        )
        scores = tl.zeros([TILE_ROWS, TILE_KEYS], tl.float32)
        scores = multiply(asked, tl.trans(key), scores, WIDEN)
        scores = multiply(asked_rope, tl.trans(turned), scores, WIDEN) * scale
        is_seen = (position < high)[None, :] & (position[None, :] <= (cached + token)[:, None])
        scores = tl.where(is_seen, scores, float("-inf"))
        best, total, mixed = add_tile(scores, value, best, total, mixed, WIDEN)

    if high == last:
        tl.store(out + answer, (mixed / total[:, None]).to(out.dtype.element_ty), mask=is_answer)
    else:
        tl.store(level, best, mask=is_token)
        tl.store(level + tokens * HEADS, total, mask=is_token)
        tl.store(mixed_sums + answer, mixed, mask=is_answer)
