"""From a checkpoint's tensors into an arena: checked before anything is read, then one tensor of memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from semipd_core.errors import InvalidSpec
from semipd_engine.model.dtypes import NUMPY_TYPES, cast
from semipd_engine.model.layout import FusedTensor, Part, TensorEntry

Array = npt.NDArray[np.float32]


class Checkpoint(Protocol):
    """The tensors of a model, named as in Hugging Face checkpoints."""

    @property
    def location(self) -> str:
        """What an error message calls it."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def read(self, name: str) -> Array:
        """fp32. Raises: InvalidSpec if the file cannot be read."""


def check(tensors: Iterable[FusedTensor], checkpoint: Checkpoint) -> None:
    """Raises: InvalidSpec naming the first tensor that is missing or has another shape than the config says."""
    for part in (part for tensor in tensors for part in tensor.parts):
        found = checkpoint.shapes.get(part.source)
        if found is None:
            raise InvalidSpec(
                "spec.model.uri",
                f"{checkpoint.location} without tensor {part.source}",
                f"a checkpoint that has it, of shape {list(part.shape)}",
            )
        if found != part.shape:
            raise InvalidSpec(
                "spec.model.uri",
                f"{checkpoint.location} with tensor {part.source} of shape {list(found)}",
                f"shape {list(part.shape)}, as its config says",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """An arena to fill, and what goes where in it."""

    tensors: Sequence[FusedTensor]
    entries: Sequence[TensorEntry]
    arena: memoryview


def load(
    tensors: Iterable[FusedTensor],
    entries: Iterable[TensorEntry],
    checkpoint: Checkpoint,
    arena: memoryview,
    report: Callable[[int], None],
) -> None:
    """Fill `arena`, as `load_shards` does."""
    destination = Destination(tensors=list(tensors), entries=list(entries), arena=arena)
    load_shards([destination], checkpoint, report)


def load_shards(
    destinations: Sequence[Destination], checkpoint: Checkpoint, report: Callable[[int], None]
) -> None:
    """Fill the arenas, which hold parts of the same tensors: each tensor is read once.

    `report` hears the bytes written so far after each tensor. Raises: InvalidSpec if a tensor cannot be read.
    """
    written = 0
    placements = [zip(each.tensors, each.entries, strict=True) for each in destinations]
    for shards in zip(*placements, strict=True):
        places = [
            _rows(destination.arena, entry)
            for destination, (_, entry) in zip(destinations, shards, strict=True)
        ]
        firsts = [0] * len(shards)
        for parts in zip(*(tensor.parts for tensor, _ in shards), strict=True):
            values = _read(checkpoint, parts[0], shards[0][1].dtype)
            for number, part in enumerate(parts):
                taken = _take(values, part)
                places[number][firsts[number] : firsts[number] + len(taken)] = taken
                firsts[number] += len(taken)
        written += sum(entry.num_bytes for _, entry in shards)
        report(written)


def _rows(arena: memoryview, entry: TensorEntry) -> npt.NDArray[np.generic]:
    flat = np.frombuffer(arena, NUMPY_TYPES[entry.dtype], int(np.prod(entry.shape)), entry.offset)
    return flat.reshape(entry.shape)


def _take(values: npt.NDArray[np.generic], part: Part) -> npt.NDArray[np.generic]:
    if part.rows is not None:
        values = values[slice(*part.rows)]
    return values if part.columns is None else values[:, slice(*part.columns)]


def _read(checkpoint: Checkpoint, part: Part, dtype: str) -> npt.NDArray[np.generic]:
    """The whole tensor of the checkpoint, as an arena of `dtype` keeps it."""
    values = checkpoint.read(part.source)
    if part.rope_heads:
        values = interleave_halves(values, part.rope_heads)
    return cast(values, dtype)


def interleave_halves(values: Array, heads: int) -> Array:
    """Rows (head, half, i) to (head, i, half). [heads * head_dim, ...]"""
    return _swap_row_axes(values, heads, 2)


def separate_halves(values: Array, heads: int) -> Array:
    """Rows (head, i, half) to (head, half, i): undoes `interleave_halves`."""
    return _swap_row_axes(values, heads, values.shape[0] // heads // 2)


def _swap_row_axes(values: Array, heads: int, outer: int) -> Array:
    split = values.reshape(heads, outer, values.shape[0] // heads // outer, *values.shape[1:])
    return split.swapaxes(1, 2).reshape(values.shape)
