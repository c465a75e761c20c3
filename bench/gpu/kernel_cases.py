"""What `kernels.py` runs: each kernel on shapes of Llama 3.1 8B and DeepSeek-V2-Lite, and what plain torch says of the result.

Attention also by FlashInfer, where it is installed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from flashinfer_rows import plan_rows
from torch import Tensor

from semipd_engine.cuda_model.attention_choice import AttentionShape
from semipd_engine.kernels.decode_attention import paged_decode
from semipd_engine.kernels.latent_store import norm_rotate_and_store
from semipd_engine.kernels.mla_attention import mla_decode
from semipd_engine.kernels.mla_prefill import mla_prefill
from semipd_engine.kernels.prefill_attention import paged_prefill
from semipd_engine.kernels.quantize_rows import quantize_rows
from semipd_engine.kernels.rms_norm import add_rms_norm
from semipd_engine.kernels.rope_store import rotate_and_store
from semipd_engine.kernels.sampling import sample
from semipd_engine.kernels.silu_mul import silu_mul
from semipd_engine.kernels.weight_only import weight_only_matmul
from semipd_engine.model.config import LatentConfig

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TOLERANCES = {"bf16": 1.6e-2, "fp16": 2e-3, "fp32": 1e-4}
ARENA_DTYPES = {"bf16": "BF16", "fp16": "FP16", "fp32": "FP32"}  # as a model's configuration names them
FLASHINFER = "FlashInfer"
FP8_COLUMNS = 128  # of a scale, where there are several in a row
CHECKED_TOKENS = 16  # per chunk or batch, where the reference is slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One kernel on one shape."""

    run: Callable[[], Any]
    errors: Callable[[], dict[str, float]]  # name to size, in units of the tolerance; all must be at most 1
    num_bytes: int  # that must be moved at least
    flops: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    kernel: str
    shape: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return " ".join([self.kernel, *(f"{key}={_compact(value)}" for key, value in self.shape.items())])

    def build(self, device: str) -> Work:
        torch.manual_seed(0)
        with torch.device(device):
            return BUILDERS[self.kernel](**self.shape)


def _compact(value: Any) -> str:
    """Runs of equal items as one: [1024] * 64 is 1024x64."""
    if not isinstance(value, list):
        return str(value)
    runs = [(item, len(list(run))) for item, run in itertools.groupby(value)]
    return ",".join(f"{item}x{count}" if count > 1 else str(item) for item, count in runs)


