"""Projections that stay FP8 in the arena: codes as in the checkpoint, and beside them fp32 scales.

A scale is one of a row, or of some columns of a row. What a checkpoint has for a tensor or for a block of rows is repeated for
each row, so that rows are fused, interleaved and cut over ranks with their scales, whatever the blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from semipd_core.errors import InvalidSpec
from semipd_engine.model.fp8 import CODES, SCALES, Scheme
from semipd_engine.model.layout import FusedTensor, Part
from semipd_engine.model.sharding import FIELD

SCALES_OF = "{}_scales"  # the name of a projection's scales
# What is multiplied as a whole. Experts and `kv_up`, which is read as two matrices for each head, are dequantized at load.
KEPT = frozenset({"qkv", "o", "gate_up", "down", "q_kv", "q_up"})


def keep_fp8(
    tensors: Sequence[FusedTensor], row_scales: Mapping[str, tuple[int, int]], scheme: Scheme
) -> list[FusedTensor]:
    """Codes and scales in place of those projections whose parts all have scales.

    row_scales: as of `Fp8Checkpoint`. Raises: InvalidSpec if a cut over ranks goes through a block.
    """
    placed: list[FusedTensor] = []
    for tensor in tensors:
        kind = tensor.name.rpartition(".")[2]
        if kind not in KEPT or not all(part.source in row_scales for part in tensor.parts):
            placed.append(tensor)
            continue
        codes = tuple(replace(part, source=part.source + CODES) for part in tensor.parts)
        scales = tuple(_scales_of(part, row_scales[part.source], scheme) for part in tensor.parts)
        placed.append(replace(tensor, parts=codes, dtype="FP8"))
        placed.append(FusedTensor(name=SCALES_OF.format(tensor.name), parts=scales, dtype="FP32"))
    return placed


def block_columns(columns: int, scale_columns: int) -> int:
    """The columns of one scale, which are a power of two; of a scale for the whole row at least `columns`."""
    return 1 << (-(-columns // scale_columns) - 1).bit_length()


def _scales_of(part: Part, shape: tuple[int, int], scheme: Scheme) -> Part:
    columns = None
    if part.columns is not None and scheme.block is not None and shape[1] > 1:
        width = scheme.block[1]
        if any(cut % width for cut in part.columns):
            num_ranks = part.shape[1] // (part.columns[1] - part.columns[0])
            raise InvalidSpec(
                FIELD,
                num_ranks,
                f"a number that cuts the {part.shape[1]} columns of {part.source} between its blocks of {width}; "
                "or spec.model.dtype Auto, which dequantizes them at load",
            )
        columns = (part.columns[0] // width, part.columns[1] // width)
    return replace(part, source=part.source + SCALES, shape=shape, columns=columns)
