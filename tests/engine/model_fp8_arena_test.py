"""Weights that stay FP8 in the arena are multiplied as the numbers that they stand for, however they are scaled, fused or cut."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fp8_checkpoints import BLOCK, BLOCKS, ROWS, TENSORS, Scheme, write_both
from hypothesis import given
from hypothesis import strategies as st
from local_engine import FreeTurns, Request, attach_locally, build_engine_config, build_plan, map_arenas
from tiny_family import V2, write_tiny_family
from tiny_llama import write_tiny_llama

from semipd_core.errors import InvalidSpec
from semipd_engine.memory import loading
from semipd_engine.model import sources
from semipd_engine.model.arenas import weight_tensors
from semipd_engine.model.executor import Executor
from semipd_engine.model.fp8 import Scheme as ReadScheme
from semipd_engine.model.fp8_layout import SCALES_OF, block_columns, keep_fp8
from semipd_engine.model.layout import FusedTensor, Part
from semipd_engine.model.projection import dequantize
from semipd_shell import log

SCHEMES = [
    pytest.param(TENSORS, id="a scale per tensor"),
    pytest.param(ROWS, id="a scale per row"),
    pytest.param(BLOCKS, id="a scale per block"),
]
PROMPTS = [[5], list(range(10, 27)), [7, 300, 42] * 9]


@pytest.fixture(autouse=True)
def _fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed in where FP8 is asked for: that of a CPU without bf16."""
    monkeypatch.setattr(loading, "cpu_flags", lambda _: frozenset())


def write_model(directory: Path, family: str, **settings: Any) -> Path:
    if family == "llama":
        return write_tiny_llama(directory, seed=3, **settings)
    return write_tiny_family(directory, family, seed=3, **settings)


def prepare(directory: Path, uri: str, dtype: str, **overrides: Any) -> list[loading.Arenas]:
    return loading.prepare(build_engine_config(directory, uri, dtype=dtype, **overrides), log.logger("test"))


def dequantized(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As an arena of fp32 has them."""
    scales = {
        name: SCALES_OF.format(name)
        for name, tensor in weights.items()
        if tensor.dtype == torch.float8_e4m3fn
    }
    return {
        name: dequantize(tensor, weights[scales[name]]) if name in scales else tensor
        for name, tensor in weights.items()
        if name not in scales.values()
    }


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_codes_and_scales_of_each_rank_are_its_part_of_the_weights(
    tmp_path: Path, scheme: Scheme, num_ranks: int
) -> None:
    fp8, wide = write_both(write_tiny_llama(tmp_path / "model"), scheme)
    kept = prepare(tmp_path, fp8, "FP8", num_ranks=num_ranks)
    plain = prepare(tmp_path, wide, "FP32", num_ranks=num_ranks)
    for ours, theirs in zip(kept, plain, strict=True):
        kinds = {entry.name.rpartition(".")[2]: entry.dtype for entry in ours.manifest.weights}
        assert {kind for kind, dtype in kinds.items() if dtype == "FP8"} == {"qkv", "o", "gate_up", "down"}
        assert kinds["embed"] == kinds["norm"] == kinds["input_norm"] == "FP32"
        assert ours.manifest.weights_bytes < theirs.manifest.weights_bytes * 0.6
        expected = weight_tensors(map_arenas(theirs))
        weights = dequantized(weight_tensors(map_arenas(ours)))
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_weights_that_are_not_multiplied_as_a_whole_are_dequantized(tmp_path: Path) -> None:
    fp8, _ = write_both(write_tiny_family(tmp_path / "model", "deepseek_v2", **V2), BLOCKS)
    (arenas,) = prepare(tmp_path, fp8, "FP8")
    kinds = {entry.name.rpartition(".")[2]: entry.dtype for entry in arenas.manifest.weights}
    kept = {kind for kind, dtype in kinds.items() if dtype == "FP8"}
    assert kept == {"q_kv", "q_up", "o", "gate_up", "down"}
    assert {kinds[kind] for kind in ("kv_up", "experts_gate_up", "experts_down", "router")} == {"FP32"}


def generate(directory: Path, uri: str, dtype: str) -> list[list[int]]:
    config = build_engine_config(directory, uri, dtype=dtype)
    executor = Executor.build(config, attach_locally(config))
    requests = [
        Request(slot, prompt, range(1 + 4 * slot, 5 + 4 * slot)) for slot, prompt in enumerate(PROMPTS)
    ]
    texts: list[list[int]] = [[] for _ in PROMPTS]
    for _ in range(10):
        plan = build_plan(*(request.row(len(request.tokens) - request.computed) for request in requests))
        tokens, _ = executor.execute(plan, FreeTurns())
        for request, text, token in zip(requests, texts, tokens, strict=True):
            assert token is not None
            request.tokens.append(token)
            text.append(token)
    return texts


@pytest.mark.parametrize(
    ("family", "settings", "scheme"),
    [
        *(pytest.param("llama", {}, *scheme.values, id=f"Llama, {scheme.id}") for scheme in SCHEMES),
        pytest.param("qwen2", {"num_key_value_heads": 2}, BLOCKS, id="Qwen2: biases"),
        pytest.param("deepseek_v2", V2, BLOCKS, id="DeepSeek-V2: latents and experts"),
    ],
)
def test_an_fp8_model_says_the_tokens_of_the_dequantized_one(
    tmp_path: Path, family: str, settings: dict[str, Any], scheme: Scheme
) -> None:
    fp8, wide = write_both(write_model(tmp_path / "model", family, **settings), scheme)
    texts = generate(tmp_path, fp8, "FP8")
    assert texts == generate(tmp_path, wide, "FP32")
    assert texts == generate(tmp_path, fp8, "Auto")
    assert len({tuple(text) for text in texts}) == len(PROMPTS)


def test_a_cut_through_a_block_is_refused_with_what_would_do(tmp_path: Path) -> None:
    fp8, _ = write_both(write_tiny_llama(tmp_path / "model"), BLOCKS)
    with pytest.raises(InvalidSpec) as caught:
        prepare(tmp_path, fp8, "FP8", num_ranks=4)
    assert (caught.value.path, caught.value.given) == ("spec.resources.gpusPerEngine", 4)
    for words in ("64 columns", "o_proj", f"blocks of {BLOCK[1]}", "Auto"):
        assert words in caught.value.allowed
    prepare(tmp_path, fp8, "Auto", num_ranks=4)


@pytest.mark.parametrize("width", [8, 96])
def test_blocks_that_no_product_takes_are_refused(width: int) -> None:
    source = SimpleNamespace(location="a model", quantization=ReadScheme((64, width)))
    with pytest.raises(InvalidSpec, match=r"power of two from 16.*Auto") as caught:
        sources.require_fp8(source)  # type: ignore[arg-type]
    assert caught.value.path == "spec.model.dtype"
    assert caught.value.given == f"FP8 for a model in FP8 in blocks of 64 x {width}"


def test_a_projection_of_which_a_part_is_not_fp8_is_dequantized_whole() -> None:
    parts = tuple(Part(source=name, shape=(8, 64)) for name in ("gate", "up"))
    tensor = FusedTensor(name="layers.0.gate_up", parts=parts)
    assert keep_fp8([tensor], {"gate": (8, 1)}, ReadScheme(None)) == [tensor]


@given(columns=st.integers(1, 20_000), width=st.integers(4, 12).map(lambda power: 1 << power))
def test_the_columns_of_a_scale_follow_from_how_many_there_are(columns: int, width: int) -> None:
    num_scales = -(-columns // width)
    found = block_columns(columns, num_scales)
    assert found == width if num_scales > 1 else found >= columns
