"""Split-KV decode: how a context is cut, and how the parts become one answer (FlashDecoding, PyTorch blog, October 2023)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from semipd_engine.kernels.tiles import SplitTiles, step_keys


@triton.jit
def split_tokens(context, MIN_SPLIT_TOKENS: tl.constexpr, MAX_SPLITS: tl.constexpr, TILE_KEYS: tl.constexpr):
    """KV entries per split: of this row's context alone, so that its result is that of any batch."""
    span = tl.maximum(tl.cdiv(context, MAX_SPLITS), MIN_SPLIT_TOKENS)
    return tl.cdiv(span, TILE_KEYS) * TILE_KEYS


class Partials:
    """What the splits of one step leave for `merge`, by (row, head, split)."""

    def __init__(self, query: Tensor, dim: int, tiles: SplitTiles) -> None:
        """query: (rows, heads, any); dim: of the answer."""
        device = query.device
        shape = (*query.shape[:2], tiles.max_splits)
        self.mixed = torch.empty((*shape, dim), dtype=torch.float32, device=device)
        self.logsumexp = torch.empty(shape, dtype=torch.float32, device=device)  # to base 2
        self._tiles = tiles
        self._keys = step_keys(tiles.keys, query.dtype)

    def merge(self, context_tokens: Tensor, out: Tensor) -> None:
        """out: (rows, heads, dim), contiguous; zeros for a row without context."""
        rows, heads, dim = out.shape
        _merge_splits[(rows, heads)](
            self.mixed,
            self.logsumexp,
            context_tokens,
            out,
            HEADS=heads,
            DIM=dim,
            DIM_PADDED=triton.next_power_of_2(dim),
            MIN_SPLIT_TOKENS=self._tiles.min_split_tokens,
            MAX_SPLITS=self._tiles.max_splits,
            TILE_KEYS=self._keys,
        )


@triton.jit
def _merge_splits(
    mixed,
    logsumexp,
    context_tokens,
    out,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    MIN_SPLIT_TOKENS: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    TILE_KEYS: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    context = tl.load(context_tokens + row)
    num_splits = tl.cdiv(context, split_tokens(context, MIN_SPLIT_TOKENS, MAX_SPLITS, TILE_KEYS))
    split = tl.arange(0, MAX_SPLITS)
    dim = tl.arange(0, DIM_PADDED)
    answer = (row * HEADS + head).to(tl.int64)
    levels = tl.load(logsumexp + answer * MAX_SPLITS + split, mask=split < num_splits, other=float("-inf"))
    best = tl.where(num_splits > 0, tl.max(levels, 0), 0.0)
    weights = tl.exp2(levels - best)
    total = tl.where(num_splits > 0, tl.sum(weights, 0), 1.0)
    parts = tl.load(
        mixed + (answer * MAX_SPLITS + split[:, None]) * DIM + dim[None, :],
        mask=(split[:, None] < num_splits) & (dim[None, :] < DIM),
        other=0.0,
    )
    merged = tl.sum(parts * weights[:, None], 0) / total
    tl.store(out + answer * DIM + dim, merged.to(out.dtype.element_ty), mask=dim < DIM)
