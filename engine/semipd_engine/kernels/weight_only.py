"""Products with weights in FP8 (E4M3) and everything else wider: codes are read as they are and widened in registers, exactly.

A scale multiplies sums of its own columns, in fp32, so no weight is rounded. Decode is bound by what it reads: half of bf16.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from semipd_engine.kernels.softmax import multiply
from semipd_engine.kernels.tiles import LEAST_KEYS, WeightOnlyTiles, is_interpreted, step_keys, tiles_for


def weight_only_matmul(
    hidden: Tensor, codes: Tensor, scales: Tensor, block_columns: int, bias: Tensor | None = None
) -> Tensor:
    """The product of values and weights, plus a bias, in fp32 until it is stored.

    hidden: (tokens, columns), bf16, fp16 or fp32, contiguous in a row; codes: (rows, columns) E4M3, contiguous; bias: (rows);
    scales: fp32, (rows, 1), or (rows, blocks) of `block_columns` columns each, a power of two from 16.
    Returns (tokens, rows). Raises: ValueError for shapes or dtypes other than these.
    """
    _check(hidden, codes, scales, block_columns, bias)
    tokens, columns = hidden.shape
    rows, blocks = scales.shape
    tiles = choose_tiles(tiles_for(hidden.device).weight_only, tokens)
    out = torch.empty((tokens, rows), dtype=hidden.dtype, device=hidden.device)
    tile_columns = step_keys(tiles.columns, hidden.dtype)
    _multiply_codes[(triton.cdiv(tokens, tiles.tokens), triton.cdiv(rows, tiles.rows))](
        hidden,
        codes.view(torch.uint8),
        scales,
        scales if bias is None else bias,
        out,
        tokens,
        rows,
        columns,
        hidden.stride(0),
        blocks,
        BLOCK_COLUMNS=0 if blocks == 1 else block_columns,
        HAS_BIAS=bias is not None,
        TILE_TOKENS=tiles.tokens,
        TILE_ROWS=tiles.rows,
        TILE_COLUMNS=tile_columns if blocks == 1 else min(tile_columns, block_columns),
        WIDEN=is_interpreted(),
        num_warps=tiles.launch.num_warps,
        num_stages=tiles.launch.num_stages,
    )
    return out


def choose_tiles(sizes: tuple[WeightOnlyTiles, ...], tokens: int) -> WeightOnlyTiles:
    """The first that is meant for so many tokens; the last for any more."""
    return next((tiles for tiles in sizes[:-1] if tokens <= tiles.tokens), sizes[-1])


def _check(hidden: Tensor, codes: Tensor, scales: Tensor, block_columns: int, bias: Tensor | None) -> None:
    columns, rows = hidden.shape[1], len(codes)
    if codes.shape != (rows, columns) or codes.dtype != torch.float8_e4m3fn or not codes.is_contiguous():
        given = f"shape {tuple(codes.shape)}, {codes.dtype}"
        raise ValueError(f"codes: {given}; allowed: (rows, {columns}) of torch.float8_e4m3fn, contiguous")
    blocks = triton.cdiv(columns, block_columns)
    if scales.shape not in {(rows, 1), (rows, blocks)} or scales.dtype != torch.float32:
        given = f"shape {tuple(scales.shape)}, {scales.dtype}"
        raise ValueError(f"scales: {given}; allowed: ({rows}, 1) or ({rows}, {blocks}) of torch.float32")
    if block_columns < LEAST_KEYS or block_columns & (block_columns - 1):
        raise ValueError(f"block_columns: {block_columns}; allowed: a power of two from {LEAST_KEYS}")
    if hidden.stride(1) != 1:
        raise ValueError(f"hidden: strides {hidden.stride()}; allowed: rows that are contiguous")
    if bias is not None and (bias.shape != (rows,) or bias.dtype != hidden.dtype):
        given = f"shape {tuple(bias.shape)}, {bias.dtype}"
        raise ValueError(f"bias: {given}; allowed: ({rows},) of {hidden.dtype}")


@triton.jit(do_not_specialize=["tokens"])  # else a batch of 1 or of 16 would be compiled for anew
def _multiply_codes(
    hidden,
    codes,
    scales,
    bias,
    out,
    tokens,
    rows,
    columns,
    hidden_row,
    blocks,
    BLOCK_COLUMNS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TILE_TOKENS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    # Weights stand on the left: that operand may come from registers, where they are widened.
    token = tl.program_id(0) * TILE_TOKENS + tl.arange(0, TILE_TOKENS)
    row = tl.program_id(1) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    is_token, is_row = token < tokens, row < rows
    token_place = token.to(tl.int64) * hidden_row
    row_place = row.to(tl.int64) * columns
    sums = tl.zeros([TILE_ROWS, TILE_TOKENS], tl.float32)
    for start in range(0, columns, TILE_COLUMNS):
        column = start + tl.arange(0, TILE_COLUMNS)
        is_column = column < columns
        asked = tl.load(
            hidden + token_place[None, :] + column[:, None],
            mask=is_token[None, :] & is_column[:, None],
            other=0.0,
        )
        code = tl.load(
            codes + row_place[:, None] + column[None, :], mask=is_row[:, None] & is_column[None, :], other=0
        )
        weight = code.to(tl.float8e4nv, bitcast=True).to(asked.dtype)
        if BLOCK_COLUMNS:
            scale = tl.load(scales + row * blocks + start // BLOCK_COLUMNS, mask=is_row, other=0.0)
            zeros = tl.zeros([TILE_ROWS, TILE_TOKENS], tl.float32)
            sums += multiply(weight, asked, zeros, WIDEN) * scale[:, None]
        else:
            sums = multiply(weight, asked, sums, WIDEN)
    if not BLOCK_COLUMNS:
        sums *= tl.load(scales + row, mask=is_row, other=0.0)[:, None]
    if HAS_BIAS:
        sums += tl.load(bias + row, mask=is_row, other=0.0).to(tl.float32)[:, None]
    place = token.to(tl.int64)[None, :] * rows + row[:, None]
    tl.store(out + place, sums.to(out.dtype.element_ty), mask=is_row[:, None] & is_token[None, :])
