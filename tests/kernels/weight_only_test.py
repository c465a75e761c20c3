"""Products with weights in FP8 are those of the numbers that codes and scales stand for; values become FP8 as torch rounds."""

from __future__ import annotations

import pytest
import torch
from kernel_process import KernelProcess
from paged_rows import assert_near

from semipd_engine.model import fp8_matmul

pytestmark = pytest.mark.slow

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
E4M3 = torch.float8_e4m3fn


def drawn(tokens: int, rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(tokens)
    return torch.randn(tokens, columns), torch.randn(rows, columns).to(E4M3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tokens", "rows", "columns", "block_columns", "has_blocks"),
    [
        pytest.param(1, 48, 64, 64, False, id="one token, a scale per row"),
        pytest.param(3, 40, 70, 128, False, id="sizes that no tile divides"),
        pytest.param(5, 33, 96, 32, True, id="scales of blocks"),
        pytest.param(2, 16, 70, 32, True, id="a last block that is not full"),
        pytest.param(3, 20, 96, 16, True, id="blocks narrower than a tile"),
        pytest.param(40, 50, 64, 32, True, id="more tokens than a program takes"),
    ],
)
def test_products_are_those_of_the_numbers_that_codes_stand_for(
    interpreter: KernelProcess,
    dtype: torch.dtype,
    tokens: int,
    rows: int,
    columns: int,
    block_columns: int,
    has_blocks: bool,
) -> None:
    hidden, codes = drawn(tokens, rows, columns)
    scales = (0.1 + torch.rand(rows, -(-columns // block_columns) if has_blocks else 1)) / columns
    spread = scales.double().repeat_interleave(block_columns if has_blocks else columns, 1)[:, :columns]
    bias = torch.randn(rows).to(dtype)
    expected = hidden.to(dtype).double() @ (codes.double() * spread).T
    arguments = (hidden.to(dtype), codes, scales, block_columns)
    assert_near(interpreter.call("weight_only.weight_only_matmul", *arguments), expected)
    biased = interpreter.call("weight_only.weight_only_matmul", *arguments, bias)
    assert_near(biased, expected + bias.double())


def test_every_code_is_widened_exactly(interpreter: KernelProcess) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    codes[codes & 127 == 127] = 0  # what is no number
    weight = codes.view(E4M3)[:, None].expand(256, 16).contiguous()
    unit = torch.eye(1, 16).bfloat16()
    answer = interpreter.call("weight_only.weight_only_matmul", unit, weight, torch.ones(256, 1), 16)
    assert torch.equal(answer[0].float(), weight[:, 0].float())


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_become_the_codes_and_scales_of_the_oracle(
    interpreter: KernelProcess, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    magnitudes = torch.tensor([0.0, 1e-4, 1e-2, 1.0, 30.0, 1e3])
    hidden = (torch.randn(6, 300) * torch.rand(6, 300) ** 4 * magnitudes[:, None]).to(dtype)
    codes, scales = interpreter.call("quantize_rows.quantize_rows", hidden)
    expected_codes, expected_scales = fp8_matmul.quantize_rows(hidden)
    assert torch.equal(scales, expected_scales)
    assert torch.equal(codes.float(), expected_codes.float())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param(
            {1: torch.zeros(32, 64)}, r"codes: .* allowed: \(rows, 64\) of torch.float8_e4m3fn", id="no codes"
        ),
        pytest.param({1: torch.zeros(32, 48).to(E4M3)}, r"codes: shape \(32, 48\)", id="other columns"),
        pytest.param({2: torch.ones(32, 3)}, r"scales: .* \(32, 1\) or \(32, 4\)", id="scales of no block"),
        pytest.param({2: torch.ones(32, 1).half()}, r"scales: .*float16", id="scales that are not fp32"),
        pytest.param({3: 48}, r"block_columns: 48; allowed: a power of two from 16", id="an odd block"),
        pytest.param({4: torch.zeros(31)}, r"bias: shape \(31,\)", id="a bias of another size"),
        pytest.param(
            {0: torch.zeros(64, 2).t()}, r"hidden: strides .* rows that are contiguous", id="strided values"
        ),
    ],
)
def test_wrong_tensors_are_refused_by_name(interpreter: KernelProcess, changed: dict, message: str) -> None:
    right = [torch.zeros(2, 64), torch.zeros(32, 64).to(E4M3), torch.ones(32, 1), 16, torch.zeros(32)]
    with pytest.raises(ValueError, match=message):
        interpreter.call(
            "weight_only.weight_only_matmul",
            *(changed.get(place, given) for place, given in enumerate(right)),
        )
