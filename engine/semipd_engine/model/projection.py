"""A weight matrix that values are multiplied by, as a decoder sees it, however it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from semipd_engine.model.fp8_layout import SCALES_OF, block_columns


class Projection(Protocol):
    """Of shape (rows, columns)."""

    def apply(self, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """values: (tokens, columns); bias: (rows). Returns (tokens, rows)."""
        ...

    def add_to(self, residual: Tensor, values: Tensor) -> Tensor:
        """The residual, (tokens, rows), plus what `apply` gives."""
        ...


class DenseProjection:
    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def apply(self, values: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(values, self._weight, bias)

    def add_to(self, residual: Tensor, values: Tensor) -> Tensor:
        return torch.addmm(residual, values, self._weight.t())


class DequantizedProjection:
    """FP8 on a CPU, which has no such products: dequantized for each of them, so that no lane holds a copy of the weights."""

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        self._codes = codes
        self._scales = scales

    def apply(self, values: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._dense(values.dtype).apply(values, bias)

    def add_to(self, residual: Tensor, values: Tensor) -> Tensor:
        return self._dense(values.dtype).add_to(residual, values)

    def _dense(self, dtype: torch.dtype) -> DenseProjection:
        return DenseProjection(dequantize(self._codes, self._scales).to(dtype))


def build_projection(weights: Mapping[str, Tensor], name: str) -> Projection:
    """weights: of a layer, by the names of `semipd_engine.model.layout`."""
    scales = weights.get(SCALES_OF.format(name))
    return DenseProjection(weights[name]) if scales is None else DequantizedProjection(weights[name], scales)


def dequantize(codes: Tensor, scales: Tensor) -> Tensor:
    """codes: (rows, columns) E4M3; scales: (rows, 1) or (rows, blocks of columns). Returns fp32."""
    values = codes.float()
    if scales.shape[1] == 1:
        return values.mul_(scales)
    width = block_columns(codes.shape[1], scales.shape[1])
    return values.mul_(scales.repeat_interleave(width, 1)[:, : codes.shape[1]])
