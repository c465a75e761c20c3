"""Rotary positions and the KV store in one pass over the fused projection: each value is read once and written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from semipd_engine.kernels.tiles import tiles_for


def rotate_and_store(qkv: Tensor, rotation: Tensor, kv: Tensor, kv_slots: Tensor, num_heads: int) -> None:
    """Queries are rotated in place; rotated keys, and values, go to their pages alone: `qkv` keeps the plain ones.

    qkv: (tokens, (num_heads + 2 * kv_heads) * dim), halves of query and key heads interleaved;
    rotation: (tokens, 1, dim / 2) complex64; kv: (2, blocks, block_tokens, kv_heads, dim), one layer;
    kv_slots: (tokens) int64, block * block_tokens + offset.
    Raises: ValueError for shapes or dtypes other than these.
    """
    _, _, block_tokens, kv_heads, dim = kv.shape
    tokens, all_heads = len(qkv), num_heads + 2 * kv_heads
    _check(qkv, rotation, kv, kv_slots, all_heads)
    tile_heads = tiles_for(qkv.device).rope_heads
    _rotate_and_store[(tokens, triton.cdiv(all_heads, tile_heads))](
        qkv,
        torch.view_as_real(rotation),
        kv,
        kv_slots,
        qkv.stride(0),
        kv.stride(0),
        kv.stride(1),
        kv.stride(2),
        kv.stride(3),
        HEADS=num_heads,
        KV_HEADS=kv_heads,
        DIM=dim,
        DIM_PADDED=triton.next_power_of_2(dim),
        BLOCK_TOKENS=block_tokens,
        TILE_HEADS=tile_heads,
    )


def _check(qkv: Tensor, rotation: Tensor, kv: Tensor, kv_slots: Tensor, all_heads: int) -> None:
    tokens, dim = len(qkv), kv.shape[4]
    if qkv.shape != (tokens, all_heads * dim) or qkv.stride(1) != 1 or qkv.dtype != kv.dtype:
        given = f"shape {tuple(qkv.shape)}, {qkv.dtype}"
        raise ValueError(f"qkv: {given}; allowed: (tokens, {all_heads * dim}) of {kv.dtype}, rows contiguous")
    if rotation.shape != (tokens, 1, dim // 2) or rotation.dtype != torch.complex64:
        given = f"shape {tuple(rotation.shape)}, {rotation.dtype}"
        raise ValueError(f"rotation: {given}; allowed: ({tokens}, 1, {dim // 2}) of torch.complex64")
    if kv_slots.shape != (tokens,) or kv_slots.dtype != torch.int64:
        given = f"shape {tuple(kv_slots.shape)}, {kv_slots.dtype}"
        raise ValueError(f"kv_slots: {given}; allowed: ({tokens},) of torch.int64")


@triton.jit
def turn(plain, angles, HEADS: tl.constexpr, DIM: tl.constexpr, DIM_PADDED: tl.constexpr):
    """Heads of one token rotated. plain: (HEADS, DIM_PADDED), pairs interleaved; angles: where its complex numbers are."""
    pair = tl.arange(0, DIM_PADDED // 2)
    cosine = tl.load(angles + 2 * pair, mask=2 * pair < DIM, other=0.0)[None, :]
    sine = tl.load(angles + 2 * pair + 1, mask=2 * pair < DIM, other=0.0)[None, :]
    real, imaginary = tl.split(tl.reshape(plain.to(tl.float32), [HEADS, DIM_PADDED // 2, 2]))
    turned = tl.join(real * cosine - imaginary * sine, real * sine + imaginary * cosine)
    return tl.reshape(turned, [HEADS, DIM_PADDED]).to(plain.dtype)


@triton.jit
def _rotate_and_store(
    qkv,
    rotation,
    kv,
    kv_slots,
    qkv_row,
    kv_plane,
    kv_block,
    kv_token,
    kv_head_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    TILE_HEADS: tl.constexpr,
):
    token, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    head = (tile * TILE_HEADS + tl.arange(0, TILE_HEADS))[:, None]
    dim = tl.arange(0, DIM_PADDED)[None, :]
    is_number = (head < HEADS + 2 * KV_HEADS) & (dim < DIM)
    source = qkv + token * qkv_row + head * DIM + dim
    plain = tl.load(source, mask=is_number, other=0.0)

    turned = turn(plain, rotation + token * DIM, TILE_HEADS, DIM, DIM_PADDED)
    tl.store(source, turned, mask=is_number & (head < HEADS))

    slot = tl.load(kv_slots + token)
    page = kv + (slot // BLOCK_TOKENS) * kv_block + (slot % BLOCK_TOKENS) * kv_token + dim
    key = head - HEADS
    value = key - KV_HEADS
    tl.store(page + key * kv_head_stride, turned, mask=is_number & (key >= 0) & (value < 0))
    tl.store(page + kv_plane + value * kv_head_stride, plain, mask=is_number & (value >= 0))
