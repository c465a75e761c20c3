"""Weights that values are multiplied by on a GPU. Nothing is read back to the host, so that a CUDA graph holds every product."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from semipd_engine.cuda_model.product_choice import Product, choose_product
from semipd_engine.kernels.quantize_rows import quantize_rows
from semipd_engine.kernels.weight_only import weight_only_matmul
from semipd_engine.model.fp8_layout import SCALES_OF, block_columns
from semipd_engine.model.projection import DenseProjection, Projection


class Fp8Projection:
    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        """codes: (rows, columns) E4M3; scales: (rows, 1) or (rows, blocks of columns) fp32."""
        self._codes = codes
        self._scales = scales
        self._block_columns = block_columns(codes.shape[1], scales.shape[1])
        self._capability = (
            torch.cuda.get_device_capability(codes.device) if codes.device.type == "cuda" else (0, 0)
        )

    def apply(self, values: Tensor, bias: Tensor | None = None) -> Tensor:
        rows, columns = self._codes.shape
        choice = choose_product(
            tokens=len(values),
            weight=(rows, columns),
            has_blocks=self._scales.shape[1] > 1,
            capability=self._capability,
        )
        if choice.product is Product.SCALED:
            return scaled_matmul(values, self._codes, self._scales, bias)
        return weight_only_matmul(values, self._codes, self._scales, self._block_columns, bias)

    def add_to(self, residual: Tensor, values: Tensor) -> Tensor:
        return residual + self.apply(values)


def scaled_matmul(values: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `semipd_engine.model.fp8_matmul.scaled_matmul`, its oracle: values become FP8 with a scale for each token.

    values: (tokens, columns) bf16; codes: (rows, columns) E4M3; scales: (rows, 1) fp32; bias: (rows). Rows and columns are
    multiples of 16. Returns (tokens, rows).
    """
    asked, asked_scales = quantize_rows(values)
    return torch._scaled_mm(  # noqa: SLF001 - torch has no public name for it
        asked, codes.t(), scale_a=asked_scales, scale_b=scales.t(), bias=bias, out_dtype=values.dtype
    )


def build_projection(weights: Mapping[str, Tensor], name: str) -> Projection:
    """weights: of a layer, by the names of `semipd_engine.model.layout`."""
    scales = weights.get(SCALES_OF.format(name))
    return DenseProjection(weights[name]) if scales is None else Fp8Projection(weights[name], scales)
