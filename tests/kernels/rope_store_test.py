"""One pass rotates and stores what the engine on CPU rotates and stores in two."""

from __future__ import annotations

import pytest
import torch
from kernel_process import KernelProcess

from semipd_engine.model import attention, rotary

pytestmark = pytest.mark.slow

# Of the values, which are below 8: the last place of fp32 sums; of fp16 and bf16 the last place, as the interpreter cuts it off.
TOLERANCES = {torch.float32: 1e-6, torch.float16: 4e-3, torch.bfloat16: 3.2e-2}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "block_tokens"),
    [
        pytest.param(4, 2, 16, 16, id="pages of 16"),
        pytest.param(3, 1, 24, 32, id="pages of 32, a head that is no power of two"),
        pytest.param(7, 1, 8, 64, id="pages of 64, a group of seven"),
    ],
)
def test_rotation_and_store_are_those_of_the_engine_on_cpu(
    interpreter: KernelProcess, dtype: torch.dtype, heads: int, kv_heads: int, dim: int, block_tokens: int
) -> None:
    torch.manual_seed(0)
    tokens = 5
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dim).clamp(-5, 5).to(dtype)
    rotation = torch.polar(torch.ones(tokens, 1, dim // 2), 100 * torch.rand(tokens, 1, dim // 2))
    slots = torch.randperm(3 * block_tokens)[:tokens]
    kv = torch.zeros(2, 3, block_tokens, kv_heads, dim, dtype=dtype)
    given, expected_kv = qkv.clone(), kv.clone()

    interpreter.call("rope_store.rotate_and_store", qkv, rotation, kv, slots, heads)

    expected = given.clone().view(tokens, -1, dim)
    rotary.rotate(expected[:, : heads + kv_heads], rotation)
    attention.store(expected_kv, slots, expected[:, heads:].reshape(tokens, 2, -1))
    atol = TOLERANCES[dtype]
    torch.testing.assert_close(qkv.view(tokens, -1, dim)[:, :heads], expected[:, :heads], rtol=0.0, atol=atol)
    torch.testing.assert_close(kv[0], expected_kv[0], rtol=0.0, atol=atol)
    assert torch.equal(kv[1], expected_kv[1])
    assert torch.equal(qkv[:, heads * dim :], given[:, heads * dim :])


def test_wrong_tensors_are_refused_by_name(interpreter: KernelProcess) -> None:
    kv = torch.zeros(2, 3, 16, 2, 16)
    rotation = torch.ones(1, 1, 8, dtype=torch.complex64)
    slots = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"qkv: shape \(1, 96\), torch.float32; allowed: \(tokens, 128\) of torch.float32"
    ):
        interpreter.call("rope_store.rotate_and_store", torch.zeros(1, 96), rotation, kv, slots, 4)
    with pytest.raises(ValueError, match=r"kv_slots: .* allowed: \(1,\) of torch.int64"):
        interpreter.call("rope_store.rotate_and_store", torch.zeros(1, 128), rotation, kv, slots.int(), 4)
