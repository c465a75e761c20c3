"""Add + RMSNorm and SiLU times up, fused, are what plain torch computes in fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kernel_process import KernelProcess
from paged_rows import assert_near

pytestmark = pytest.mark.slow

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [1, 40, 64])
def test_the_sum_is_stored_and_its_norm_returned(
    interpreter: KernelProcess, dtype: torch.dtype, hidden: int
) -> None:
    torch.manual_seed(0)
    residual, addend = torch.randn(2, 3, hidden).to(dtype)
    weight = torch.rand(hidden).to(dtype)
    expected_sum = residual.double() + addend.double()
    normalised = interpreter.call("rms_norm.add_rms_norm", residual, addend, weight, 1e-5)
    assert_near(residual, expected_sum)
    assert_near(normalised, F.rms_norm(residual.double(), (hidden,), weight.double(), 1e-5))


def test_without_an_addend_the_residual_stays(interpreter: KernelProcess) -> None:
    residual, weight = torch.randn(3, 40), torch.rand(40)
    given = residual.clone()
    normalised = interpreter.call("rms_norm.add_rms_norm", residual, None, weight, 1e-5)
    assert torch.equal(residual, given)
    assert_near(normalised, F.rms_norm(given.double(), (40,), weight.double(), 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", [1, 32, 75])
def test_the_gate_is_applied(interpreter: KernelProcess, dtype: torch.dtype, inner: int) -> None:
    torch.manual_seed(0)
    gate_up = (3 * torch.randn(3, 2 * inner)).to(dtype)
    gate, up = gate_up.double().chunk(2, 1)
    assert_near(interpreter.call("silu_mul.silu_mul", gate_up), F.silu(gate) * up)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        pytest.param(
            "rms_norm.add_rms_norm",
            (torch.zeros(2, 8), torch.zeros(2, 4), torch.zeros(8), 1e-5),
            r"addend: shape \(2, 4\)",
            id="an addend of another shape",
        ),
        pytest.param(
            "rms_norm.add_rms_norm",
            (torch.zeros(2, 8), None, torch.zeros(8).half(), 1e-5),
            r"weight: .* allowed: \(8,\) of torch.float32",
            id="weights of another dtype",
        ),
        pytest.param(
            "silu_mul.silu_mul",
            (torch.zeros(2, 7),),
            r"gate_up: shape \(2, 7\).* allowed: \(tokens, 2 \* inner\)",
            id="an odd gate_up",
        ),
    ],
)
def test_wrong_tensors_are_refused_by_name(
    interpreter: KernelProcess, function: str, arguments: tuple, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        interpreter.call(function, *arguments)
