"""Split-KV decode in Triton's interpreter answers what the engine on CPU answers, whoever shares the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_process import KernelProcess
from paged_rows import PagedRows, Shape, assert_near, build_paged_rows

pytestmark = pytest.mark.slow

EVERY_LENGTH = [
    1,
    15,
    16,
    17,
    31,
    32,
    33,
    100,
    150,
]  # one, two and four splits, the last of them short or full


def decode(interpreter: KernelProcess, rows: PagedRows) -> torch.Tensor:
    return interpreter.call(
        "decode_attention.paged_decode", rows.query, rows.kv, rows.block_tables, rows.context_tokens
    )


def build(shape: Shape, contexts: list[int], seed: int = 0) -> PagedRows:
    return build_paged_rows(shape, [context - 1 for context in contexts], [1] * len(contexts), seed)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(Shape(dtype=torch.float32), id="fp32, pages of 16"),
        pytest.param(Shape(dtype=torch.float16, block_tokens=32), id="fp16, pages of 32"),
        pytest.param(Shape(dtype=torch.bfloat16, block_tokens=64), id="bf16, pages of 64"),
        pytest.param(Shape(heads=3, kv_heads=3), id="as many KV heads as query heads"),
        pytest.param(Shape(heads=7, kv_heads=1), id="a group of seven"),
        pytest.param(Shape(heads=2, kv_heads=1, dim=24), id="a head that is no power of two"),
        pytest.param(Shape(heads=2, kv_heads=1, dim=8), id="a head smaller than a matrix instruction"),
        pytest.param(Shape(heads=20, kv_heads=1), id="a group wider than a matrix instruction"),
    ],
)
def test_decode_attends_as_the_engine_on_cpu(interpreter: KernelProcess, shape: Shape) -> None:
    rows = build(shape, EVERY_LENGTH)
    assert_near(decode(interpreter, rows), rows.attend_on_cpu())


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    contexts=st.lists(st.integers(1, 140), min_size=1, max_size=4),
    block_tokens=st.sampled_from([16, 32, 64]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_any_ragged_batch_is_attended_right(
    interpreter: KernelProcess, contexts: list[int], block_tokens: int, dtype: torch.dtype, seed: int
) -> None:
    rows = build(Shape(block_tokens=block_tokens, dtype=dtype), contexts, seed)
    assert_near(decode(interpreter, rows), rows.attend_on_cpu())


@pytest.mark.parametrize("context", [1, 33, 150])
def test_a_row_alone_is_bitwise_the_row_in_a_batch(interpreter: KernelProcess, context: int) -> None:
    rows = build(Shape(dtype=torch.bfloat16), [70, context, 9, 128])
    together = decode(interpreter, rows)
    alone = interpreter.call(
        "decode_attention.paged_decode",
        rows.query[1:2],
        rows.kv,
        rows.block_tables[1:2],
        rows.context_tokens[1:2],
    )
    assert torch.equal(together[1:2], alone)


def test_a_row_without_context_only_fills_the_batch(interpreter: KernelProcess) -> None:
    rows = build(Shape(), [40, 20])
    contexts = torch.tensor([40, 0], dtype=torch.int32)
    answer = interpreter.call(
        "decode_attention.paged_decode", rows.query, rows.kv, rows.block_tables, contexts
    )
    assert_near(answer[:1], rows.attend_on_cpu()[:1])
    assert torch.equal(answer[1], torch.zeros_like(answer[1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {0: torch.zeros(2, 3, 16)},
            "query: heads 3, dim 16; allowed: a multiple of 2 heads, dim 16",
            id="heads that no KV head shares evenly",
        ),
        pytest.param(
            {0: torch.zeros(2, 4, 16).half()},
            "dtype: query torch.float16, cache torch.float32",
            id="two dtypes",
        ),
        pytest.param(
            {0: torch.zeros(2, 4, 32)[..., ::2]},
            "query: shape .* allowed: .* dim contiguous",
            id="a strided head",
        ),
        pytest.param(
            {1: torch.zeros(2, 4, 16, 16)},
            "kv: shape .* allowed: .2, blocks, block_tokens, kv_heads, dim.",
            id="a KV cache of another layout",
        ),
        pytest.param(
            {2: torch.zeros(3, 4, dtype=torch.int32)},
            r"block_tables: shape \(3, 4\); allowed: \(2, blocks\)",
            id="tables of other rows",
        ),
        pytest.param(
            {3: torch.ones(2, dtype=torch.int64)},
            "context_tokens: torch.int64; allowed: torch.int32",
            id="contexts of int64",
        ),
    ],
)
def test_wrong_tensors_are_refused_by_name(interpreter: KernelProcess, changes: dict, message: str) -> None:
    rows = build(Shape(), [40, 20])
    arguments = [rows.query, rows.kv, rows.block_tables, rows.context_tokens]
    for index, tensor in changes.items():
        arguments[index] = tensor
    with pytest.raises(ValueError, match=message):
        interpreter.call("decode_attention.paged_decode", *arguments)
