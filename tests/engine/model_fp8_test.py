"""Checkpoints in FP8 are read as the numbers that they stand for, and refused where it is not clear which those are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import structlog
import torch
from fp8_checkpoints import (
    BLOCK,
    BLOCKS,
    DEEPSEEK,
    PER_TENSOR,
    TENSORS,
    Scheme,
    compressed,
    quantize,
    scale_of_blocks,
    scale_of_rows,
    scale_of_tensor,
    write,
)
from hypothesis import given
from hypothesis import strategies as st
from local_engine import build_engine_config

from semipd_core.errors import InvalidSpec
from semipd_engine.memory import loading
from semipd_engine.model import layout, sources, weights
from semipd_engine.model.dtypes import widen_e4m3
from semipd_engine.model.fp8 import dequantize, scale_shapes
from semipd_engine.model.fp8_matmul import quantize_rows, scaled_matmul


def load(directory: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(directory / "model.safetensors")


def fill(directory: Path) -> np.ndarray:
    source = sources.open_source(f"file://{directory}")
    config = source.read_config("FP32", None)
    tensors = list(layout.fused_tensors(config))
    weights.check(tensors, source)
    entries, num_bytes = layout.place(iter(tensors), "FP32")
    arena = bytearray(num_bytes)
    with memoryview(arena) as view:
        weights.load(tensors, entries, source, view, lambda _: None)
    return np.frombuffer(arena, np.float32)


@pytest.mark.parametrize(
    ("quantization", "scale_of", "suffix"),
    [
        pytest.param(DEEPSEEK, scale_of_blocks, "_scale_inv", id="DeepSeek's blocks"),
        pytest.param(PER_TENSOR, scale_of_tensor, "_scale", id="a scale per tensor"),
        pytest.param(PER_TENSOR, lambda w: scale_of_tensor(w)[None], "_scale", id="in a vector of one"),
        pytest.param(compressed("tensor"), scale_of_tensor, "_scale", id="compressed-tensors, per tensor"),
        pytest.param(compressed("channel"), scale_of_rows, "_scale", id="compressed-tensors, per row"),
        pytest.param(
            compressed("block", block_structure=list(BLOCK)), scale_of_blocks, "_scale", id="in blocks"
        ),
    ],
)
def test_an_fp8_checkpoint_fills_the_arena_with_the_numbers_that_it_stands_for(
    tmp_path: Path, tiny_llama_dir: Path, quantization: dict[str, Any], scale_of: Callable, suffix: str
) -> None:
    stored, meant = quantize(load(tiny_llama_dir), Scheme(quantization, scale_of, suffix))
    ours = fill(write(tmp_path / "fp8", tiny_llama_dir, stored, quantization))
    assert np.array_equal(ours, fill(write(tmp_path / "fp32", tiny_llama_dir, meant, None)))


def without(stored: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in stored.items() if not name.endswith(kind)}


def reshaped(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: torch.ones(3) if name.endswith("v_proj.weight_scale") else tensor
        for name, tensor in stored.items()
    }


@pytest.mark.parametrize(
    ("quantization", "change", "said"),
    [
        pytest.param(None, dict, ["_proj.weight in FP8", "quantization_config"], id="no word about scales"),
        pytest.param(
            PER_TENSOR,
            lambda s: without(s, "v_proj.weight_scale"),
            ["v_proj.weight in FP8 and no scale", "v_proj.weight_scale_inv"],
            id="no scale",
        ),
        pytest.param(PER_TENSOR, reshaped, ["v_proj.weight_scale", "[3]", "[32, 1]"], id="scales of no unit"),
        pytest.param(DEEPSEEK, dict, ["_scale", "[]"], id="a scale per tensor where blocks are meant"),
        pytest.param({"quant_method": "awq"}, dict, ["awq", "fp8, compressed-tensors"], id="another method"),
        pytest.param(
            {"quant_method": "fp8", "weight_block_size": [128]},
            dict,
            ["weight_block_size", "[128]"],
            id="half a block",
        ),
        pytest.param(compressed("group"), dict, ["strategy", "group"], id="groups"),
        pytest.param(compressed("tensor", num_bits=4), dict, ["(4, 'float')"], id="4 bits"),
        pytest.param(compressed("tensor", type="int"), dict, ["(8, 'int')"], id="integers"),
        pytest.param(
            compressed("tensor") | {"format": "pack-quantized"}, dict, ["pack-quantized"], id="packed"
        ),
        pytest.param(compressed("tensor") | {"config_groups": {}}, dict, ["schemes is 0"], id="no scheme"),
    ],
)
def test_fp8_that_is_not_understood_is_refused(
    tmp_path: Path,
    tiny_llama_dir: Path,
    quantization: dict[str, Any] | None,
    change: Callable,
    said: list[str],
) -> None:
    stored, _ = quantize(load(tiny_llama_dir), TENSORS)
    directory = write(tmp_path / "model", tiny_llama_dir, change(stored), quantization)
    with pytest.raises(InvalidSpec) as caught:
        sources.open_source(f"file://{directory}")
    assert caught.value.path == "spec.model.uri"
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("dtype", "said"), [("Auto", "weights are dequantized at load"), ("FP8", "weights stay FP8")]
)
def test_the_log_says_what_becomes_of_the_weights_and_what_is_computed_in(
    tmp_path: Path, tiny_llama_dir: Path, dtype: str, said: str
) -> None:
    stored, _ = quantize(load(tiny_llama_dir), BLOCKS)
    uri = f"file://{write(tmp_path / 'fp8', tiny_llama_dir, stored, DEEPSEEK)}"
    with structlog.testing.capture_logs() as logs:
        (arenas,) = loading.prepare(build_engine_config(tmp_path, uri, dtype=dtype), structlog.get_logger())
    line = next(line for line in logs if line["event"] == said)
    assert line["stored"] == f"FP8 in blocks of {BLOCK[0]} x {BLOCK[1]}"
    assert line["dtype"] == arenas.manifest.model.dtype
    assert line["dtype"] in {"BF16", "FP32"}


def test_fp8_is_not_made_of_other_weights(tmp_path: Path, tiny_llama_dir: Path) -> None:
    config = build_engine_config(tmp_path, f"file://{tiny_llama_dir}", dtype="FP8")
    with pytest.raises(InvalidSpec, match="a checkpoint in FP8") as caught:
        loading.prepare(config, structlog.get_logger())
    assert caught.value.path == "spec.model.dtype"


def test_all_codes_are_the_numbers_that_torch_reads() -> None:
    codes = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(widen_e4m3(codes), expected, equal_nan=True)


@given(
    rows=st.integers(1, 20), columns=st.integers(1, 20), block=st.tuples(st.integers(1, 8), st.integers(1, 8))
)
def test_each_number_is_multiplied_by_the_scale_of_its_block(
    rows: int, columns: int, block: tuple[int, int]
) -> None:
    codes = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    [shape] = scale_shapes(codes.shape, block)
    scale = np.arange(1, 1 + shape[0] * shape[1], dtype=np.float32).reshape(shape)
    values = dequantize(codes, scale, block)
    for row, column in np.ndindex(rows, columns):
        assert values[row, column] == codes[row, column] * scale[row // block[0], column // block[1]]


@given(seed=st.integers(0, 1 << 30), magnitude=st.sampled_from([1e-3, 1.0, 1e3]))
def test_an_fp8_product_is_off_by_at_most_the_rounding_of_its_factors(seed: int, magnitude: float) -> None:
    """Half a unit in the last of 3 places is 1 / 16 of a number, of numbers near 0 it is 2^-10 of a scale."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(5, 64, generator=generator) * magnitude
    weight = torch.randn(7, 64, generator=generator)
    codes, scales = quantize_rows(weight)
    _, asked_scales = quantize_rows(hidden)
    most_hidden = hidden.abs() * 17 / 16 + asked_scales / 1024
    most_weight = weight.abs() * 17 / 16 + scales / 1024
    allowed = most_hidden @ most_weight.T - hidden.abs() @ weight.abs().T
    gap = (scaled_matmul(hidden, codes, scales) - hidden @ weight.T).abs()
    assert (gap <= allowed * 1.001).all()


def test_the_oracle_of_products_is_what_torch_computes() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(16, 64, generator=generator).bfloat16()
    codes, scales = quantize_rows(torch.randn(32, 64, generator=generator))
    asked, asked_scales = quantize_rows(hidden)
    theirs = torch._scaled_mm(
        asked, codes.t(), scale_a=asked_scales, scale_b=scales.t(), out_dtype=torch.bfloat16
    )
    torch.testing.assert_close(scaled_matmul(hidden, codes, scales), theirs, rtol=1e-2, atol=1e-2)
