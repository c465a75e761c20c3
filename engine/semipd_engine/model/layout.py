"""Where each weight lies in the arena: projections that read the same input are fused into one matrix.

The names of parts are those of Hugging Face checkpoints, which every source speaks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from semipd_core.telemetry import Wire
from semipd_engine.model.config import ModelConfig
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
    """

    source: str
    shape: tuple[int, ...]
    rope_heads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedTensor:
    name: str
    parts: tuple[Part, ...]

    @property
    def shape(self) -> list[int]:
        return [sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:]]


def fused_tensors(config: ModelConfig) -> Iterator[FusedTensor]:
    """In the order in which a step reads them. A tied head is the embedding and has no tensor of its own."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    embedding = (config.vocab_size, hidden)
    yield _single("embed", "model.embed_tokens.weight", *embedding)
    for layer in range(config.num_layers):
        ours, theirs = f"layers.{layer}.", f"model.layers.{layer}."
        attention = theirs + "self_attn."
        yield _single(ours + "input_norm", theirs + "input_layernorm.weight", hidden)
        yield FusedTensor(
            name=ours + "qkv",
            parts=(
                Part(source=attention + "q_proj.weight", shape=(query, hidden), rope_heads=config.num_heads),
                Part(source=attention + "k_proj.weight", shape=(key, hidden), rope_heads=config.num_kv_heads),
                Part(source=attention + "v_proj.weight", shape=(key, hidden)),
            ),
        )
        yield _single(ours + "o", attention + "o_proj.weight", hidden, query)
        yield _single(ours + "post_norm", theirs + "post_attention_layernorm.weight", hidden)
        yield FusedTensor(
            name=ours + "gate_up",
            parts=(
                Part(source=theirs + "mlp.gate_proj.weight", shape=(inner, hidden)),
                Part(source=theirs + "mlp.up_proj.weight", shape=(inner, hidden)),
            ),
        )
        yield _single(ours + "down", theirs + "mlp.down_proj.weight", hidden, inner)
    yield _single("norm", "model.norm.weight", hidden)
    if not config.tied_embeddings:
        yield _single("head", "lm_head.weight", *embedding)


def _single(name: str, source: str, *shape: int) -> FusedTensor:
    return FusedTensor(name=name, parts=(Part(source=source, shape=shape),))


def place(tensors: Iterator[FusedTensor], dtype: str) -> tuple[list[TensorEntry], int]:
    """Each tensor at the next multiple of ALIGNMENT_BYTES, and the size of the arena in bytes."""
    entries, end = [], 0
    for tensor in tensors:
        entry = TensorEntry(name=tensor.name, offset=end, shape=tensor.shape, dtype=dtype)
        entries.append(entry)
        end += -(-entry.num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return entries, end
