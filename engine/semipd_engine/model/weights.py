"""From a checkpoint's tensors into an arena: checked before anything is read, then one tensor of memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from semipd_core.errors import InvalidSpec
from semipd_engine.model.dtypes import NUMPY_TYPES, cast
from semipd_engine.model.layout import FusedTensor, TensorEntry

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


def load(
    tensors: Iterable[FusedTensor],
    entries: Iterable[TensorEntry],
    checkpoint: Checkpoint,
    arena: memoryview,
    report: Callable[[int], None],
) -> None:
    """Fill `arena`; `report` hears the bytes written so far after each tensor.

    Raises: InvalidSpec if a tensor cannot be read.
    """
    written = 0
    for tensor, entry in zip(tensors, entries, strict=True):
        flat = np.frombuffer(arena, NUMPY_TYPES[entry.dtype], int(np.prod(entry.shape)), entry.offset)
        rows = flat.reshape(entry.shape)
        first = 0
        for part in tensor.parts:
            values = checkpoint.read(part.source)
            if part.rope_heads:
                values = interleave_halves(values, part.rope_heads)
            rows[first : first + part.shape[0]] = cast(values, entry.dtype)
            first += part.shape[0]
        written += entry.num_bytes
        report(written)


def interleave_halves(values: Array, heads: int) -> Array:
    """Rows (head, half, i) to (head, i, half). [heads * head_dim, columns]"""
    return _swap_row_axes(values, heads, 2)


def separate_halves(values: Array, heads: int) -> Array:
    """Rows (head, i, half) to (head, half, i): undoes `interleave_halves`."""
    return _swap_row_axes(values, heads, values.shape[0] // heads // 2)


def _swap_row_axes(values: Array, heads: int, outer: int) -> Array:
    rows, columns = values.shape
    split = values.reshape(heads, outer, rows // heads // outer, columns)
    return split.swapaxes(1, 2).reshape(rows, columns)
