"""Checkpoints whose weights are FP8 (E4M3) with scales beside them. numpy only.

A weight is read as the numbers that it stands for, or behind `CODES` and `SCALES` as it is to be multiplied: codes as they are
stored, and fp32 scales for each row and block of columns.

A scale is for a tensor, for each row, or for blocks (128 x 128 in DeepSeek's). Whatever it is called, `weight_scale_inv`
too, codes are multiplied by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from semipd_core.errors import InvalidSpec
from semipd_engine.model.config import unsupported
from semipd_engine.model.safetensors_files import SafetensorsCheckpoint
from semipd_engine.model.weights import Array

FP8 = "F8_E4M3"  # of the safetensors format
CODES, SCALES = "#codes", "#scales"  # behind the name of a weight
_SCALE_SUFFIXES = ("_scale_inv", "_scale")


@dataclass(frozen=True, slots=True)
class Scheme:
    block: tuple[int, int] | None  # rows and columns of one scale; None: one of a tensor, or one of each row

    def __str__(self) -> str:
        return "FP8" if self.block is None else f"FP8 in blocks of {self.block[0]} x {self.block[1]}"


def read_scheme(config: Mapping[str, Any] | None) -> Scheme | None:
    """From the `quantization_config` of a config.json.

    Raises: InvalidSpec for a quantization other than these.
    """
    if config is None:
        return None
    method = config.get("quant_method")
    if method == "fp8":
        return Scheme(_read_block(config.get("weight_block_size")))
    if method != "compressed-tensors":
        raise unsupported("quant_method", method, "fp8, compressed-tensors")
    if config.get("format") != "float-quantized":
        raise unsupported("quantization format", config.get("format"), "float-quantized")
    groups = config.get("config_groups")
    schemes = {_read_group(one) for one in groups.values()} if isinstance(groups, dict) else set()
    if len(schemes) != 1:
        raise unsupported("number of weight schemes", len(schemes), "1")
    return schemes.pop()


def _read_group(group: Any) -> Scheme:
    weights = (group.get("weights") or {}) if isinstance(group, dict) else group
    if not isinstance(weights, dict):
        raise unsupported("config_groups' weights", weights, "a JSON object")
    kind = (weights.get("num_bits"), weights.get("type"))
    if kind != (8, "float"):
        raise unsupported("weights' (num_bits, type)", kind, "(8, 'float')")
    strategy = weights.get("strategy")
    if not isinstance(strategy, str) or strategy not in {"tensor", "channel", "block"}:
        raise unsupported("weights' strategy", strategy, "tensor, channel, block")
    return Scheme(_read_block(weights.get("block_structure")) if strategy == "block" else None)


def _read_block(given: Any) -> tuple[int, int] | None:
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != 2 or not all(isinstance(n, int) and n > 0 for n in given):
        raise unsupported("weight_block_size", given, "two whole numbers from 1")
    return given[0], given[1]


class Fp8Checkpoint:
    """As the checkpoint that it reads, but FP8 weights come with their scales applied."""

    def __init__(self, stored: SafetensorsCheckpoint, scheme: Scheme) -> None:
        """Raises: InvalidSpec if an FP8 tensor has no scale, or one that does not fit it."""
        self.location = stored.location
        self._stored = stored
        self._block = scheme.block
        self._scales = {name: self._find_scale(name) for name in stored.names_of_type(FP8)}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._stored.shapes

    @property
    def row_scales(self) -> Mapping[str, tuple[int, int]]:
        """The FP8 weights, and the shape of what is read as their SCALES."""
        matrices = {name: self.shapes[name] for name in self._scales if len(self.shapes[name]) == 2}
        return {
            name: (rows, 1 if self._block is None else -(-columns // self._block[1]))
            for name, (rows, columns) in matrices.items()
        }

    def read(self, name: str) -> npt.NDArray[Any]:
        """fp32; of CODES uint8."""
        if name.endswith(CODES):
            return self._stored.read_codes(name.removesuffix(CODES))
        if name.endswith(SCALES):
            weight = name.removesuffix(SCALES)
            scale = self._stored.read(self._scales[weight])
            return spread_over_rows(scale, self.shapes[weight][0], self._block)
        values = self._stored.read(name)
        if name not in self._scales:
            return values
        return dequantize(values, self._stored.read(self._scales[name]), self._block)

    def _find_scale(self, name: str) -> str:
        shapes = self.shapes
        found = next((name + suffix for suffix in _SCALE_SUFFIXES if name + suffix in shapes), None)
        if found is None:
            raise InvalidSpec(
                "spec.model.uri",
                f"{self.location} with {name} in FP8 and no scale",
                " or ".join(name + suffix for suffix in _SCALE_SUFFIXES),
            )
        allowed = scale_shapes(shapes[name], self._block)
        if shapes[found] not in allowed:
            raise InvalidSpec(
                "spec.model.uri",
                f"{self.location} with {found} of shape {list(shapes[found])}",
                " or ".join(str(list(shape)) for shape in allowed),
            )
        return found


def require_no_fp8(stored: SafetensorsCheckpoint) -> None:
    """Raises: InvalidSpec for FP8 weights of a model whose config does not say what their scales are."""
    name = next(iter(stored.names_of_type(FP8)), None)
    if name is not None:
        raise InvalidSpec(
            "spec.model.uri",
            f"{stored.location} with {name} in FP8",
            "a quantization_config in its config.json that says how it is scaled",
        )


def scale_shapes(shape: tuple[int, ...], block: tuple[int, int] | None) -> list[tuple[int, ...]]:
    """What the scale of a weight of `shape` may be."""
    if block is None:
        return [(), (1,), (shape[0], 1), (shape[0],)]
    return [(-(-shape[0] // block[0]), -(-shape[1] // block[1]))] if len(shape) == 2 else []


def dequantize(codes: Array, scale: Array, block: tuple[int, int] | None) -> Array:
    """codes: (rows, columns), the numbers that FP8 codes are; scale: as `scale_shapes`. Returns fp32."""
    if block is None:
        return codes * scale.astype(np.float32).reshape(-1, *[1] * (codes.ndim - 1))
    rows, columns = codes.shape
    return codes * np.repeat(spread_over_rows(scale, rows, block), block[1], 1)[:, :columns]


def spread_over_rows(scale: Array, rows: int, block: tuple[int, int] | None) -> Array:
    """The scales of each row. scale: as `scale_shapes`. Returns fp32 (rows, 1), or (rows, blocks of columns)."""
    wide = scale.astype(np.float32)
    if block is None:
        return np.repeat(wide.reshape(-1, 1), rows // wide.size, 0)
    return np.repeat(wide, block[0], 0)[:rows]
