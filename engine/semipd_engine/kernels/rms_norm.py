"""The residual stream between two blocks: add what the last one gave, normalise for the next, in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def add_rms_norm(residual: Tensor, addend: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
    """RMSNorm (Zhang and Sennrich, arXiv 1910.07467) of `residual + addend`, which `residual` becomes.

    residual, addend: (tokens, hidden), contiguous; the sum is rounded to their dtype before it is normalised in fp32.
    weight: (hidden). Returns (tokens, hidden). Without an addend `residual` is only read.
    Raises: ValueError where shapes or dtypes differ.
    """
    tokens, hidden = residual.shape
    for name, tensor, shape in (
        ("residual", residual, (tokens, hidden)),
        ("addend", addend, (tokens, hidden)),
        ("weight", weight, (hidden,)),
    ):
        if tensor is None:
            continue
        if tensor.shape != shape or tensor.dtype != residual.dtype or not tensor.is_contiguous():
            given = f"shape {tuple(tensor.shape)}, {tensor.dtype}"
            raise ValueError(f"{name}: {given}; allowed: {shape} of {residual.dtype}, contiguous")
    out = torch.empty_like(residual)
    columns = triton.next_power_of_2(hidden)
    _add_rms_norm[(tokens,)](
        residual,
        residual if addend is None else addend,
        weight,
        out,
        epsilon,
        HIDDEN=hidden,
        COLUMNS=columns,
        HAS_ADDEND=addend is not None,
        num_warps=min(16, max(1, columns // 512)),
    )
    return out


@triton.jit
def _add_rms_norm(
    residual,
    addend,
    weight,
    out,
    epsilon,
    HIDDEN: tl.constexpr,
    COLUMNS: tl.constexpr,
    HAS_ADDEND: tl.constexpr,
):
    column = tl.arange(0, COLUMNS)
    is_column = column < HIDDEN
    place = tl.program_id(0).to(tl.int64) * HIDDEN + column
    values = tl.load(residual + place, mask=is_column, other=0.0)
    if HAS_ADDEND:
        more = tl.load(addend + place, mask=is_column, other=0.0)
        values = (values.to(tl.float32) + more.to(tl.float32)).to(values.dtype)
        tl.store(residual + place, values, mask=is_column)
    wide = values.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / HIDDEN + epsilon)
    scaled = wide * scale * tl.load(weight + column, mask=is_column, other=0.0).to(tl.float32)
    tl.store(out + place, scaled.to(out.dtype.element_ty), mask=is_column)
