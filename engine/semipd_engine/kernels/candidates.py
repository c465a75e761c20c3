"""What top_k, then top_p leave of a row, without a sort: bisection over bit patterns that are ordered as the logits are.

Of equal logits the lower token ids come first, as in a stable sort.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def ordered(logits):
    """fp32 to int64 in the same order, -0.0 beside 0.0."""
    bits = tl.where(logits == 0.0, 0.0, logits).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def find_cut(
    logits,
    temperatures,
    top_ks,
    top_ps,
    cut_values,
    cut_tokens,
    logits_row,
    vocab,
    TILE: tl.constexpr,
):
    """Per row the `ordered` logit and the token id of the last candidate. One program per row; without cuts it ends at once."""
    row = tl.program_id(0)
    temperature = tl.load(temperatures + row)
    top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
    is_top_k = (top_k > 0) & (top_k < vocab)
    if (temperature <= 0.0) | ((is_top_k == 0) & (top_p >= 1.0)):
        tl.store(cut_values + row, tl.full([], -(2**31), tl.int64))
        tl.store(cut_tokens + row, vocab)
        return
    first = logits + row.to(tl.int64) * logits_row
    kept = tl.where(is_top_k, top_k, vocab)

    least, most = _extremes(first, vocab, TILE)
    value = _kth_value(first, kept, least, tl.where(is_top_k, most, least), vocab, TILE)
    ties = kept - _count_from(first, value + 1, vocab, TILE)

    if top_p < 1.0:
        best = _logit(most).to(tl.float64) / temperature
        share = tl.exp(_logit(value).to(tl.float64) / temperature - best)
        mass = _mass_above(first, value, best, temperature, vocab, TILE) + share * ties
        wanted = tl.maximum(top_p, 1e-300) * mass  # the best token stays whatever top_p
        reached = _value_that_reaches(first, wanted, value, most, best, temperature, vocab, TILE)
        share = tl.exp(_logit(reached).to(tl.float64) / temperature - best)
        above = _mass_above(first, reached, best, temperature, vocab, TILE)
        needed = tl.minimum(tl.ceil((wanted - above) / share), vocab).to(tl.int64)
        ties = tl.minimum(needed, tl.where(reached == value, ties, vocab))
        value = reached
    tl.store(cut_values + row, value)
    tl.store(cut_tokens + row, _nth_token(first, value, ties, vocab, TILE))


@triton.jit
def _kth_value(first, kept, least, most, vocab, TILE: tl.constexpr):
    """The largest value that at least `kept` tokens reach."""
    low, high = least, most + 1
    while high - low > 1:
        middle = (low + high) >> 1
        is_reached = _count_from(first, middle, vocab, TILE) >= kept
        low = tl.where(is_reached, middle, low)
        high = tl.where(is_reached, high, middle)
    return low


@triton.jit
def _value_that_reaches(first, wanted, least, most, best, temperature, vocab, TILE: tl.constexpr):
    """The smallest value above which there is less than the wanted mass."""
    low, high = least - 1, most
    while high - low > 1:
        middle = (low + high) >> 1
        is_less = _mass_above(first, middle, best, temperature, vocab, TILE) < wanted
        high = tl.where(is_less, middle, high)
        low = tl.where(is_less, low, middle)
    return high


@triton.jit
def _logit(value):
    bits = value.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _extremes(first, vocab, TILE: tl.constexpr):
    """The smallest and the largest value."""
    least = tl.full([TILE], 2**31 - 1, tl.int64)
    most = tl.full([TILE], -(2**31), tl.int64)
    for start in range(0, vocab, TILE):
        token = start + tl.arange(0, TILE)
        values = ordered(tl.load(first + token, mask=token < vocab, other=0.0))
        least = tl.minimum(least, tl.where(token < vocab, values, 2**31 - 1))
        most = tl.maximum(most, tl.where(token < vocab, values, -(2**31)))
    return tl.min(least, 0), tl.max(most, 0)


@triton.jit
def _count_from(first, bound, vocab, TILE: tl.constexpr):
    """Tokens whose value is at least `bound`."""
    counts = tl.zeros([TILE], tl.int64)
    for start in range(0, vocab, TILE):
        token = start + tl.arange(0, TILE)
        values = ordered(tl.load(first + token, mask=token < vocab, other=0.0))
        counts += ((values >= bound) & (token < vocab)).to(tl.int64)
    return tl.sum(counts, 0)


@triton.jit
def _mass_above(first, bound, best, temperature, vocab, TILE: tl.constexpr):
    """Sum of exp(logit / temperature - best) of the tokens above `bound`, fp64."""
    masses = tl.zeros([TILE], tl.float64)
    for start in range(0, vocab, TILE):
        token = start + tl.arange(0, TILE)
        logits = tl.load(first + token, mask=token < vocab, other=0.0)
        is_above = (ordered(logits) > bound) & (token < vocab)
        masses += tl.where(is_above, tl.exp(logits.to(tl.float64) / temperature - best), 0.0)
    return tl.sum(masses, 0)


@triton.jit
def _nth_token(first, value, count, vocab, TILE: tl.constexpr):
    """The id of the `count`-th token of exactly this value."""
    seen = tl.zeros([], tl.int64)
    found = tl.zeros([], tl.int64)
    for start in range(0, vocab, TILE):
        token = start + tl.arange(0, TILE)
        values = ordered(tl.load(first + token, mask=token < vocab, other=0.0))
        is_tie = ((values == value) & (token < vocab)).to(tl.int64)
        is_counted = (is_tie > 0) & (seen + tl.cumsum(is_tie, 0) <= count)
        found = tl.maximum(found, tl.max(tl.where(is_counted, token, 0), 0).to(tl.int64))
        seen += tl.sum(is_tie, 0)
    return found
