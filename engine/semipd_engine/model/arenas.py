"""Tensors over mapped arenas: no copies, and no writes to what is mapped read-only."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from semipd_engine.memory.client import Attachment

TORCH_TYPES: Mapping[str, torch.dtype] = {
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP8": torch.float8_e4m3fn,
}


def weight_tensors(attachment: Attachment) -> dict[str, Tensor]:
    """Weights by the names of `semipd_engine.model.layout`."""
    with warnings.catch_warnings():
        # torch has no read-only tensors and says so; nothing below writes to weights, and the kernel would refuse.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        return {
            entry.name: torch.frombuffer(
                attachment.weights,
                dtype=TORCH_TYPES[entry.dtype],
                count=math.prod(entry.shape),
                offset=entry.offset,
            ).view(entry.shape)
            for entry in attachment.manifest.weights
        }


def kv_tensor(attachment: Attachment) -> Tensor:
    """The cache, of `Manifest.kv_shape`."""
    manifest = attachment.manifest
    dtype = TORCH_TYPES[manifest.model.dtype]
    count = math.prod(manifest.kv_shape)
    return torch.frombuffer(attachment.kv, dtype=dtype, count=count).view(manifest.kv_shape)
