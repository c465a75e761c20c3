"""Whose attention kernels a lane uses: ours, or those of FlashInfer where it is installed and has them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from semipd_core.engine_config import AttentionKernels
from semipd_core.errors import InvalidSpec
from semipd_engine.model.config import LatentConfig, ModelConfig

SETTING = "SEMIPD_ATTENTION_KERNELS"

# What FlashInfer has, by the documentation of 0.7 and by its own tests there. Pages may have any number of tokens.
LEAST_VERSION = (0, 7)
LEAST_CAPABILITY = (8, 0)
DTYPES = ("BF16",)
HEAD_DIMS = (64, 128, 256)
LATENT_DIMS = (512, 64)  # of the latent, and of the rotary key: those of DeepSeek


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """What of a model, or of a rank's part of it, attention kernels are made for."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: str  # of queries and cache, as in `ModelConfig`
    latent: LatentConfig | None  # None: grouped-query attention

    @classmethod
    def of(cls, model: ModelConfig) -> AttentionShape:
        return cls(
            num_heads=model.num_heads,
            num_kv_heads=model.num_kv_heads,
            head_dim=model.head_dim,
            dtype=model.dtype,
            latent=model.latent,
        )


class AttentionReason(StrEnum):
    ASKED = "Asked"
    UNMEASURED = "Unmeasured"  # no GPU has timed one against the other


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionChoice:
    kernels: AttentionKernels  # never AUTO
    reason: AttentionReason


def choose_attention(
    wanted: AttentionKernels,
    *,
    version: str | None,
    capability: tuple[int, int] | None,
    shape: AttentionShape,
) -> AttentionChoice:
    """version: of the FlashInfer that is installed, if any; capability: the GPU's, None on a CPU.

    Raises: InvalidSpec if FlashInfer is wanted and cannot serve, with what it lacks.
    """
    if wanted is AttentionKernels.AUTO:
        return AttentionChoice(kernels=AttentionKernels.TRITON, reason=AttentionReason.UNMEASURED)
    if wanted is AttentionKernels.FLASHINFER:
        lack = find_lack(version, capability, shape)
        if lack is not None:
            raise InvalidSpec(SETTING, wanted.value, f"Auto, Triton; {lack}")
    return AttentionChoice(kernels=wanted, reason=AttentionReason.ASKED)


def find_lack(version: str | None, capability: tuple[int, int] | None, shape: AttentionShape) -> str | None:
    """Why FlashInfer cannot serve here, as half a sentence; None: it can."""
    if version is None:
        return "FlashInfer is not installed (the package flashinfer-python)"
    if _first_numbers(version) < LEAST_VERSION:
        return f"FlashInfer {version} is older than {_dotted(LEAST_VERSION)}"
    if capability is None or capability < LEAST_CAPABILITY:
        here = "no GPU" if capability is None else f"compute capability {_dotted(capability)}"
        return (
            f"FlashInfer needs a compute capability of at least {_dotted(LEAST_CAPABILITY)}, here is {here}"
        )
    if shape.dtype not in DTYPES:
        return f"FlashInfer takes {', '.join(DTYPES)}, the model is {shape.dtype}"
    if shape.latent is None:
        allowed = ", ".join(map(str, HEAD_DIMS))
        return (
            None
            if shape.head_dim in HEAD_DIMS
            else f"FlashInfer has heads of {allowed}, not {shape.head_dim}"
        )
    dims = (shape.latent.kv_lora_rank, shape.latent.qk_rope_head_dim)
    return None if dims == LATENT_DIMS else f"FlashInfer has latents of {LATENT_DIMS}, not {dims}"


def _first_numbers(version: str) -> tuple[int, int]:
    """Of a release such as 0.7.2.post1; (0, 0) of what is none."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _dotted(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]}.{numbers[1]}"
