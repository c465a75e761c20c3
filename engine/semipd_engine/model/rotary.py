"""Rotary positions as complex products: the two halves of a head lie interleaved, so that a pair is one number."""

from __future__ import annotations

import torch
from torch import Tensor


def rotations(positions: Tensor, frequencies: Tensor, magnitude: float) -> Tensor:
    """positions: (tokens) int64; frequencies: (dim / 2) fp32. Returns (tokens, 1, dim / 2) complex64."""
    angles = positions[:, None] * frequencies
    return torch.polar(torch.full_like(angles, magnitude), angles)[:, None, :]


def rotate(heads: Tensor, rotation: Tensor) -> None:
    """In place.

    heads: (tokens, heads, dim), the halves of each head interleaved; rotation: (tokens, 1, dim / 2) complex64.
    """
    tokens, num_heads, dim = heads.shape
    pairs = torch.view_as_complex(heads.float().view(tokens, num_heads, dim // 2, 2))
    pairs.mul_(rotation)
    if heads.dtype != torch.float32:
        heads.copy_(torch.view_as_real(pairs).flatten(2))


def rotated(heads: Tensor, rotation: Tensor) -> Tensor:
    """As `rotate`, into new memory; `heads` may be any part of longer heads."""
    new = heads.clone(memory_format=torch.contiguous_format)
    rotate(new, rotation)
    return new
