"""Arenas: nothing overlaps, everything is aligned, and numbers survive the way in."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.errors import InvalidSpec
from semipd_engine.model import layout, sources
from semipd_engine.model.dtypes import ITEM_BYTES, cpu_flags, resolve_dtype, round_to_bf16, widen_bf16
from semipd_engine.model.weights import interleave_halves, separate_halves


@pytest.mark.parametrize("dtype", ["FP32", "BF16"])
def test_tensors_are_aligned_and_do_not_overlap(tiny_llama_dir: Path, dtype: str) -> None:
    config = sources.open_source(f"file://{tiny_llama_dir}").read_config(dtype, None)
    entries, num_bytes = layout.place(layout.fused_tensors(config), dtype)
    ends = [0, *(entry.offset + entry.num_bytes for entry in entries)]
    for entry, end in zip(entries, ends, strict=False):
        assert entry.offset % layout.ALIGNMENT_BYTES == 0
        assert end <= entry.offset < end + layout.ALIGNMENT_BYTES
        assert entry.num_bytes == math.prod(entry.shape) * ITEM_BYTES[dtype]
    assert ends[-1] <= num_bytes


def test_a_tied_head_is_not_stored_twice(tiny_llama_dir: Path) -> None:
    config = sources.open_source(f"file://{tiny_llama_dir}").read_config("FP32", None)
    names = [tensor.name for tensor in layout.fused_tensors(config)]
    assert config.tied_embeddings
    assert "head" not in names
    assert len(names) == len(set(names)) == 2 + 6 * config.num_layers


@given(heads=st.integers(1, 6), half=st.integers(1, 8))
def test_interleaving_halves_is_undone(heads: int, half: int) -> None:
    values = np.arange(heads * half * 2 * 3, dtype=np.float32).reshape(-1, 3)
    interleaved = interleave_halves(values, heads)
    assert np.array_equal(interleaved[1], values[half])  # the second half's first row comes second
    assert np.array_equal(separate_halves(interleaved, heads), values)


@given(st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=50))
def test_rounding_to_bf16_is_that_of_torch(values: list[float]) -> None:
    torch = pytest.importorskip("torch")
    array = np.array(values, np.float32)
    expected = torch.from_numpy(array).bfloat16().float().numpy()
    assert np.array_equal(widen_bf16(round_to_bf16(array)), expected, equal_nan=True)


@pytest.mark.parametrize(
    ("wanted", "flags", "expected"),
    [
        pytest.param("Auto", "avx2 avx512f", "FP32", id="auto on a CPU without bf16 products"),
        pytest.param("Auto", "avx2 avx512_bf16", "BF16", id="auto with AVX512-BF16"),
        pytest.param("Auto", "amx_bf16 amx_tile", "BF16", id="auto with AMX"),
        pytest.param("BF16", "avx2", "BF16", id="a wish is followed"),
        pytest.param("FP32", "amx_bf16", "FP32", id="a wish for fp32 too"),
        pytest.param("FP8", "amx_bf16", "BF16", id="weights in FP8 are computed as with auto"),
    ],
)
def test_dtype(wanted: str, flags: str, expected: str) -> None:
    assert resolve_dtype(wanted, cpu_flags(f"processor : 0\nflags\t\t: {flags}\n")) == expected


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"spec\.model\.dtype"):
        resolve_dtype("INT4", frozenset())
