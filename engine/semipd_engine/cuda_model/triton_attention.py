"""Our own kernels. They read lengths and tables on the device: nothing is planned."""

from __future__ import annotations

from torch import Tensor

from semipd_engine.cuda_model.attention_kernels import HostRows
from semipd_engine.cuda_model.device_batch import DeviceBatch
from semipd_engine.kernels.decode_attention import paged_decode
from semipd_engine.kernels.mla_attention import mla_decode
from semipd_engine.kernels.mla_prefill import mla_prefill
from semipd_engine.kernels.prefill_attention import paged_prefill
from semipd_engine.model.config import LatentConfig


class TritonAttention:
    """latent: of the model, None where attention is grouped-query."""

    def __init__(self, latent: LatentConfig | None) -> None:
        self._latent = latent

    def plan(self, rows: HostRows) -> None:
        pass

    def decode(self, query: Tensor, kv: Tensor, batch: DeviceBatch) -> Tensor:
        return paged_decode(query, kv, batch.tables, batch.contexts)

    def prefill(self, query: Tensor, kv: Tensor, batch: DeviceBatch) -> Tensor:
        return paged_prefill(
            query, kv, batch.chunk_tables, batch.chunk_contexts, batch.token_starts, batch.max_chunk_tokens
        )

    def decode_latents(self, query: Tensor, latents: Tensor, batch: DeviceBatch) -> Tensor:
        assert self._latent is not None
        return mla_decode(
            query,
            latents,
            batch.tables,
            batch.contexts,
            latent_dim=self._latent.kv_lora_rank,
            scale=self._latent.softmax_scale,
        )

    def prefill_latents(self, query: Tensor, latents: Tensor, kv_up: Tensor, batch: DeviceBatch) -> Tensor:
        assert self._latent is not None
        return prefill_latents(query, latents, kv_up, batch, self._latent)


def prefill_latents(
    query: Tensor, latents: Tensor, kv_up: Tensor, batch: DeviceBatch, latent: LatentConfig
) -> Tensor:
    """As `PagedAttention` has it. latent: of the model."""
    assert batch.latent_contexts is not None
    return mla_prefill(
        query,
        latents,
        kv_up,
        batch.latent_contexts.slots,
        batch.latent_contexts.starts,
        batch.token_starts,
        batch.max_chunk_tokens,
        scale=latent.softmax_scale,
    )
