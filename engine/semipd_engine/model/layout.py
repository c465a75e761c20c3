"""Where each weight lies in the arena: projections that read the same input are fused into one matrix.

The names of parts are those of Hugging Face checkpoints, which every source speaks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from semipd_core.telemetry import Wire
from semipd_engine.model.config import ExpertsConfig, LatentConfig, ModelConfig
from semipd_engine.model.dtypes import ITEM_BYTES

ALIGNMENT_BYTES = 64  # a cache line, and the widest vector


class TensorEntry(Wire, frozen=True, kw_only=True):
    """One tensor of an arena, row-major."""

    name: str
    offset: int  # bytes from the start of the arena
    shape: list[int]
    dtype: str

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A tensor of the checkpoint, placed below the parts before it.

    `rope_heads` > 0: rows of so many heads whose two halves are to be interleaved, so that a rotation is one complex product.
    `rows`, `columns`: the first of them that is placed, and the one after the last; None: all.
    """

    source: str
    shape: tuple[int, ...]  # in the checkpoint
    rope_heads: int = 0
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None

    @property
    def placed_shape(self) -> list[int]:
        cuts = (self.rows, self.columns)
        return [size if cut is None else cut[1] - cut[0] for size, cut in zip(self.shape, cuts, strict=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedTensor:
    name: str
    parts: tuple[Part, ...]
    dtype: str | None = None  # None: that of the model

    @property
    def shape(self) -> list[int]:
        return [sum(part.placed_shape[0] for part in self.parts), *self.parts[0].placed_shape[1:]]


def fused_tensors(config: ModelConfig) -> Iterator[FusedTensor]:
    """In the order in which a step reads them. A tied head is the embedding and has no tensor of its own."""
    hidden = config.hidden_size
    embedding = (config.vocab_size, hidden)
    yield _single("embed", "model.embed_tokens.weight", *embedding)
    for layer in range(config.num_layers):
        ours, theirs = f"layers.{layer}.", f"model.layers.{layer}."
        attention = theirs + "self_attn."
        yield _single(ours + "input_norm", theirs + "input_layernorm.weight", hidden)
        if config.latent is None:
            yield from _grouped_query(config, ours, attention)
            values = config.num_heads * config.head_dim
        else:
            yield from _latent(config, config.latent, ours, attention)
            values = config.num_heads * config.latent.v_head_dim
        yield _single(ours + "o", attention + "o_proj.weight", hidden, values)
        yield _single(ours + "post_norm", theirs + "post_attention_layernorm.weight", hidden)
        experts = config.experts_of(layer)
        if experts is None:
            yield from _gated_mlp(config.intermediate_size, hidden, ours, theirs + "mlp.")
        else:
            yield from _experts(experts, hidden, ours, theirs + "mlp.")
    yield _single("norm", "model.norm.weight", hidden)
    if not config.tied_embeddings:
        yield _single("head", "lm_head.weight", *embedding)


def _grouped_query(config: ModelConfig, ours: str, theirs: str) -> Iterator[FusedTensor]:
    def projections(kind: str, *columns: int) -> tuple[Part, ...]:
        query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        return (
            Part(source=f"{theirs}q_proj.{kind}", shape=(query, *columns), rope_heads=config.num_heads),
            Part(source=f"{theirs}k_proj.{kind}", shape=(key, *columns), rope_heads=config.num_kv_heads),
            Part(source=f"{theirs}v_proj.{kind}", shape=(key, *columns)),
        )

    yield FusedTensor(name=ours + "qkv", parts=projections("weight", config.hidden_size))
    if config.qkv_bias:
        yield FusedTensor(name=ours + "qkv_bias", parts=projections("bias"))
    if config.qk_norm:
        for name in ("q_norm", "k_norm"):
            part = Part(source=f"{theirs}{name}.weight", shape=(config.head_dim,), rope_heads=1)
            yield FusedTensor(name=ours + name, parts=(part,))


def _latent(config: ModelConfig, latent: LatentConfig, ours: str, theirs: str) -> Iterator[FusedTensor]:
    """Rotary dims are interleaved in these checkpoints already.

    `q_kv` is what reads the hidden state: queries (or, with `q_lora_rank`, what they are projected from), then latent and
    rotary key. `kv_up` keeps the rows (head, key then value), so that both halves are views for absorbed attention.
    """
    hidden, query = config.hidden_size, config.num_heads * config.head_dim
    entry = Part(source=theirs + "kv_a_proj_with_mqa.weight", shape=(latent.entry_dim, hidden))
    rank = latent.q_lora_rank
    if rank is None:
        first = Part(source=theirs + "q_proj.weight", shape=(query, hidden))
    else:
        first = Part(source=theirs + "q_a_proj.weight", shape=(rank, hidden))
    yield FusedTensor(name=ours + "q_kv", parts=(first, entry))
    if rank is not None:
        yield _single(ours + "q_norm", theirs + "q_a_layernorm.weight", rank)
        yield _single(ours + "q_up", theirs + "q_b_proj.weight", query, rank)
    yield _single(ours + "kv_norm", theirs + "kv_a_layernorm.weight", latent.kv_lora_rank)
    up = config.num_heads * (latent.qk_nope_head_dim + latent.v_head_dim)
    yield _single(ours + "kv_up", theirs + "kv_b_proj.weight", up, latent.kv_lora_rank)


def _gated_mlp(inner: int, hidden: int, ours: str, theirs: str) -> Iterator[FusedTensor]:
    yield FusedTensor(name=ours + "gate_up", parts=_gate_and_up(inner, hidden, theirs))
    yield _single(ours + "down", theirs + "down_proj.weight", hidden, inner)


def _experts(experts: ExpertsConfig, hidden: int, ours: str, theirs: str) -> Iterator[FusedTensor]:
    """Shared experts are one MLP; the routed ones lie one after the other, as a grouped product reads them.

    The router is kept in fp32: a rounded score would choose other experts.
    """
    inner, each = experts.intermediate_size, [f"{theirs}experts.{one}." for one in range(experts.num_experts)]
    router = Part(source=theirs + "gate.weight", shape=(experts.num_experts, hidden))
    yield FusedTensor(name=ours + "router", parts=(router,), dtype="FP32")
    yield from _gated_mlp(experts.num_shared_experts * inner, hidden, ours, theirs + "shared_experts.")
    yield FusedTensor(
        name=ours + "experts_gate_up",
        parts=tuple(part for expert in each for part in _gate_and_up(inner, hidden, expert)),
    )
    yield FusedTensor(
        name=ours + "experts_down",
        parts=tuple(Part(source=expert + "down_proj.weight", shape=(hidden, inner)) for expert in each),
    )


def _gate_and_up(inner: int, hidden: int, theirs: str) -> tuple[Part, Part]:
    return (
        Part(source=theirs + "gate_proj.weight", shape=(inner, hidden)),
        Part(source=theirs + "up_proj.weight", shape=(inner, hidden)),
    )


def _single(name: str, source: str, *shape: int) -> FusedTensor:
    return FusedTensor(name=name, parts=(Part(source=source, shape=shape),))


def place(tensors: Iterable[FusedTensor], dtype: str) -> tuple[list[TensorEntry], int]:
    """Each tensor at the next multiple of ALIGNMENT_BYTES, and the size of the arena in bytes."""
    entries, end = [], 0
    for tensor in tensors:
        entry = TensorEntry(name=tensor.name, offset=end, shape=tensor.shape, dtype=tensor.dtype or dtype)
        entries.append(entry)
        end += -(-entry.num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return entries, end
