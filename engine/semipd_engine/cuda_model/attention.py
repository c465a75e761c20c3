"""The attention kernels of a lane, as its engine's setting and what is here decide."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib import metadata

import torch

from semipd_core.engine_config import AttentionKernels, EngineConfig
from semipd_engine.cuda_model.attention_choice import AttentionShape, choose_attention
from semipd_engine.cuda_model.attention_kernels import PagedAttention
from semipd_engine.cuda_model.block_tables import BlockTables
from semipd_engine.cuda_model.device import StepDevice
from semipd_engine.cuda_model.flashinfer_attention import FlashInferAttention
from semipd_engine.cuda_model.triton_attention import TritonAttention
from semipd_engine.model.config import ModelConfig
from semipd_shell import log

PACKAGE, MODULE = "flashinfer-python", "flashinfer"

AttentionBuilder = Callable[[EngineConfig, ModelConfig, BlockTables, StepDevice], PagedAttention]


def build_attention(
    config: EngineConfig, model: ModelConfig, tables: BlockTables, device: StepDevice
) -> PagedAttention:
    """Says which in the log. Raises: InvalidSpec."""
    shape, version = AttentionShape.of(model), installed_version()
    choice = choose_attention(
        config.attention_kernels,
        version=version,
        capability=device_capability(device.torch_device),
        shape=shape,
    )
    log.logger(__name__).info(
        "attention kernels", kernels=choice.kernels, reason=choice.reason, flashinfer=version
    )
    if choice.kernels is AttentionKernels.TRITON:
        return TritonAttention(model.latent)
    library = importlib.import_module(MODULE)  # seconds: only where it serves
    return FlashInferAttention(library, shape, tables, device, config.num_slots)


def installed_version() -> str | None:
    """Of FlashInfer."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return None


def device_capability(device: torch.device) -> tuple[int, int] | None:
    """None: no GPU."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None
