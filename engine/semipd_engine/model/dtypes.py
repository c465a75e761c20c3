"""The element types of the arenas, on numpy alone: bf16 travels as its 16 bits, FP8 (E4M3) as its 8."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from semipd_core.errors import InvalidSpec

ITEM_BYTES: Mapping[str, int] = {"BF16": 2, "FP32": 4, "FP8": 1}
NUMPY_TYPES: Mapping[str, type[np.generic]] = {"BF16": np.uint16, "FP32": np.float32, "FP8": np.uint8}
BF16_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def resolve_dtype(wanted: str, cpu_flags: frozenset[str]) -> str:
    """`Auto` is BF16 where the CPU multiplies it, else FP32: without such instructions bf16 products are 4 times slower.

    `FP8` is a type of weights; what is computed with them is as with `Auto`.
    Raises: InvalidSpec.
    """
    if wanted in {"Auto", "FP8"}:
        return "BF16" if cpu_flags & BF16_CPU_FLAGS else "FP32"
    if wanted not in ITEM_BYTES:
        raise InvalidSpec("spec.model.dtype", wanted, "Auto, BF16, FP32 or FP8")
    return wanted


def resolve_cuda_dtype(wanted: str) -> str:
    """`Auto` is BF16, which every GPU that is served on multiplies; beside weights in FP8 everything else is BF16 too.

    Raises: InvalidSpec.
    """
    if wanted in {"Auto", "FP8"}:
        return "BF16"
    if wanted not in ITEM_BYTES:
        raise InvalidSpec("spec.model.dtype", wanted, "Auto, BF16, FP32 or FP8")
    return wanted


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """The instruction sets in a text of /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def widen_bf16(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def widen_e4m3(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Source: FP8 formats for deep learning, arXiv 2209.05433, table 1: bias 7, no infinities, all ones is no number."""
    return _E4M3[codes]


def _e4m3_values() -> npt.NDArray[np.float32]:
    codes = np.arange(256)
    sign, exponent, mantissa = np.where(codes < 128, 1.0, -1.0), codes >> 3 & 15, (codes & 7) / 8
    values = sign * np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7.0))
    values[codes & 127 == 127] = np.nan
    return values.astype(np.float32)


_E4M3 = _e4m3_values()


def round_to_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """To the nearest bf16, ties to even; a NaN stays a (quiet) NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    is_nan = np.isnan(values)
    if is_nan.any():
        rounded[is_nan] = (bits[is_nan] >> 16).astype(np.uint16) | 0x40
    return rounded


def cast(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.generic]:
    """fp32 values as `dtype` keeps them (`NUMPY_TYPES`); what is to be FP8 comes as codes, which stay."""
    return round_to_bf16(values) if dtype == "BF16" else values
