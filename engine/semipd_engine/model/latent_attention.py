"""Multi-head latent attention of one layer over a paged cache of latents. Source: DeepSeek-V2, arXiv 2405.04434, section 2.1.

Two ways to the same scores: *absorbed*, queries are brought into the space of the latents and what is mixed are latents; or
*expanded*, the latents are brought into each head's keys and values. Decode is absorbed: it reads a latent once for all heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from semipd_engine.model.batch import Batch, PromptChunk
from semipd_engine.model.config import LatentConfig, ModelConfig
from semipd_engine.model.projection import Projection, build_projection
from semipd_engine.model.rotary import rotated

NORM_EPS = 1e-6  # of the norms of latents: these models take that of their config for the others only
EXPANDED_VALUES_MAX = 1 << 26  # keys and values of a context that are expanded at a time


class LatentBatch(Protocol):
    """What of a batch every device must know here."""

    @property
    def kv_slots(self) -> Tensor: ...

    @property
    def num_singles(self) -> int:
        """Rows of one token, which come first."""


AnyBatch = TypeVar("AnyBatch", bound=LatentBatch)


class LatentLayer(ABC, Generic[AnyBatch]):
    """The projections, and what stands around attention. How pages are written and read, each device has of its own."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], kv: Tensor) -> None:
        """weights: of this layer; kv: (block, block_tokens, latent + rope)."""
        assert config.latent is not None
        self._latent = latent = config.latent
        self._heads = config.num_heads
        self._kv = kv
        self._q_kv = self._build_projection(weights, "q_kv")
        self._query_norm_up = (
            None
            if latent.q_lora_rank is None
            else (weights["q_norm"], self._build_projection(weights, "q_up"))
        )
        self._kv_norm = weights["kv_norm"]
        self._kv_up = weights["kv_up"]
        up = self._kv_up.view(self._heads, -1, latent.kv_lora_rank)
        # (heads, nope or v, latent)
        self._key_up, self._value_up = up.split_with_sizes([latent.qk_nope_head_dim, latent.v_head_dim], 1)

    def mix(self, hidden: Tensor, rotation: Tensor, batch: AnyBatch) -> Tensor:
        """hidden: (tokens, hidden); rotation: (tokens, 1, rope / 2) complex. Returns (tokens, heads * v_head_dim)."""
        query, entries = self._project(hidden)
        query, entries = self._store(query, entries, rotation, batch)
        singles, parts = batch.num_singles, []
        if singles:
            parts.append(self._values(self._decode(self._absorb(query[:singles]), batch)))
        if singles < len(query):
            parts.append(self._prefill(query[singles:], entries[singles:], batch))
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).flatten(1)

    def _project(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (tokens, heads, nope + rope) and entries (tokens, latent + rope), neither normed nor rotated."""
        entry_dim = self._latent.entry_dim
        joined = self._q_kv.apply(hidden)
        query, entries = joined.split_with_sizes([joined.shape[1] - entry_dim, entry_dim], 1)
        if self._query_norm_up is not None:
            norm, up = self._query_norm_up
            query = up.apply(F.rms_norm(query, norm.shape, norm, NORM_EPS))
        return query.view(len(hidden), self._heads, -1), entries

    def _absorb(self, query: Tensor) -> Tensor:
        """(tokens, heads, nope + rope) to (tokens, heads, latent + rope)."""
        nope, rope = query.split_with_sizes([self._latent.qk_nope_head_dim, self._latent.qk_rope_head_dim], 2)
        return torch.cat([torch.bmm(nope.transpose(0, 1), self._key_up).transpose(0, 1), rope], 2)

    def _values(self, mixed: Tensor) -> Tensor:
        """Mixed latents (tokens, heads, latent) to (tokens, heads, v_head_dim)."""
        return torch.bmm(mixed.transpose(0, 1), self._value_up.transpose(1, 2)).transpose(0, 1)

    def _build_projection(self, weights: Mapping[str, Tensor], name: str) -> Projection:
        return build_projection(weights, name)

    @abstractmethod
    def _decode(self, asked: Tensor, batch: AnyBatch) -> Tensor:
        """asked: (rows, heads, latent + rope), of the rows of one token. Returns (rows, heads, latent)."""

    @abstractmethod
    def _store(
        self, query: Tensor, entries: Tensor, rotation: Tensor, batch: AnyBatch
    ) -> tuple[Tensor, Tensor]:
        """Writes entries to their pages, normed and rotated. Returns queries rotated, and entries of the shape given."""

    @abstractmethod
    def _prefill(self, query: Tensor, entries: Tensor, batch: AnyBatch) -> Tensor:
        """Of the prompt chunks, all together, as `_store` has returned them. Returns (tokens, heads, v_head_dim)."""


class LatentAttention(LatentLayer[Batch]):
    def _store(self, query: Tensor, entries: Tensor, rotation: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        latent = self._latent
        nope, rope = query.split_with_sizes([latent.qk_nope_head_dim, latent.qk_rope_head_dim], 2)
        compressed, key = entries.split_with_sizes([latent.kv_lora_rank, latent.qk_rope_head_dim], 1)
        compressed = F.rms_norm(compressed, self._kv_norm.shape, self._kv_norm, NORM_EPS)
        entries = torch.cat([compressed, rotated(key[:, None], rotation)[:, 0]], 1)
        self._kv.view(-1, entries.shape[1]).index_copy_(0, batch.kv_slots, entries)
        return torch.cat([nope, rotated(rope, rotation)], 2), entries

    def _decode(self, asked: Tensor, batch: Batch) -> Tensor:
        """The heads of a row stand where a prompt's tokens would: they all read the same entries."""
        mixed = torch.empty_like(asked)
        for group in batch.groups:
            part = slice(group.first, group.last)
            context = self._gather(group.blocks).view(group.last - group.first, 1, -1, asked.shape[2])
            mixed[part] = self._attend(asked[part].unsqueeze(1), context, context, group.mask).squeeze(1)
        return mixed[..., : self._latent.kv_lora_rank]

    def _prefill(self, query: Tensor, entries: Tensor, batch: Batch) -> Tensor:
        answers = []
        for chunk in batch.chunks:
            part = slice(chunk.first - batch.num_singles, chunk.last - batch.num_singles)
            context = entries[part] if chunk.blocks is None else self._gather(chunk.blocks)
            answers.append(self._attend_chunk(query[part], context[: chunk.context_tokens], chunk))
        return torch.cat(answers)

    def _attend_chunk(self, query: Tensor, context: Tensor, chunk: PromptChunk) -> Tensor:
        """query: (tokens, heads, nope + rope); context: (context tokens, latent + rope). Returns (tokens, heads, v_head_dim)."""
        if is_expanded(len(query), len(context), self._heads, self._latent):
            keys, values = self._expand(context)
            mixed = self._attend(query.transpose(0, 1)[None], keys, values, chunk.mask)
            return mixed[0].transpose(0, 1)
        asked = self._absorb(query).transpose(0, 1)[None]
        shared = context.expand(1, self._heads, -1, -1)
        mixed = self._attend(asked, shared, shared, chunk.mask)[0].transpose(0, 1)
        return self._values(mixed[..., : self._latent.kv_lora_rank])

    def _expand(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (1, heads, context tokens, nope + rope) and values (1, heads, context tokens, v_head_dim)."""
        latent = self._latent
        compressed, rope = context.split_with_sizes([latent.kv_lora_rank, latent.qk_rope_head_dim], 1)
        up = F.linear(compressed, self._kv_up).view(1, len(context), self._heads, -1).transpose(1, 2)
        nope, values = up.split_with_sizes([latent.qk_nope_head_dim, latent.v_head_dim], 3)
        return torch.cat([nope, rope.expand(*nope.shape[:3], -1)], 3), values

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=mask is None, scale=self._latent.softmax_scale
        )

    def _gather(self, blocks: Tensor) -> Tensor:
        """Entries of these blocks, one after the other, (tokens, latent + rope)."""
        return self._kv.flatten(1).index_select(0, blocks).view(-1, self._kv.shape[2])


def is_expanded(chunk_tokens: int, context_tokens: int, heads: int, latent: LatentConfig) -> bool:
    """Whether keys and values cost fewer products expanded, and not more memory than EXPANDED_VALUES_MAX.

    A prompt from its start always does: per pair of tokens a head multiplies nope + rope + v_head_dim numbers instead of
    2 * latent + rope (320 and 1088 in DeepSeek-V2). A short chunk after a long context does not.
    """
    per_token = latent.kv_lora_rank * (latent.qk_nope_head_dim + latent.v_head_dim)
    pair_expanded = latent.qk_nope_head_dim + latent.qk_rope_head_dim + latent.v_head_dim
    pair_absorbed = latent.entry_dim + latent.kv_lora_rank
    pairs = chunk_tokens * context_tokens
    is_cheaper = (
        context_tokens * per_token + pairs * pair_expanded <= chunk_tokens * per_token + pairs * pair_absorbed
    )
    return is_cheaper and context_tokens * heads * pair_expanded <= EXPANDED_VALUES_MAX
