"""The norm of latents, rotary positions and the store of both in one pass (MLA, DeepSeek-V2, arXiv 2405.04434)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from semipd_engine.kernels.rope_store import turn
from semipd_engine.kernels.tiles import tiles_for


def norm_rotate_and_store(
    query: Tensor,
    entries: Tensor,
    norm: Tensor,
    rotation: Tensor,
    latents: Tensor,
    kv_slots: Tensor,
    *,
    epsilon: float,
) -> None:
    """Queries' rotary parts are rotated in place; normed latents and rotated keys go to their pages alone.

    query: (tokens, heads, nope + rope); entries: (tokens, latent + rope) as projected, only read; norm: (latent);
    rotation: (tokens, 1, rope / 2) complex64, pairs interleaved; latents: (blocks, block_tokens, latent + rope), one layer;
    kv_slots: (tokens) int64, block * block_tokens + offset; epsilon: of the norm, RMSNorm in fp32.
    Raises: ValueError for shapes or dtypes other than these.
    """
    _check(query, entries, norm, rotation, latents, kv_slots)
    tokens, heads, dim = query.shape
    latent_dim, rope = len(norm), 2 * rotation.shape[2]
    tile_heads = tiles_for(query.device).rope_heads
    _norm_rotate_and_store[(tokens, 1 + triton.cdiv(heads, tile_heads))](
        query,
        entries,
        norm,
        torch.view_as_real(rotation),
        latents,
        kv_slots,
        epsilon,
        query.stride(0),
        query.stride(1),
        entries.stride(0),
        latents.stride(0),
        latents.stride(1),
        HEADS=heads,
        NOPE=dim - rope,
        LATENT=latent_dim,
        LATENT_PADDED=triton.next_power_of_2(latent_dim),
        ROPE=rope,
        ROPE_PADDED=triton.next_power_of_2(rope),
        BLOCK_TOKENS=latents.shape[1],
        TILE_HEADS=tile_heads,
    )


def _check(
    query: Tensor, entries: Tensor, norm: Tensor, rotation: Tensor, latents: Tensor, kv_slots: Tensor
) -> None:
    tokens, dtype = len(entries), latents.dtype
    if rotation.shape != (tokens, 1, rotation.shape[-1]) or rotation.dtype != torch.complex64:
        given = f"shape {tuple(rotation.shape)}, {rotation.dtype}"
        raise ValueError(f"rotation: {given}; allowed: ({tokens}, 1, rope / 2) of torch.complex64")
    rope = 2 * rotation.shape[2]
    entry_dim = len(norm) + rope
    if query.ndim != 3 or len(query) != tokens or query.shape[2] < rope or not _has_rows(query, dtype):
        given = f"shape {tuple(query.shape)}, {query.dtype}"
        raise ValueError(f"query: {given}; allowed: ({tokens}, heads, at least {rope}) of {dtype}")
    for name, tensor, shape in (
        ("entries", entries, (tokens, entry_dim)),
        ("norm", norm, (len(norm),)),
        ("latents", latents, (*latents.shape[:2], entry_dim)),
    ):
        if tensor.shape != shape or not _has_rows(tensor, dtype):
            given = f"shape {tuple(tensor.shape)}, {tensor.dtype}"
            raise ValueError(f"{name}: {given}; allowed: {shape} of {dtype}, rows contiguous")
    if kv_slots.shape != (tokens,) or kv_slots.dtype != torch.int64:
        given = f"shape {tuple(kv_slots.shape)}, {kv_slots.dtype}"
        raise ValueError(f"kv_slots: {given}; allowed: ({tokens},) of torch.int64")


def _has_rows(tensor: Tensor, dtype: torch.dtype) -> bool:
    return tensor.stride(-1) == 1 and tensor.dtype == dtype


@triton.jit
def _norm_rotate_and_store(
    query,
    entries,
    norm,
    rotation,
    latents,
    kv_slots,
    epsilon,
    query_row,
    query_head,
    entry_row,
    latent_block,
    latent_token,
    HEADS: tl.constexpr,
    NOPE: tl.constexpr,
    LATENT: tl.constexpr,
    LATENT_PADDED: tl.constexpr,
    ROPE: tl.constexpr,
    ROPE_PADDED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    TILE_HEADS: tl.constexpr,
):
    token, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    rope = tl.arange(0, ROPE_PADDED)[None, :]
    if tile == 0:  # the entry; tiles of heads come after it
        slot = tl.load(kv_slots + token)
        page = latents + (slot // BLOCK_TOKENS) * latent_block + (slot % BLOCK_TOKENS) * latent_token
        entry = entries + token * entry_row
        dim = tl.arange(0, LATENT_PADDED)
        is_dim = dim < LATENT
        wide = tl.load(entry + dim, mask=is_dim, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(wide * wide, 0) / LATENT + epsilon)
        scaled = wide * scale * tl.load(norm + dim, mask=is_dim, other=0.0).to(tl.float32)
        tl.store(page + dim, scaled.to(latents.dtype.element_ty), mask=is_dim)
        key = tl.load(entry + LATENT + rope, mask=rope < ROPE, other=0.0)
        tl.store(
            page + LATENT + rope, turn(key, rotation + token * ROPE, 1, ROPE, ROPE_PADDED), mask=rope < ROPE
        )
    else:
        head = ((tile - 1) * TILE_HEADS + tl.arange(0, TILE_HEADS))[:, None]
        is_number = (head < HEADS) & (rope < ROPE)
        source = query + token * query_row + head * query_head + NOPE + rope
        plain = tl.load(source, mask=is_number, other=0.0)
        tl.store(source, turn(plain, rotation + token * ROPE, TILE_HEADS, ROPE, ROPE_PADDED), mask=is_number)
