"""Every kernel compiles to machine code for a GPU, without one, and fits its shared memory."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from kernel_process import KernelProcess

pytestmark = pytest.mark.slow

SHARED_BYTES = {90: 232_448, 120: 101_376}  # per program
HEADS, KV_HEADS, DIM, VOCAB = 32, 8, 128, 128_256  # of Llama 3.1 8B


def shapes(dtype: torch.dtype) -> dict[str, tuple[tuple, dict]]:
    rows = 4
    kv = torch.empty(2, 3, 64, KV_HEADS, DIM, dtype=dtype)
    query = torch.empty(rows, HEADS, DIM, dtype=dtype)
    tables = torch.zeros(rows, 3, dtype=torch.int32)
    contexts = torch.ones(rows, dtype=torch.int32)
    starts = torch.arange(rows + 1, dtype=torch.int32)
    hidden = torch.empty(rows, HEADS * DIM, dtype=dtype)
    fp64, int64 = torch.ones(rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.int64)
    qkv = torch.empty(rows, (HEADS + 2 * KV_HEADS) * DIM, dtype=dtype)
    rotation = torch.empty(rows, 1, DIM // 2, dtype=torch.complex64)
    mla_query, entries = torch.empty(rows, 16, 192, dtype=dtype), torch.empty(rows, 576, dtype=dtype)
    kv_up, rope = torch.empty(16 * 256, 512, dtype=dtype), torch.empty(rows, 1, 32, dtype=torch.complex64)
    absorbed, latents = torch.empty(rows, 16, 576, dtype=dtype), torch.empty(3, 64, 576, dtype=dtype)
    return {
        "decode_attention.paged_decode": ((query, kv, tables, contexts), {}),
        "prefill_attention.paged_prefill": ((query, kv, tables, contexts, starts, 1), {}),
        "mla_attention.mla_decode": ((absorbed, latents, tables, contexts), {"latent_dim": 512, "scale": 0.1}),
        "mla_prefill.mla_prefill": ((mla_query, latents, kv_up, int64, starts, starts, 1), {"scale": 0.1}),
        "latent_store.norm_rotate_and_store": (
            (mla_query, entries, entries[0, :512], rope, latents, int64),
            {"epsilon": 1e-6},
        ),
        "rope_store.rotate_and_store": ((qkv, rotation, kv, int64, HEADS), {}),
        "rms_norm.add_rms_norm": ((hidden, hidden, hidden[0], 1e-5), {}),
        "silu_mul.silu_mul": ((torch.empty(rows, 2 * 14_336, dtype=dtype),), {}),
        "sampling.sample": ((torch.empty(rows, VOCAB), fp64, int64, fp64, int64, int64), {}),
    }  # fmt: skip


ATTENTION = [
    "decode_attention.paged_decode",
    "prefill_attention.paged_prefill",
    "mla_attention.mla_decode",
    "mla_prefill.mla_prefill",
]


@pytest.mark.parametrize(
    ("capability", "functions"),
    [
        pytest.param(90, list(shapes(torch.bfloat16)), id="Hopper"),
        pytest.param(120, ATTENTION, id="the least shared memory that has a row"),
    ],
)
def test_kernels_compile_and_fit(tmp_path: Path, capability: int, functions: list[str]) -> None:
    process = KernelProcess(str(capability), TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    for function in functions:
        args, kwargs = shapes(torch.bfloat16)[function]
        shared_bytes = process.call(function, *args, **kwargs)
        assert shared_bytes
        assert max(shared_bytes.values()) <= SHARED_BYTES[capability], shared_bytes
    process.stop()


@pytest.mark.parametrize(
    ("capability", "batches"),
    [
        pytest.param(90, (1, 17, 65), id="Hopper"),
        pytest.param(120, (65,), id="the least shared memory that has a row"),
    ],
)
def test_products_of_fp8_compile_and_fit_for_any_number_of_tokens(
    tmp_path: Path, capability: int, batches: tuple[int, ...]
) -> None:
    process = KernelProcess(str(capability), TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    codes, bias = torch.empty(256, 1024, dtype=torch.float8_e4m3fn), torch.empty(256, dtype=torch.bfloat16)
    for tokens, num_scales in product(batches, (1, 8)):
        hidden = torch.empty(tokens, 1024, dtype=torch.bfloat16)
        arguments = (hidden, codes, torch.empty(256, num_scales), 128, bias)
        shared_bytes = process.call("weight_only.weight_only_matmul", *arguments)
        assert shared_bytes
        assert max(shared_bytes.values()) <= SHARED_BYTES[capability], shared_bytes
    assert process.call("quantize_rows.quantize_rows", hidden)
    process.stop()


def test_a_gpu_without_tiles_is_refused(tmp_path: Path) -> None:
    process = KernelProcess("75", TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0")
    allowed = r"compute capability: 7.5 is not supported; allowed: 8.x, 9.x, 10.x, 12.x"
    with pytest.raises(ValueError, match=allowed):
        process.call("silu_mul.silu_mul", torch.zeros(1, 2))
    process.stop()
