"""How each kernel cuts its work, per compute capability. Nothing here depends on the batch, so neither does any result.

No value is tuned: they are first guesses for what a GPU is to measure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import triton


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What the compiler is asked for."""

    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitTiles:
    """Decode attention: contexts are cut into at most `max_splits` spans of at least `min_split_tokens`."""

    heads: int  # query heads per program, at least; the least that a matrix instruction takes
    keys: int  # KV entries per step, of two bytes per value
    min_split_tokens: int  # a multiple of `keys`
    max_splits: int  # a power of two
    launch: Launch


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillTiles:
    rows: int  # (token, query head) pairs per program
    keys: int
    launch: Launch


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOnlyTiles:
    """A product with weights in FP8: `tokens` of a program are also the most that this size is meant for."""

    tokens: int
    rows: int  # of the weights
    columns: int  # per step, of two bytes per value
    launch: Launch


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    decode: SplitTiles
    mla: SplitTiles
    prefill: PrefillTiles
    mla_prefill: PrefillTiles
    rope_heads: int  # heads per program
    silu_columns: int
    weight_only: tuple[WeightOnlyTiles, ...]  # ascending
    vocabulary: int  # logits per program, and per step of a search


def _tiles(*, prefill_rows: int, prefill_warps: int, mla_prefill_keys: int, stages: int) -> Tiles:
    return Tiles(
        decode=SplitTiles(
            heads=16,
            keys=64,
            min_split_tokens=128,
            max_splits=16,
            launch=Launch(num_warps=4, num_stages=stages),
        ),
        mla=SplitTiles(
            heads=16,
            keys=32,
            min_split_tokens=128,
            max_splits=16,
            launch=Launch(num_warps=4, num_stages=2),
        ),
        prefill=PrefillTiles(
            rows=prefill_rows, keys=64, launch=Launch(num_warps=prefill_warps, num_stages=stages)
        ),
        mla_prefill=PrefillTiles(
            rows=prefill_rows,
            keys=mla_prefill_keys,
            launch=Launch(num_warps=prefill_warps, num_stages=2),
        ),
        rope_heads=8,
        silu_columns=1024,
        weight_only=(
            WeightOnlyTiles(
                tokens=16, rows=32, columns=128, launch=Launch(num_warps=4, num_stages=stages + 1)
            ),
            WeightOnlyTiles(tokens=64, rows=64, columns=128, launch=Launch(num_warps=4, num_stages=stages)),
            WeightOnlyTiles(tokens=128, rows=128, columns=64, launch=Launch(num_warps=8, num_stages=stages)),
        ),
        vocabulary=2048,
    )


LEAST_KEYS = 16  # that a matrix instruction takes
_INTERPRETER_LAUNCH = Launch(num_warps=1, num_stages=1)
INTERPRETER = Tiles(  # small, so that short contexts already have several steps and splits
    decode=SplitTiles(heads=16, keys=16, min_split_tokens=32, max_splits=4, launch=_INTERPRETER_LAUNCH),
    mla=SplitTiles(heads=16, keys=16, min_split_tokens=32, max_splits=4, launch=_INTERPRETER_LAUNCH),
    prefill=PrefillTiles(rows=16, keys=16, launch=_INTERPRETER_LAUNCH),
    mla_prefill=PrefillTiles(rows=16, keys=16, launch=_INTERPRETER_LAUNCH),
    rope_heads=4,
    silu_columns=32,
    weight_only=(
        WeightOnlyTiles(tokens=16, rows=16, columns=16, launch=_INTERPRETER_LAUNCH),
        WeightOnlyTiles(tokens=32, rows=32, columns=32, launch=_INTERPRETER_LAUNCH),
    ),
    vocabulary=64,
)
BY_CAPABILITY: Mapping[int, Tiles] = {  # by the major number
    8: _tiles(prefill_rows=64, prefill_warps=4, mla_prefill_keys=32, stages=2),
    9: _tiles(prefill_rows=128, prefill_warps=8, mla_prefill_keys=64, stages=3),
    10: _tiles(prefill_rows=128, prefill_warps=8, mla_prefill_keys=64, stages=3),
    12: _tiles(prefill_rows=64, prefill_warps=4, mla_prefill_keys=32, stages=2),
}


def is_interpreted() -> bool:
    return bool(triton.knobs.runtime.interpret)


def step_keys(keys: int, dtype: torch.dtype) -> int:
    """Half as many for fp32, so that what a step holds in shared memory stays as large."""
    return keys if dtype.itemsize <= 2 else max(LEAST_KEYS, keys // 2)


def tiles_for(device: torch.device) -> Tiles:
    """Raises: ValueError for a compute capability without a row in BY_CAPABILITY."""
    if is_interpreted():
        return INTERPRETER
    major, minor = torch.cuda.get_device_capability(device)
    if major not in BY_CAPABILITY:
        allowed = ", ".join(f"{number}.x" for number in BY_CAPABILITY)
        raise ValueError(f"compute capability: {major}.{minor} is not supported; allowed: {allowed}")
    return BY_CAPABILITY[major]
