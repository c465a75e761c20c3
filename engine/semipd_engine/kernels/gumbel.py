"""The noise of the engine's sampler on CPU, bit by bit up to the logarithm: splitmix64 of (seed, position, token), Gumbel-max.

Sources: as in `semipd_engine.model.sampling`.
"""

from __future__ import annotations

import triton
import triton.language as tl

_GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
_MIX_1 = tl.constexpr(0xBF58476D1CE4E5B9)
_MIX_2 = tl.constexpr(0x94D049BB133111EB)
_HALF_OF_LAST_BIT = tl.constexpr(2.0**-53)


@triton.jit
def gumbel_noise(seed, position, tokens):
    """Standard Gumbel values, fp64, for token ids of the stream (seed, position), both int64 scalars."""
    golden = tl.full([], _GOLDEN, tl.uint64)
    key = _mix(seed.to(tl.uint64, bitcast=True) + golden)
    key = _mix(key + position.to(tl.uint64, bitcast=True) + golden)
    bits = _mix((tokens + 1).to(tl.uint64) * golden + key)
    uniform = ((bits >> 11).to(tl.float64) + 0.5) * _HALF_OF_LAST_BIT
    return -tl.log(-tl.log(uniform))


@triton.jit
def _mix(values):
    """The finaliser of splitmix64, which wraps."""
    values = (values ^ (values >> 30)) * tl.full([], _MIX_1, tl.uint64)
    values = (values ^ (values >> 27)) * tl.full([], _MIX_2, tl.uint64)
    return values ^ (values >> 31)
