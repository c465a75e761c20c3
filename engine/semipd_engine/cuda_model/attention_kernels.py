"""What a layer asks of attention over paged KV, whoever's kernels compute it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from semipd_engine.cuda_model.block_tables import Ints
from semipd_engine.cuda_model.device_batch import DeviceBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRows:
    """What the host knows of a step's rows: those of one token first, then prompt chunks."""

    slots: Ints  # (rows)
    contexts: Ints  # (rows): KV entries that the row's last token sees, itself included
    token_starts: Ints  # (chunks + 1), from the first chunk's first token
    graph_rows: int | None  # of the graph that serves the step, the rest of it being padding; None: no graph

    @classmethod
    def padding(cls, graph_rows: int | None) -> HostRows:
        """Of a graph that is captured: no row is anybody's."""
        none = np.zeros(0, np.int64)
        return cls(slots=none, contexts=none, token_starts=np.zeros(1, np.int64), graph_rows=graph_rows)

    @property
    def num_singles(self) -> int:
        return len(self.slots) - (len(self.token_starts) - 1)


class PagedAttention(Protocol):
    """For all layers of one lane, whose steps run one after the other. Nothing but `plan` may wait; all else may be captured.

    query: (tokens, heads, dim); kv: of one layer, (2, blocks, block_tokens, kv_heads, dim).
    """

    def plan(self, rows: HostRows) -> None:
        """Before a step's first layer, or a graph's capture, on the step's stream; the block tables are those of the step."""

    def decode(self, query: Tensor, kv: Tensor, batch: DeviceBatch) -> Tensor:
        """Of the rows of one token. Returns the shape of `query`."""

    def prefill(self, query: Tensor, kv: Tensor, batch: DeviceBatch) -> Tensor:
        """Of the prompt chunks, causal, behind whatever of the prompt is cached. Returns the shape of `query`."""

    def decode_latents(self, query: Tensor, latents: Tensor, batch: DeviceBatch) -> Tensor:
        """Of the rows of one token, absorbed: (rows, heads, latent + rope) over (blocks, block_tokens, latent + rope).

        Returns (rows, heads, latent).
        """

    def prefill_latents(self, query: Tensor, latents: Tensor, kv_up: Tensor, batch: DeviceBatch) -> Tensor:
        """Of the prompt chunks, causal, behind whatever of the prompt is cached.

        query: (tokens, heads, nope + rope); kv_up: (heads * (nope + v), latent). Returns (tokens, heads, v).
        """
