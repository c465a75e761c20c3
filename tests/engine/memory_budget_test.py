"""How many KV blocks there are: what is asked for, else what the machine can spare, never too few for one request."""

from __future__ import annotations

import pytest

from semipd_core.errors import InvalidSpec
from semipd_engine.memory.budget import DEFAULT_BYTES_MAX, free_memory_bytes, num_kv_blocks
from semipd_engine.model.config import ModelConfig

MODEL = ModelConfig(
    architecture="LlamaForCausalLM",
    num_layers=2,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocab_size=384,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    rope_divisors=None,
    tied_embeddings=True,
    max_context_tokens=512,
    eos_token_ids=[2],
    bos_token_id=0,
    dtype="FP32",
)
BLOCK_BYTES = 16 * 2 * 2 * 2 * 16 * 4  # tokens, layers, key and value, heads, dim, fp32
ONE_REQUEST = 33 * BLOCK_BYTES  # 32 blocks and the null block
GIB = 1 << 30


def blocks(wanted_bytes: int | None, free_bytes: int, max_rows: int = 8) -> int:
    return num_kv_blocks(
        MODEL, block_tokens=16, max_rows=max_rows, wanted_bytes=wanted_bytes, free_bytes=free_bytes
    )


@pytest.mark.parametrize(
    ("wanted", "free", "max_rows", "expected"),
    [
        pytest.param(None, 64 * GIB, 8, 8 * 32 + 1, id="no wish: all rows at full context"),
        pytest.param(
            None, 64 * GIB, 10**6, DEFAULT_BYTES_MAX // BLOCK_BYTES, id="no wish: at most the default"
        ),
        pytest.param(
            None, 8 << 20, 8, (1 << 20) // BLOCK_BYTES, id="no wish: at most an eighth of what is free"
        ),
        pytest.param(GIB, 64 * GIB, 1, GIB // BLOCK_BYTES, id="a wish is followed"),
        pytest.param(ONE_REQUEST, 64 * GIB, 8, 33, id="exactly one request"),
    ],
)
def test_blocks(wanted: int | None, free: int, max_rows: int, expected: int) -> None:
    assert blocks(wanted, free, max_rows) == expected


@pytest.mark.parametrize(
    ("wanted", "free", "numbers"),
    [
        pytest.param(ONE_REQUEST - 1, GIB, (ONE_REQUEST - 1, ONE_REQUEST), id="a byte short of one request"),
        pytest.param(
            None, 8 * (ONE_REQUEST - 1), (ONE_REQUEST - 1, ONE_REQUEST), id="too little memory is free"
        ),
        pytest.param(2 * GIB, GIB, (2 * GIB, GIB), id="more than is free"),
    ],
)
def test_a_budget_that_cannot_be_says_both_numbers(wanted: int | None, free: int, numbers: tuple) -> None:
    with pytest.raises(InvalidSpec) as caught:
        blocks(wanted, free)
    assert caught.value.path == "spec.resources.kvCache"
    assert all(str(number) in str(caught.value) for number in numbers)


def test_free_memory_is_what_the_kernel_calls_available() -> None:
    assert free_memory_bytes("MemTotal: 9 kB\nMemAvailable:  2048 kB\n") == 2 << 20
