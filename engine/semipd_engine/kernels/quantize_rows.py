"""Activations to FP8 (E4M3) for a product of codes: each row with a scale of its own, found as the row is read."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from semipd_engine.kernels.tiles import is_interpreted

E4M3_MAX = tl.constexpr(448.0)
SCALE_MIN = tl.constexpr(1e-12)  # of rows of zeros


def quantize_rows(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, and the scales that make numbers of them: the largest number of a row is the largest code.

    hidden: (tokens, columns), contiguous in a row. Returns E4M3 (tokens, columns) and fp32 (tokens, 1).
    Raises: ValueError for strided rows.
    """
    tokens, columns = hidden.shape
    if hidden.stride(1) != 1:
        raise ValueError(f"hidden: strides {hidden.stride()}; allowed: rows that are contiguous")
    codes = torch.empty((tokens, columns), dtype=torch.float8_e4m3fn, device=hidden.device)
    scales = torch.empty((tokens, 1), dtype=torch.float32, device=hidden.device)
    padded = triton.next_power_of_2(columns)
    _quantize_rows[(tokens,)](
        hidden,
        codes.view(torch.uint8),
        scales,
        hidden.stride(0),
        columns,
        COLUMNS=padded,
        ROUND_FIRST=is_interpreted(),
        num_warps=min(16, max(1, padded // 512)),
    )
    return codes, scales


@triton.jit
def _quantize_rows(
    hidden, codes, scales, hidden_row, columns, COLUMNS: tl.constexpr, ROUND_FIRST: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    is_column = column < columns
    values = tl.load(hidden + token * hidden_row + column, mask=is_column, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(values), 0) / E4M3_MAX, SCALE_MIN)
    scaled = tl.minimum(tl.maximum(values / scale, -E4M3_MAX), E4M3_MAX)
    if ROUND_FIRST:
        scaled = _round_to_e4m3(scaled)
    code = scaled.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    tl.store(codes + token * columns + column, code, mask=is_column)
    tl.store(scales + token, scale)


@triton.jit
def _round_to_e4m3(values):
    """To the nearest, ties to even. The interpreter's own conversion rounds other numbers, but keeps those that are codes."""
    exponent = (values.to(tl.int32, bitcast=True) >> 23) & 255
    unit = ((tl.maximum(exponent, 121) - 3) << 23).to(
        tl.float32, bitcast=True
    )  # 2^-6 is the least that is normal
    shift = 12582912.0  # 1.5 * 2^23: numbers about it are whole
    return (values / unit + shift - shift) * unit
