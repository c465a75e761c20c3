"""Which token comes next, as the engine on CPU chooses it: keyed by (seed, position), whatever the batch, lane or switch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from semipd_engine.kernels.candidates import find_cut, ordered
from semipd_engine.kernels.gumbel import gumbel_noise
from semipd_engine.kernels.tiles import tiles_for


def sample(
    logits: Tensor,
    temperatures: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    seeds: Tensor,
    positions: Tensor,
    *,
    has_cuts: bool = True,
) -> Tensor:
    """One token id per row, (rows) int64; nothing waits for the device.

    logits: (rows, vocab) fp32; temperatures, top_ps: (rows) fp64; top_ks, positions: (rows) int64;
    seeds: (rows) int64, modulo 2**64; temperature 0 is greedy, top_k 0 and top_p 1.0 are off.
    has_cuts: False where the caller knows that no row has top_k or top_p, which saves a launch.
    The choice is the CPU's, but for two scores within the last bit of an fp64 logarithm, and a top_p that lies within
    the rounding of a sum of probabilities.
    Raises: ValueError for shapes or dtypes other than these.
    """
    rows, vocab = logits.shape
    _check(logits, temperatures, top_ks, top_ps, seeds, positions)
    tile = tiles_for(logits.device).vocabulary
    device = logits.device
    cut_values = torch.full((rows,), -(2**31), dtype=torch.int64, device=device)
    cut_tokens = torch.full((rows,), vocab, dtype=torch.int64, device=device)
    if has_cuts:
        find_cut[(rows,)](
            logits,
            temperatures,
            top_ks,
            top_ps,
            cut_values,
            cut_tokens,
            logits.stride(0),
            vocab,
            TILE=tile,
        )
    num_tiles = triton.cdiv(vocab, tile)
    scores = torch.empty((rows, num_tiles), dtype=torch.float64, device=device)
    tokens = torch.empty((rows, num_tiles), dtype=torch.int64, device=device)
    _best_of_tile[(rows, num_tiles)](
        logits,
        temperatures,
        cut_values,
        cut_tokens,
        seeds,
        positions,
        scores,
        tokens,
        logits.stride(0),
        vocab,
        TILE=tile,
    )
    chosen = torch.empty((rows,), dtype=torch.int64, device=device)
    _best_of_row[(rows,)](
        scores, tokens, chosen, vocab, num_tiles, TILES_PADDED=triton.next_power_of_2(num_tiles)
    )
    return chosen


def _check(
    logits: Tensor, temperatures: Tensor, top_ks: Tensor, top_ps: Tensor, seeds: Tensor, positions: Tensor
) -> None:
    if logits.dtype != torch.float32 or logits.stride(1) != 1:
        raise ValueError(f"logits: {logits.dtype}; allowed: torch.float32, rows contiguous")
    for name, tensor, dtype in (
        ("temperatures", temperatures, torch.float64),
        ("top_ks", top_ks, torch.int64),
        ("top_ps", top_ps, torch.float64),
        ("seeds", seeds, torch.int64),
        ("positions", positions, torch.int64),
    ):
        if tensor.shape != (len(logits),) or tensor.dtype != dtype or not tensor.is_contiguous():
            given = f"shape {tuple(tensor.shape)}, {tensor.dtype}"
            raise ValueError(f"{name}: {given}; allowed: ({len(logits)},) of {dtype}, contiguous")


@triton.jit
def _best_of_tile(
    logits,
    temperatures,
    cut_values,
    cut_tokens,
    seeds,
    positions,
    scores_out,
    tokens_out,
    logits_row,
    vocab,
    TILE: tl.constexpr,
):
    row, tile = tl.program_id(0), tl.program_id(1)
    temperature = tl.load(temperatures + row)
    token = tile * TILE + tl.arange(0, TILE)
    logit = tl.load(logits + row.to(tl.int64) * logits_row + token, mask=token < vocab, other=float("-inf"))
    scores = logit.to(tl.float64)
    if temperature > 0.0:
        cut_value, cut_token = tl.load(cut_values + row), tl.load(cut_tokens + row)
        value = ordered(logit)
        is_candidate = (value > cut_value) | ((value == cut_value) & (token <= cut_token))
        noise = gumbel_noise(tl.load(seeds + row), tl.load(positions + row), token)
        scores = tl.where(is_candidate, scores / temperature + noise, float("-inf"))
    best = tl.max(scores, 0)
    place = row * tl.num_programs(1) + tile
    tl.store(scores_out + place, best)
    tl.store(tokens_out + place, tl.min(tl.where(scores == best, token, vocab - 1), 0).to(tl.int64))


@triton.jit
def _best_of_row(scores, tokens, chosen, vocab, num_tiles, TILES_PADDED: tl.constexpr):
    row = tl.program_id(0)
    tile = tl.arange(0, TILES_PADDED)
    score = tl.load(scores + row * num_tiles + tile, mask=tile < num_tiles, other=float("-inf"))
    token = tl.load(tokens + row * num_tiles + tile, mask=tile < num_tiles, other=vocab - 1)
    is_best = score == tl.max(score, 0)
    tl.store(chosen + row, tl.min(tl.where(is_best, token, vocab - 1), 0))
