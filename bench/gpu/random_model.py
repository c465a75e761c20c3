"""A model of random weights in arenas on a device, without a memory server: for scripts that need an executor, no text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor

from semipd_engine.memory.manifest import Manifest
from semipd_engine.model.arenas import TORCH_TYPES
from semipd_engine.model.config import ExpertsConfig, LatentConfig, ModelConfig
from semipd_engine.model.layout import fused_tensors, place

BLOCK_TOKENS = 16
DEEPSEEK_EXPERTS = ExpertsConfig(
    num_experts=64,
    num_shared_experts=2,
    experts_per_token=6,
    intermediate_size=1408,
    first_layer=1,
    layer_step=1,
    num_groups=1,
    groups_per_token=1,
    routed_scaling_factor=1.0,
)
DEEPSEEK_LATENT = LatentConfig(
    q_lora_rank=None,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    softmax_scale=192**-0.5,
)
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {
        "num_layers": 32,
        "hidden_size": 4096,
        "num_heads": 32,
        "num_kv_heads": 8,
        "head_dim": 128,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "max_context_tokens": 8192,
        "dtype": "BF16",
    },
    "deepseek-v2-lite": {
        "num_layers": 27,
        "hidden_size": 2048,
        "num_heads": 16,
        "num_kv_heads": 16,
        "head_dim": 192,
        "intermediate_size": 10944,
        "vocab_size": 102400,
        "max_context_tokens": 8192,
        "dtype": "BF16",
        "latent": DEEPSEEK_LATENT,
        "experts": DEEPSEEK_EXPERTS,
    },
    "small": {
        "num_layers": 4,
        "hidden_size": 512,
        "num_heads": 8,
        "num_kv_heads": 2,
        "head_dim": 64,
        "intermediate_size": 1024,
        "vocab_size": 4096,
        "max_context_tokens": 1024,
        "dtype": "FP32",
    },
    "small-qwen": {
        "num_layers": 4,
        "hidden_size": 512,
        "num_heads": 8,
        "num_kv_heads": 2,
        "head_dim": 64,
        "intermediate_size": 1024,
        "vocab_size": 4096,
        "max_context_tokens": 1024,
        "dtype": "FP32",
        "qkv_bias": True,
        "qk_norm": True,
        "rope_magnitude": 1.1,
    },
    "small-deepseek": {
        "num_layers": 3,
        "hidden_size": 512,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 192,
        "intermediate_size": 1024,
        "vocab_size": 4096,
        "max_context_tokens": 1024,
        "dtype": "FP32",
        "latent": msgspec.structs.replace(DEEPSEEK_LATENT, q_lora_rank=384),
        "experts": msgspec.structs.replace(
            DEEPSEEK_EXPERTS, num_experts=16, intermediate_size=128, num_groups=4, groups_per_token=2
        ),
    },
    "tiny": {
        "num_layers": 1,
        "hidden_size": 64,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "vocab_size": 128,
        "max_context_tokens": 64,
        "dtype": "FP32",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomArenas:
    """As `semipd_engine.cuda_model.arenas.DeviceArenas`. The cache is all zeros."""

    manifest: Manifest
    weights: Tensor
    kv: Tensor


def build_arenas(shape: str, num_blocks: int, device: torch.device, seed: int = 0) -> RandomArenas:
    """Weights of variance 1 / fan-in, norms of ones; num_blocks: the null block included."""
    config = ModelConfig(
        architecture="LlamaForCausalLM",
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_divisors=None,
        tied_embeddings=False,
        eos_token_ids=[0],
        bos_token_id=None,
        **SHAPES[shape],
    )
    entries, num_bytes = place(fused_tensors(config), config.dtype)
    manifest = Manifest(
        model=config,
        weights=entries,
        weights_bytes=num_bytes,
        num_blocks=num_blocks,
        block_tokens=BLOCK_TOKENS,
    )
    weights = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    random = torch.Generator(device).manual_seed(seed)
    for entry in entries:
        flat = weights[entry.offset : entry.offset + entry.num_bytes].view(TORCH_TYPES[entry.dtype])
        if len(entry.shape) == 1:
            flat.fill_(1.0)
        else:
            flat.normal_(0.0, entry.shape[1] ** -0.5, generator=random)
    kv = torch.zeros(manifest.kv_bytes, dtype=torch.uint8, device=device)
    return RandomArenas(manifest=manifest, weights=weights, kv=kv)
