"""Attention over keys that come tile by tile: the running softmax (Milakov and Gimelshein, arXiv 1805.02867), to base 2."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def multiply(left, right, sums, WIDEN: tl.constexpr):
    """Left @ right, added to fp32 sums. WIDEN: the interpreter would multiply the bits of bf16 as integers, so it gets fp32."""
    if WIDEN:
        left = left.to(tl.float32)
        right = right.to(tl.float32)
    return tl.dot(left, right, sums, input_precision="ieee")


@triton.jit
def add_tile(scores, values, best, total, mixed, WIDEN: tl.constexpr):
    """One more tile of keys.

    scores: (rows, keys) fp32, to base 2, -inf where hidden, and no row's first tile hidden as a whole;
    values: (keys, dim). Returns best and total (rows) and mixed (rows, dim), fp32: maximum, sum of weights,
    weighted sum of values.
    """
    better = tl.maximum(best, tl.max(scores, 1))
    weights = tl.exp2(scores - better[:, None])
    decay = tl.exp2(best - better)
    total = total * decay + tl.sum(weights, 1)
    mixed = multiply(weights.to(values.dtype), values, mixed * decay[:, None], WIDEN)
    return better, total, mixed