def _pages(contexts: Sequence[int], block_tokens: int) -> tuple[Tensor, Tensor, int]:
    """Block tables in shuffled order, context tokens, and the number of blocks, null block included."""
    widths = [-(-context // block_tokens) for context in contexts]
    blocks = (torch.randperm(sum(widths)) + 1).int()
    rows = torch.nn.utils.rnn.pad_sequence(list(blocks.split(widths)), batch_first=True)
    return rows, torch.tensor(contexts, dtype=torch.int32), sum(widths) + 1


def _error(actual: Tensor, expected: Tensor, dtype: str) -> float:
    """expected: fp64."""
    tolerance = TOLERANCES[dtype]
    return float(((actual.double() - expected).abs() / (tolerance + tolerance * expected.abs())).max())


def _attend(query: Tensor, kv: Tensor, table: Tensor, position: int) -> Tensor:
    """One token's attention in fp64. query: (heads, dim); sees the entries up to `position`."""
    held = table[: position // kv.shape[2] + 1].long()
    keys, values = kv[:, held].double().flatten(1, 2)[:, : position + 1].transpose(1, 2)
    group = len(query) // kv.shape[3]
    keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
    scores = torch.einsum("hd,hnd->hn", query.double(), keys) / math.sqrt(query.shape[1])
    return torch.einsum("hn,hnd->hd", scores.softmax(-1), values)


def _shape(
    heads: int, kv_heads: int, dim: int, dtype: str, latent: LatentConfig | None = None
) -> AttentionShape:
    return AttentionShape(
        num_heads=heads, num_kv_heads=kv_heads, head_dim=dim, dtype=ARENA_DTYPES[dtype], latent=latent
    )


def _alone(by: str, run: Callable[..., Tensor], answer: Tensor) -> dict[str, float]:
    """Whether a row is the same without the others, which our own kernels promise alone."""
    if by == FLASHINFER:
        return {}
    return {"alone": 0.0 if torch.equal(run(slice(0, 1)), answer[:1]) else math.inf}


def _decode(
    *,
    contexts: list[int],
    heads: int = 32,
    kv_heads: int = 8,
    dim: int = 128,
    block_tokens: int = 64,
    dtype: str = "bf16",
    by: str = "Triton",
) -> Work:
    tables, seen, blocks = _pages(contexts, block_tokens)
    kv = torch.randn(2, blocks, block_tokens, kv_heads, dim, dtype=DTYPES[dtype])
    query = torch.randn(len(contexts), heads, dim, dtype=DTYPES[dtype])

    def run(rows: slice = slice(None)) -> Tensor:
        return paged_decode(query[rows], kv, tables[rows], seen[rows])

    if by == FLASHINFER:
        planned = plan_rows(_shape(heads, kv_heads, dim, dtype), tables, contexts, (), block_tokens)
        run = partial(planned.decode, query, kv, None)

    def errors() -> dict[str, float]:
        answer = run()
        rows = range(0, len(contexts), max(1, len(contexts) // CHECKED_TOKENS))
        expected = torch.stack([_attend(query[row], kv, tables[row], contexts[row] - 1) for row in rows])
        return {"torch": _error(answer[list(rows)], expected, dtype)} | _alone(by, run, answer)

    entry_bytes = kv_heads * dim * kv.itemsize
    return Work(
        run=run,
        errors=errors,
        num_bytes=2 * sum(contexts) * entry_bytes + 2 * query.nbytes,
        flops=4 * sum(contexts) * heads * dim,
    )


def _prefill(
    *,
    chunks: list[tuple[int, int]],
    heads: int = 32,
    kv_heads: int = 8,
    dim: int = 128,
    block_tokens: int = 64,
    dtype: str = "bf16",
    by: str = "Triton",
) -> Work:
    tables, seen, blocks = _pages([cached + new for cached, new in chunks], block_tokens)
    kv = torch.randn(2, blocks, block_tokens, kv_heads, dim, dtype=DTYPES[dtype])
    sizes = [new for _, new in chunks]
    starts = [sum(sizes[:index]) for index in range(len(sizes) + 1)]
    query = torch.randn(starts[-1], heads, dim, dtype=DTYPES[dtype])
    token_starts = torch.tensor(starts, dtype=torch.int32)

    def run() -> Tensor:
        return paged_prefill(query, kv, tables, seen, token_starts, max(sizes))

    if by == FLASHINFER:
        planned = plan_rows(_shape(heads, kv_heads, dim, dtype), tables, seen.tolist(), sizes, block_tokens)
        run = partial(planned.prefill, query, kv, None)

    def errors() -> dict[str, float]:
        answer, worst = run(), 0.0
        for chunk, (cached, new) in enumerate(chunks):
            for index in {new - 1, *range(0, new, max(1, new // CHECKED_TOKENS))}:
                token = starts[chunk] + index
                expected = _attend(query[token], kv, tables[chunk], cached + index)
                worst = max(worst, _error(answer[token], expected, dtype))
        return {"torch": worst}

    seen_pairs = sum(new * cached + new * (new + 1) // 2 for cached, new in chunks)
    entry_bytes = kv_heads * dim * kv.itemsize
    return Work(
        run=run,
        errors=errors,
        num_bytes=2 * sum(cached + new for cached, new in chunks) * entry_bytes + 2 * query.nbytes,
        flops=4 * seen_pairs * heads * dim,
    )


def _mla(
    *,
    contexts: list[int],
    heads: int = 16,
    latent: int = 512,
    rope: int = 64,
    block_tokens: int = 64,
    dtype: str = "bf16",
    by: str = "Triton",
) -> Work:
    tables, seen, blocks = _pages(contexts, block_tokens)
    latents = torch.randn(blocks, block_tokens, latent + rope, dtype=DTYPES[dtype])
    query = torch.randn(len(contexts), heads, latent + rope, dtype=DTYPES[dtype])
    scale = 1 / math.sqrt(192)  # of DeepSeek-V2's own query heads

    def attend(row: int) -> Tensor:
        entries = latents[tables[row].long()].double().flatten(0, 1)[: contexts[row]]
        return (query[row].double() @ entries.T * scale).softmax(-1) @ entries[:, :latent]

    def run(rows: slice = slice(None)) -> Tensor:
        return mla_decode(query[rows], latents, tables[rows], seen[rows], latent_dim=latent, scale=scale)

    if by == FLASHINFER:
        config = LatentConfig(
            q_lora_rank=None,
            kv_lora_rank=latent,
            qk_nope_head_dim=192 - rope,
            qk_rope_head_dim=rope,
            v_head_dim=128,
            softmax_scale=scale,
        )
        shape = _shape(heads, 1, latent + rope, dtype, config)
        planned = plan_rows(shape, tables, contexts, (), block_tokens)
        run = partial(planned.decode_latents, query, latents, None)

    def errors() -> dict[str, float]:
        answer = run()
        rows = range(0, len(contexts), max(1, len(contexts) // CHECKED_TOKENS))
        expected = torch.stack([attend(row) for row in rows])
        return {"torch": _error(answer[list(rows)], expected, dtype)} | _alone(by, run, answer)

    return Work(
        run=run,
        errors=errors,
        num_bytes=sum(contexts) * (latent + rope) * latents.itemsize + 2 * query.nbytes,
        flops=2 * sum(contexts) * heads * (2 * latent + rope),
    )


def _mla_prefill(
    *,
    chunks: list[tuple[int, int]],
    heads: int = 16,
    nope: int = 128,
    rope: int = 64,
    value: int = 128,
    latent: int = 512,
    block_tokens: int = 64,
    dtype: str = "bf16",
) -> Work:
    tables, seen, blocks = _pages([cached + new for cached, new in chunks], block_tokens)
    slots = (tables.long()[..., None] * block_tokens + torch.arange(block_tokens)).flatten(1)
    held = [row[:context] for row, context in zip(slots, seen.tolist(), strict=True)]
    latents = torch.randn(blocks, block_tokens, latent + rope, dtype=DTYPES[dtype])
    kv_up = (torch.randn(heads * (nope + value), latent) / math.sqrt(latent)).to(DTYPES[dtype])
    starts = [0, *itertools.accumulate(new for _, new in chunks)]
    context_starts = F.pad(seen.cumsum(0, dtype=torch.int32), (1, 0))
    query = torch.randn(starts[-1], heads, nope + rope, dtype=DTYPES[dtype])
    scale = 1 / math.sqrt(nope + rope)
    places = torch.cat(held), context_starts, torch.tensor(starts, dtype=torch.int32)

    def run() -> Tensor:
        return mla_prefill(query, latents, kv_up, *places, max(new for _, new in chunks), scale=scale)

    def attend(token: int, context: Tensor) -> Tensor:
        """Absorbed, in fp64."""
        keys, values = kv_up.double().view(heads, -1, latent).split_with_sizes([nope, value], 1)
        asked, asked_rope = query[token].double().split_with_sizes([nope, rope], 1)
        entries, turned = context.double().split_with_sizes([latent, rope], 1)
        scores = torch.einsum("hn,hnl->hl", asked, keys) @ entries.T + asked_rope @ turned.T
        return torch.einsum("hl,hvl->hv", (scores * scale).softmax(-1) @ entries, values)

    def errors() -> dict[str, float]:
        answer, worst = run(), 0.0
        for chunk, (cached, new) in enumerate(chunks):
            for index in {new - 1, *range(0, new, max(1, new // CHECKED_TOKENS))}:
                token = starts[chunk] + index
                context = latents.flatten(0, 1)[held[chunk][: cached + index + 1]]
                worst = max(worst, _error(answer[token], attend(token, context), dtype))
        return {"torch": worst}

    contexts = sum(cached + new for cached, new in chunks)
    seen_pairs = sum(new * cached + new * (new + 1) // 2 for cached, new in chunks)
    answer_bytes = starts[-1] * heads * value * query.itemsize
    return Work(
        run=run,
        errors=errors,
        num_bytes=contexts * (latent + rope) * latents.itemsize + kv_up.nbytes + query.nbytes + answer_bytes,
        flops=2 * heads * (seen_pairs * (nope + rope + value) + contexts * latent * (nope + value)),
    )


def _latent_store(
    *,
    tokens: int,
    heads: int = 16,
    nope: int = 128,
    rope: int = 64,
    latent: int = 512,
    block_tokens: int = 64,
    dtype: str = "bf16",
) -> Work:
    query = torch.randn(tokens, heads, nope + rope, dtype=DTYPES[dtype])
    entries = torch.randn(tokens, latent + rope, dtype=DTYPES[dtype])
    norm = torch.rand(latent, dtype=DTYPES[dtype])
    latents = torch.zeros(-(-tokens // block_tokens) + 1, block_tokens, latent + rope, dtype=DTYPES[dtype])
    angles = 100 * torch.rand(tokens, 1, rope // 2)
    rotation = torch.polar(torch.ones_like(angles), angles)
    slots = torch.randperm(len(latents) * block_tokens)[:tokens]

    def run(asked: Tensor = query) -> None:
        norm_rotate_and_store(asked, entries, norm, rotation, latents, slots, epsilon=1e-6)

    def turned(plain: Tensor) -> Tensor:
        pairs = torch.view_as_complex(plain.double().unflatten(2, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * rotation).flatten(2)

    def errors() -> dict[str, float]:
        plain, written = entries.double(), query.clone()
        run(written)
        stored = latents.flatten(0, 1)[slots]
        normed = F.rms_norm(plain[:, :latent], (latent,), norm.double(), 1e-6)
        return {
            "queries": _error(written[..., nope:], turned(query[..., nope:]), dtype),
            "latents": _error(stored[:, :latent], normed, dtype),
            "keys": _error(stored[:, latent:], turned(plain[:, None, latent:])[:, 0], dtype),
        }

    moved = 2 * (heads * rope + latent + rope) * query.itemsize + rotation[0].nbytes
    return Work(run=run, errors=errors, num_bytes=tokens * moved)


def _rope_store(
    *,
    tokens: int,
    heads: int = 32,
    kv_heads: int = 8,
    dim: int = 128,
    block_tokens: int = 64,
    dtype: str = "bf16",
) -> Work:
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dim, dtype=DTYPES[dtype])
    kv = torch.zeros(2, -(-tokens // block_tokens) + 1, block_tokens, kv_heads, dim, dtype=DTYPES[dtype])
    angles = 100 * torch.rand(tokens, 1, dim // 2)
    rotation = torch.polar(torch.ones_like(angles), angles)
    slots = torch.randperm(kv.shape[1] * block_tokens)[:tokens]

    def errors() -> dict[str, float]:
        plain = qkv.double().view(tokens, -1, dim)
        pairs = torch.view_as_complex(plain[:, : heads + kv_heads].unflatten(2, (-1, 2)).contiguous())
        turned = torch.view_as_real(pairs * rotation).flatten(2)
        written = qkv.clone()
        rotate_and_store(written, rotation, kv, slots, heads)
        keys, values = kv.view(2, -1, kv_heads, dim)[:, slots]
        return {
            "queries": _error(written.view(tokens, -1, dim)[:, :heads], turned[:, :heads], dtype),
            "keys": _error(keys, turned[:, heads:], dtype),
            "values": _error(values, plain[:, heads + kv_heads :], dtype),
        }

    moved = (2 * heads + 4 * kv_heads) * dim * qkv.itemsize + rotation[0].nbytes
    return Work(
        run=lambda: rotate_and_store(qkv, rotation, kv, slots, heads), errors=errors, num_bytes=tokens * moved
    )


def _rms_norm(*, tokens: int, hidden: int = 4096, dtype: str = "bf16") -> Work:
    residual, addend = torch.randn(2, tokens, hidden, dtype=DTYPES[dtype])
    addend = addend.contiguous()
    weight = torch.rand(hidden, dtype=DTYPES[dtype])

    def errors() -> dict[str, float]:
        written = residual.clone()
        answer = add_rms_norm(written, addend, weight, 1e-5)
        total = residual.double() + addend.double()
        expected = F.rms_norm(written.double(), (hidden,), weight.double(), 1e-5)
        return {"sum": _error(written, total, dtype), "norm": _error(answer, expected, dtype)}

    return Work(
        run=lambda: add_rms_norm(residual, addend, weight, 1e-5), errors=errors, num_bytes=4 * residual.nbytes
    )


def _silu_mul(*, tokens: int, inner: int = 14_336, dtype: str = "bf16") -> Work:
    gate_up = torch.randn(tokens, 2 * inner, dtype=DTYPES[dtype])

    def errors() -> dict[str, float]:
        gate, up = gate_up.double().chunk(2, 1)
        return {"torch": _error(silu_mul(gate_up), F.silu(gate) * up, dtype)}

    return Work(run=lambda: silu_mul(gate_up), errors=errors, num_bytes=gate_up.nbytes * 3 // 2)


def _fp8(*, product: str, tokens: int, rows: int, columns: int) -> Work:
    """One weight in FP8, by each product that there is, and for comparison in bf16."""
    from semipd_engine.cuda_model.projection import scaled_matmul  # noqa: PLC0415 - needs msgspec

    hidden = torch.randn(tokens, columns, dtype=torch.bfloat16)
    codes = torch.randn(rows, columns).to(torch.float8_e4m3fn)
    blocks = columns // FP8_COLUMNS if product == "w8a16_blocks" else 1
    scales = (0.5 + torch.rand(rows, blocks)) / math.sqrt(columns)
    weight = (codes.float() * scales.repeat_interleave(columns // blocks, 1)).bfloat16()

    products: dict[str, Callable[[], Tensor]] = {
        "scaled": lambda: scaled_matmul(hidden, codes, scales),
        "bf16": lambda: F.linear(hidden, weight),
    }
    run = products.get(product, lambda: weight_only_matmul(hidden, codes, scales, FP8_COLUMNS))

    def errors() -> dict[str, float]:
        checked = list(range(0, tokens, max(1, tokens // CHECKED_TOKENS)))
        asked = hidden[checked].double()
        if product == "scaled":
            asked_codes, asked_scales = quantize_rows(hidden)
            asked = (asked_codes.float() * asked_scales)[checked].double()
        wide = codes.double() * scales.double().repeat_interleave(columns // blocks, 1)
        if product == "bf16":
            wide = weight.double()
        return {"torch": _error(run()[checked], asked @ wide.T, "bf16")}

    weight_bytes = weight.nbytes if product == "bf16" else codes.nbytes + scales.nbytes
    moved = weight_bytes + hidden.nbytes + 2 * tokens * rows
    return Work(run=run, errors=errors, num_bytes=moved, flops=2 * tokens * rows * columns)


def _sample(*, rows: int, cuts: str, vocab: int = 128_256) -> Work:
    top_k, top_p = {"none": (0, 1.0), "top_k": (50, 1.0), "top_p": (0, 0.9), "both": (50, 0.9)}[cuts]
    logits = 3 * torch.randn(rows, vocab)
    seeds, positions = torch.arange(rows), torch.arange(rows) + 1000
    settings = (
        torch.full((rows,), 0.8, dtype=torch.float64),
        torch.full((rows,), top_k),
        torch.full((rows,), top_p, dtype=torch.float64),
        seeds,
        positions,
    )

    def run() -> Tensor:
        return sample(logits, *settings, has_cuts=cuts != "none")

    def errors() -> dict[str, float]:
        from semipd_core.messages import Sampling  # noqa: PLC0415 - needs msgspec, which the other cases do not
        from semipd_engine.model import sampling  # noqa: PLC0415

        checked = range(0, rows, max(1, rows // CHECKED_TOKENS))
        wanted = [Sampling(temperature=0.8, top_k=top_k, top_p=top_p, seed=row) for row in checked]
        expected = sampling.sample(logits[list(checked)].cpu(), wanted, [row + 1000 for row in checked])
        tokens = run()[list(checked)].tolist()
        return {"cpu": 0.0 if tokens == [choice.token for choice in expected] else math.inf}

    return Work(run=run, errors=errors, num_bytes=logits.nbytes)


BUILDERS: dict[str, Callable[..., Work]] = {
    "decode": _decode,
    "prefill": _prefill,
    "mla": _mla,
    "mla_prefill": _mla_prefill,
    "latent_store": _latent_store,
    "rope_store": _rope_store,
    "rms_norm": _rms_norm,
    "silu_mul": _silu_mul,
    "fp8": _fp8,
    "sample": _sample,
}
