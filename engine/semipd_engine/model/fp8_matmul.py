"""What a product of FP8 numbers on a GPU is to give, computed in fp32: the oracle of `torch._scaled_mm` with a scale per row.

A scale of a tensor is the same scale for each of its rows, so fused projections of several tensors lose nothing; several scales
in a row do not fit such a product.
"""

from __future__ import annotations

import torch
from torch import Tensor

E4M3_MAX = 448.0
SCALE_MIN = 1e-12  # of rows of zeros


def quantize_rows(values: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) to codes E4M3 and scales (rows, 1) fp32, so that the largest number of a row is the largest code."""
    scales = (values.float().abs().amax(1, keepdim=True) / E4M3_MAX).clamp_min(SCALE_MIN)
    return (values.float() / scales).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn), scales


def scaled_matmul(hidden: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """hidden: (tokens, columns), quantized here; codes: (rows, columns) E4M3; scales: (rows, 1). Returns (tokens, rows)."""
    asked, asked_scales = quantize_rows(hidden)
    products = asked.float() @ codes.float().t()
    return (products * asked_scales * scales.t()).to(hidden.dtype)
