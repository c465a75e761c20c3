"""One pass norms, rotates and stores what the engine on CPU norms, rotates and stores in several."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from kernel_process import KernelProcess
from torch import Tensor

from semipd_engine.model import rotary

pytestmark = pytest.mark.slow

# Of the values, which are below 8: the last place of fp32 sums; of fp16 and bf16 the last place, as the interpreter cuts it off.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3.2e-2}
EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    heads: int = 4
    nope: int = 24
    latent: int = 32
    rope: int = 16
    block_tokens: int = 16


@dataclass(frozen=True, slots=True)
class Step:
    """Queries and entries are parts of one projection; entries of the cache that nobody writes are no numbers."""

    shape: Shape
    query: Tensor
    entries: Tensor
    norm: Tensor
    rotation: Tensor
    latents: Tensor
    kv_slots: Tensor

    @classmethod
    def build(cls, shape: Shape, dtype: torch.dtype, kv_slots: Tensor) -> Step:
        random = torch.Generator().manual_seed(0)
        tokens, dim, entry = len(kv_slots), shape.nope + shape.rope, shape.latent + shape.rope
        joined = torch.randn(tokens, shape.heads * dim + entry, generator=random).clamp(-3, 3).to(dtype)
        query, entries = joined.split_with_sizes([shape.heads * dim, entry], 1)
        angles = 100 * torch.rand(tokens, 1, shape.rope // 2, generator=random)
        return cls(
            shape,
            query.view(tokens, shape.heads, dim),
            entries,
            (0.8 + 0.4 * torch.rand(shape.latent, generator=random)).to(dtype),
            torch.polar(torch.full_like(angles, 1.2), angles),  # as YaRN has it: longer by a magnitude
            torch.full((4, shape.block_tokens, entry), float("nan")).to(dtype),
            kv_slots,
        )

    def run(self, interpreter: KernelProcess) -> None:
        arguments = self.query, self.entries, self.norm, self.rotation, self.latents, self.kv_slots
        interpreter.call("latent_store.norm_rotate_and_store", *arguments, epsilon=EPSILON)

    def expected_query(self) -> Tensor:
        nope, rope = self.query.split_with_sizes([self.shape.nope, self.shape.rope], 2)
        return torch.cat([nope, rotary.rotated(rope, self.rotation)], 2)

    def expected_entries(self) -> Tensor:
        latent, key = self.entries.split_with_sizes([self.shape.latent, self.shape.rope], 1)
        normed = F.rms_norm(latent, self.norm.shape, self.norm, EPSILON)
        return torch.cat([normed, rotary.rotated(key[:, None], self.rotation)[:, 0]], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(Shape(), id="pages of 16"),
        pytest.param(Shape(heads=7, block_tokens=32), id="pages of 32, more heads than a tile"),
        pytest.param(
            Shape(latent=24, rope=12, block_tokens=64), id="pages of 64, dims that are no powers of two"
        ),
    ],
)
def test_norm_rotation_and_store_are_those_of_the_engine_on_cpu(
    interpreter: KernelProcess, shape: Shape, dtype: torch.dtype
) -> None:
    slots = torch.randperm(4 * shape.block_tokens, generator=torch.Generator().manual_seed(1))[:5]
    step = Step.build(shape, dtype, slots)
    query, written, given = step.expected_query(), step.expected_entries(), step.entries.clone()

    step.run(interpreter)

    atol = TOLERANCES[dtype]
    torch.testing.assert_close(step.query, query, rtol=0.0, atol=atol)
    assert torch.equal(step.query[..., : shape.nope], query[..., : shape.nope])
    cache = step.latents.flatten(0, 1)
    torch.testing.assert_close(cache[slots], written, rtol=0.0, atol=atol)
    others = torch.ones(len(cache), dtype=torch.bool).index_fill_(0, slots, False)
    assert cache[others].isnan().all()
    assert torch.equal(step.entries, given)


def test_rows_that_pad_a_graph_write_to_the_null_block_alone(interpreter: KernelProcess) -> None:
    step = Step.build(Shape(), torch.float32, torch.tensor([37, 0, 0, 0]))
    written = step.expected_entries()
    step.run(interpreter)
    cache = step.latents.flatten(0, 1)
    torch.testing.assert_close(cache[37], written[0], rtol=0.0, atol=1e-5)
    assert cache[0].isfinite().all()
    assert cache.isfinite().any(1).sum() == 2


def test_wrong_tensors_are_refused_by_name(interpreter: KernelProcess) -> None:
    step = Step.build(Shape(), torch.float32, torch.tensor([1]))
    call, name = interpreter.call, "latent_store.norm_rotate_and_store"
    before, after = (step.query, step.entries), (step.rotation, step.latents)
    with pytest.raises(ValueError, match=r"entries: .* allowed: \(1, 47\) of torch.float32"):
        call(name, *before, step.norm[1:], *after, step.kv_slots, epsilon=EPSILON)
    with pytest.raises(ValueError, match=r"norm: .* allowed: \(32,\) of torch.float32"):
        call(name, *before, step.norm.half(), *after, step.kv_slots, epsilon=EPSILON)
    with pytest.raises(ValueError, match=r"kv_slots: .* allowed: \(1,\) of torch.int64"):
        call(name, *before, step.norm, *after, step.kv_slots.int(), epsilon=EPSILON)
