"""Latent attention of one layer on the kernels: decode absorbed, prompt chunks expanded."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from semipd_engine.cuda_model.attention_kernels import PagedAttention
from semipd_engine.cuda_model.device_batch import DeviceBatch
from semipd_engine.cuda_model.projection import build_projection
from semipd_engine.kernels.latent_store import norm_rotate_and_store
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.latent_attention import NORM_EPS, LatentLayer
from semipd_engine.model.projection import Projection


class LatentAttention(LatentLayer[DeviceBatch]):
    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Tensor], kv: Tensor, attention: PagedAttention
    ) -> None:
        super().__init__(config, weights, kv)
        self._attention = attention

    def _build_projection(self, weights: Mapping[str, Tensor], name: str) -> Projection:
        return build_projection(weights, name)

    def _store(
        self, query: Tensor, entries: Tensor, rotation: Tensor, batch: DeviceBatch
    ) -> tuple[Tensor, Tensor]:
        norm_rotate_and_store(
            query, entries, self._kv_norm, rotation, self._kv, batch.kv_slots, epsilon=NORM_EPS
        )
        return query, entries

    def _prefill(self, query: Tensor, entries: Tensor, batch: DeviceBatch) -> Tensor:  # noqa: ARG002  # pages have them
        return self._attention.prefill_latents(query, self._kv, self._kv_up, batch)

    def _decode(self, asked: Tensor, batch: DeviceBatch) -> Tensor:
        return self._attention.decode_latents(asked, self._kv, batch)
