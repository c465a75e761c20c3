"""FlashInfer's wrappers for decode, grouped-query and latent, behind one shape: planned on the host, run on the device.

Written by the documentation of 0.7; no GPU has run it. Source: https://docs.flashinfer.ai/api/decode.html and mla.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from semipd_engine.cuda_model.attention_choice import AttentionShape
from semipd_engine.model.arenas import TORCH_TYPES

LAYOUT = "NHD"  # of a page: (token, head, dim)
TENSOR_CORE_GROUP = 4  # query heads of one KV head from which on matrix instructions pay in decode


class Library(Protocol):
    """The module `flashinfer`, as far as it is used."""

    BatchDecodeWithPagedKVCacheWrapper: Any
    BatchPrefillWithPagedKVCacheWrapper: Any
    mla: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedRows:
    """Rows for a plan, all int32. What is on the host is read there, and copied to the device by FlashInfer."""

    token_starts: Tensor  # (rows + 1), on the host
    page_starts: Tensor  # (rows + 1), on the host
    pages: Tensor  # (pages), on the device: the rows' blocks one after the other
    contexts: Tensor  # (rows), on the host
    last_page_tokens: Tensor  # (rows), on the host


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphBuffers:
    """Where a graph finds its rows, int32 on the device. Graphs of fewer rows use the first part."""

    token_starts: Tensor
    page_starts: Tensor
    pages: Tensor
    lengths: Tensor

    @classmethod
    def build(cls, max_rows: int, max_pages: int, device: torch.device) -> GraphBuffers:
        starts, more_starts, pages, lengths = (
            torch.zeros(size, dtype=torch.int32, device=device)
            for size in (max_rows + 1, max_rows + 1, max_pages, max_rows)
        )
        return cls(token_starts=starts, page_starts=more_starts, pages=pages, lengths=lengths)


class DecodeWrapper(Protocol):
    def plan(self, rows: PagedRows, page_tokens: int) -> None: ...

    def run(self, query: Tensor, kv: Tensor) -> Tensor: ...


class GroupedQueryDecode:
    """graph_rows: of the one graph that it serves, whose rows are in `buffers`; None: of any step without one."""

    def __init__(
        self,
        library: Library,
        shape: AttentionShape,
        workspace: Tensor,
        graph_rows: int | None,
        buffers: GraphBuffers,
    ) -> None:
        fixed: dict[str, Any] = {}
        if graph_rows is not None:
            fixed = {
                "use_cuda_graph": True,
                "paged_kv_indptr_buffer": buffers.page_starts[: graph_rows + 1],
                "paged_kv_indices_buffer": buffers.pages,
                "paged_kv_last_page_len_buffer": buffers.lengths[:graph_rows],
            }
        self._shape = shape
        self._wrapper = library.BatchDecodeWithPagedKVCacheWrapper(
            workspace,
            LAYOUT,
            use_tensor_cores=shape.num_heads // shape.num_kv_heads >= TENSOR_CORE_GROUP,
            **fixed,
        )

    def plan(self, rows: PagedRows, page_tokens: int) -> None:
        dtype = TORCH_TYPES[self._shape.dtype]
        self._wrapper.plan(
            indptr=rows.page_starts,
            indices=rows.pages,
            last_page_len=rows.last_page_tokens,
            num_qo_heads=self._shape.num_heads,
            num_kv_heads=self._shape.num_kv_heads,
            head_dim=self._shape.head_dim,
            page_size=page_tokens,
            q_data_type=dtype,
            kv_data_type=dtype,
        )

    def run(self, query: Tensor, kv: Tensor) -> Tensor:
        answer: Tensor = self._wrapper.run(query, kv.unbind(0))
        return answer


class LatentDecode:
    """As `GroupedQueryDecode`, over latents. Every row is a query of one token, so nothing is masked."""

    def __init__(
        self,
        library: Library,
        shape: AttentionShape,
        workspace: Tensor,
        graph_rows: int | None,
        buffers: GraphBuffers,
    ) -> None:
        assert shape.latent is not None
        fixed: dict[str, Any] = {}
        if graph_rows is not None:
            fixed = {
                "use_cuda_graph": True,
                "qo_indptr": buffers.token_starts[: graph_rows + 1],
                "kv_indptr": buffers.page_starts[: graph_rows + 1],
                "kv_indices": buffers.pages,
                "kv_len_arr": buffers.lengths[:graph_rows],
            }
        self._shape = shape
        self._latent = shape.latent
        self._wrapper = library.mla.BatchMLAPagedAttentionWrapper(workspace, **fixed)

    def plan(self, rows: PagedRows, page_tokens: int) -> None:
        dtype = TORCH_TYPES[self._shape.dtype]
        self._wrapper.plan(
            qo_indptr=rows.token_starts,
            kv_indptr=rows.page_starts,
            kv_indices=rows.pages,
            kv_len_arr=rows.contexts,
            num_heads=self._shape.num_heads,
            head_dim_ckv=self._latent.kv_lora_rank,
            head_dim_kpe=self._latent.qk_rope_head_dim,
            page_size=page_tokens,
            causal=False,
            sm_scale=self._latent.softmax_scale,
            q_data_type=dtype,
            kv_data_type=dtype,
        )

    def run(self, query: Tensor, kv: Tensor) -> Tensor:
        """query: (rows, heads, latent + rope); kv: (blocks, block_tokens, latent + rope)."""
        dims = [self._latent.kv_lora_rank, self._latent.qk_rope_head_dim]
        answer: Tensor = self._wrapper.run(*query.split_with_sizes(dims, 2), *kv.split_with_sizes(dims, 2))
        return answer
