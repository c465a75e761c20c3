"""Reads safetensors files with numpy: the library's own numpy reader has no bf16 and no FP8.

Source: https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from semipd_core.errors import InvalidSpec
from semipd_engine.model.dtypes import widen_bf16, widen_e4m3
from semipd_engine.model.weights import Array

_TYPES: Mapping[str, type[np.generic]] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "F8_E4M3": np.uint8,
}
_WIDENED: Mapping[str, Callable[[Any], Array]] = {"BF16": widen_bf16, "F8_E4M3": widen_e4m3}
_HEADER_BYTES_MAX = 100_000_000  # of the format


class SafetensorsCheckpoint:
    """One file, or the shards that an index names."""

    def __init__(self, paths: list[Path], location: str) -> None:
        """Raises: InvalidSpec if a file is missing, truncated or not in this format."""
        self.location = location
        self._tensors: dict[str, _Tensor] = {}
        for path in paths:
            self._tensors |= _read_header(path)
        # Kept: a mixture of experts has tens of thousands of tensors.
        self._shapes = {name: tensor.shape for name, tensor in self._tensors.items()}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def names_of_type(self, dtype: str) -> list[str]:
        return [name for name, tensor in self._tensors.items() if tensor.dtype == dtype]

    def read(self, name: str) -> Array:
        """FP8 codes as the numbers that they are, without any scale."""
        return self._tensors[name].read()

    def read_codes(self, name: str) -> npt.NDArray[Any]:
        """As stored, bits of bf16 and FP8 as whole numbers."""
        return self._tensors[name].read_codes()


class _Tensor:
    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...], offset: int) -> None:
        self._path = path
        self.dtype = dtype
        self.shape = shape
        self._offset = offset

    def read(self) -> Array:
        values = self.read_codes()
        widen = _WIDENED.get(self.dtype)
        return values.astype(np.float32, copy=False) if widen is None else widen(values)

    def read_codes(self) -> npt.NDArray[Any]:
        if self.dtype not in _TYPES:
            raise InvalidSpec(
                "spec.model.uri", f"{self._path} with weights of type {self.dtype}", ", ".join(_TYPES)
            )
        count = math.prod(self.shape)
        return np.fromfile(self._path, _TYPES[self.dtype], count, offset=self._offset).reshape(self.shape)


def find_files(directory: Path) -> list[Path]:
    """The weight files of a Hugging Face directory.

    Raises: InvalidSpec if there are none or the index cannot be read.
    """
    index = directory / "model.safetensors.index.json"
    if index.exists():
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise InvalidSpec(
                "spec.model.uri", f"{index} ({error})", "a readable safetensors index"
            ) from error
        return [directory / name for name in sorted(names)]
    if (directory / "model.safetensors").exists():
        return [directory / "model.safetensors"]
    raise InvalidSpec(
        "spec.model.uri",
        f"{directory} without weights",
        "a directory with model.safetensors or model.safetensors.index.json",
    )


def _read_header(path: Path) -> dict[str, _Tensor]:
    try:
        found_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if header_bytes > min(found_bytes, _HEADER_BYTES_MAX):
                raise _truncated(path, 8 + header_bytes, found_bytes)
            header: dict[str, Any] = json.loads(file.read(header_bytes))
        header.pop("__metadata__", None)
        tensors = {name: _parse_entry(path, entry, 8 + header_bytes) for name, entry in header.items()}
        end = 8 + header_bytes + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSpec("spec.model.uri", f"{path} ({error})", "a readable safetensors file") from error
    if end > found_bytes:
        raise _truncated(path, end, found_bytes)
    return tensors


def _parse_entry(path: Path, entry: dict[str, Any], data_start: int) -> _Tensor:
    start, end = entry["data_offsets"]
    dtype, shape = entry["dtype"], tuple(int(size) for size in entry["shape"])
    if dtype in _TYPES and end - start != math.prod(shape) * np.dtype(_TYPES[dtype]).itemsize:
        raise ValueError(f"{end - start} bytes for a {dtype} tensor of shape {list(shape)}")
    return _Tensor(path, dtype, shape, data_start + int(start))


def _truncated(path: Path, expected_bytes: int, found_bytes: int) -> InvalidSpec:
    return InvalidSpec(
        "spec.model.uri",
        f"{path} of {found_bytes} bytes",
        f"a whole safetensors file; its header speaks of {expected_bytes} bytes",
    )
