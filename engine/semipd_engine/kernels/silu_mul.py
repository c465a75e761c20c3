"""The gate of a gated feed-forward block (SwiGLU, Shazeer, arXiv 2002.05202)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from semipd_engine.kernels.tiles import tiles_for


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, in fp32 until it is stored.

    gate_up: (tokens, 2 * inner), contiguous, the gate first. Returns (tokens, inner).
    Raises: ValueError for an odd or strided `gate_up`.
    """
    tokens, both = gate_up.shape
    if both % 2 or not gate_up.is_contiguous():
        given = f"shape {tuple(gate_up.shape)}, strides {gate_up.stride()}"
        raise ValueError(f"gate_up: {given}; allowed: (tokens, 2 * inner), contiguous")
    columns = tiles_for(gate_up.device).silu_columns
    out = torch.empty((tokens, both // 2), dtype=gate_up.dtype, device=gate_up.device)
    _silu_mul[(tokens, triton.cdiv(both // 2, columns))](gate_up, out, both // 2, COLUMNS=columns)
    return out


@triton.jit
def _silu_mul(gate_up, out, inner, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = column < inner
    gate = tl.load(gate_up + row * 2 * inner + column, mask=is_column, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * inner + inner + column, mask=is_column, other=0.0).to(tl.float32)
    product = gate * tl.sigmoid(gate) * up
    tl.store(out + row * inner + column, product.to(out.dtype.element_ty), mask=is_column)
