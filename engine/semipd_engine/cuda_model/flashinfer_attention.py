"""Attention by FlashInfer, which the host plans step by step, from lengths and tables that it has of every plan.

Written by the documentation of 0.7; no GPU has run it. Source: https://docs.flashinfer.ai/api/prefill.html.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semipd_engine.cuda_model.attention_choice import AttentionShape
from semipd_engine.cuda_model.attention_kernels import HostRows
from semipd_engine.cuda_model.block_tables import BlockTables, Ints
from semipd_engine.cuda_model.device import StepDevice
from semipd_engine.cuda_model.device_batch import DeviceBatch
from semipd_engine.cuda_model.flashinfer_wrappers import (
    LAYOUT,
    DecodeWrapper,
    GraphBuffers,
    GroupedQueryDecode,
    LatentDecode,
    Library,
    PagedRows,
)
from semipd_engine.cuda_model.triton_attention import prefill_latents
from semipd_engine.model.arenas import TORCH_TYPES

WORKSPACE_BYTES = 128 << 20  # what the documentation recommends


class FlashInferAttention:
    """Wrappers and workspaces of one lane.

    A plan waits until what the plan before it copies has left the host: until the step before has begun. With two steps in flight
    the one before that has ended by then, so that is at once.
    """

    def __init__(
        self, library: Library, shape: AttentionShape, tables: BlockTables, device: StepDevice, max_rows: int
    ) -> None:
        """max_rows: the most of a step, and of a graph."""
        self._library = library
        self._shape = shape
        self._tables = tables
        self._device = device
        max_pages = max_rows * tables.width
        on = device.torch_device
        # Pages; contexts and last pages; starts of tokens and of pages, of single rows and of chunks.
        num_ints = max_pages + 2 * max_rows + 2 * (max_rows + 2)
        self._host = device.host_buffer(num_ints * torch.int32.itemsize).view(torch.int32)
        self._pages = torch.zeros(num_ints, dtype=torch.int32, device=on)  # where they are in `_host`
        self._graph_buffers = GraphBuffers.build(max_rows, max_pages, on)
        self._workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=on)
        self._decoders: dict[int | None, DecodeWrapper] = {}  # by the rows of their graph
        self._decode: DecodeWrapper | None = None  # the one that the last plan was for
        self._prefill = library.BatchPrefillWithPagedKVCacheWrapper(self._workspace, LAYOUT)
        self._plan_left: object | None = None

    def plan(self, rows: HostRows) -> None:
        if self._plan_left is not None:
            self._device.wait(self._plan_left)  # `_host`, and pinned memory of the wrappers, are written anew
        singles, chunks = slice(0, rows.num_singles), slice(rows.num_singles, None)
        padding = (rows.graph_rows or rows.num_singles) - rows.num_singles
        host = _HostWriter(self._host)
        if rows.num_singles + padding:
            # What pads a graph sees the first token of the null block: a row must see one.
            slots = np.concatenate([rows.slots[singles], np.full(padding, self._tables.padding_slot)])
            contexts = np.concatenate([rows.contexts[singles], np.ones(padding, np.int64)])
            paged = self._paged(host, slots, contexts, np.arange(len(slots) + 1))
            self._decode = self._decoder_of(rows.graph_rows)
            self._decode.plan(paged, self._tables.block_tokens)
        if len(rows.token_starts) > 1 and self._shape.latent is None:
            paged = self._paged(host, rows.slots[chunks], rows.contexts[chunks], rows.token_starts)
            self._plan_prefill(paged)
        self._plan_left = self._device.mark()

    def decode(self, query: Tensor, kv: Tensor, batch: DeviceBatch) -> Tensor:  # noqa: ARG002  # the plan has its rows
        assert self._decode is not None
        return self._decode.run(query, kv)

    def decode_latents(self, query: Tensor, latents: Tensor, batch: DeviceBatch) -> Tensor:
        return self.decode(query, latents, batch)

    def prefill_latents(self, query: Tensor, latents: Tensor, kv_up: Tensor, batch: DeviceBatch) -> Tensor:
        """By our own kernel: it is planned by nobody."""
        assert self._shape.latent is not None
        return prefill_latents(query, latents, kv_up, batch, self._shape.latent)

    def prefill(self, query: Tensor, kv: Tensor, batch: DeviceBatch) -> Tensor:  # noqa: ARG002
        answer: Tensor = self._prefill.run(query, kv.unbind(0))
        return answer

    def _decoder_of(self, graph_rows: int | None) -> DecodeWrapper:
        """A graph has a wrapper of its own: the number of its rows is fixed, and so is where it finds them."""
        if graph_rows not in self._decoders:
            kind = GroupedQueryDecode if self._shape.latent is None else LatentDecode
            self._decoders[graph_rows] = kind(
                self._library, self._shape, self._workspace, graph_rows, self._graph_buffers
            )
        return self._decoders[graph_rows]

    def _plan_prefill(self, rows: PagedRows) -> None:
        dtype = TORCH_TYPES[self._shape.dtype]
        self._prefill.plan(
            qo_indptr=rows.token_starts,
            paged_kv_indptr=rows.page_starts,
            paged_kv_indices=rows.pages,
            paged_kv_last_page_len=rows.last_page_tokens,
            num_qo_heads=self._shape.num_heads,
            num_kv_heads=self._shape.num_kv_heads,
            head_dim_qk=self._shape.head_dim,
            page_size=self._tables.block_tokens,
            causal=True,
            q_data_type=dtype,
            kv_data_type=dtype,
        )

    def _paged(self, host: _HostWriter, slots: Ints, contexts: Ints, token_starts: Ints) -> PagedRows:
        page_tokens = self._tables.block_tokens
        counts = -(-contexts // page_tokens)
        first = host.end
        on_host = host.write(self._tables.blocks(slots, counts))
        pages = self._pages[first : host.end]
        pages.copy_(on_host, non_blocking=True)
        return PagedRows(
            token_starts=host.write(token_starts),
            page_starts=host.write(np.concatenate([[0], counts.cumsum()])),
            pages=pages,
            contexts=host.write(contexts),
            last_page_tokens=host.write(contexts - (counts - 1) * page_tokens),
        )


class _HostWriter:
    """Arrays one after the other in one pinned buffer of int32."""

    def __init__(self, buffer: Tensor) -> None:
        self._buffer = buffer
        self.end = 0

    def write(self, values: Ints) -> Tensor:
        written = self._buffer[self.end : self.end + len(values)]
        written.numpy()[:] = values
        self.end += len(values)
        return written
