"""What a decoder must know of a model, whatever file it came from. Written as `model.json`; holds no paths and no weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from semipd_core.errors import InvalidSpec
from semipd_core.telemetry import Wire


class LatentConfig(Wire, frozen=True, kw_only=True):
    """Multi-head latent attention: one latent per token in place of all heads' keys and values.

    Source: DeepSeek-V2, arXiv 2405.04434, section 2.1.
    """

    q_lora_rank: int | None  # None: queries are projected from the hidden state at once
    kv_lora_rank: int  # of the latent
    qk_nope_head_dim: int  # of a head's key that comes from the latent
    qk_rope_head_dim: int  # of the rotary key, which all heads share
    v_head_dim: int
    softmax_scale: float  # of the scores, what YaRN adds to it included

    @property
    def entry_dim(self) -> int:
        """Values that are cached per token and layer."""
        return self.kv_lora_rank + self.qk_rope_head_dim


class ExpertsConfig(Wire, frozen=True, kw_only=True):
    """A mixture of experts in place of the MLP of some layers. Source: DeepSeekMoE, arXiv 2401.06066."""

    num_experts: int  # routed
    num_shared_experts: int  # computed for every token
    experts_per_token: int
    intermediate_size: int  # of one expert
    first_layer: int  # layers before it have an MLP
    layer_step: int  # of those after it, every so many-th by its index has experts
    num_groups: int  # experts are in groups of one size, of which a token uses
    groups_per_token: int  # those with the best experts
    routed_scaling_factor: float

    def are_in(self, layer: int) -> bool:
        return layer >= self.first_layer and layer % self.layer_step == 0


class ModelConfig(Wire, frozen=True, kw_only=True):
    """A decoder-only transformer with RMSNorm, rotary positions and gated SiLU MLPs.

    Attention is grouped-query unless `latent` is there; every layer has an MLP unless `experts` is there.
    """

    architecture: str  # a key of ARCHITECTURES
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int  # of queries and keys, with latent attention both of their parts
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    rope_divisors: list[float] | None  # rope_dim / 2 divisors of the rotary frequencies; None: all 1
    tied_embeddings: bool
    max_context_tokens: int
    eos_token_ids: list[int]
    bos_token_id: int | None
    dtype: str  # of weights and KV: "BF16" or "FP32"
    rope_magnitude: float = 1.0  # factor of rotated queries and keys
    qkv_bias: bool = False
    qk_norm: bool = False  # RMSNorm of each head's query and key before they are rotated
    latent: LatentConfig | None = None
    experts: ExpertsConfig | None = None

    @property
    def rope_dim(self) -> int:
        """The dims of a head that are rotated."""
        return self.head_dim if self.latent is None else self.latent.qk_rope_head_dim

    def experts_of(self, layer: int) -> ExpertsConfig | None:
        """None: the layer has an MLP."""
        return self.experts if self.experts is not None and self.experts.are_in(layer) else None

    def kv_layer_shape(self, num_blocks: int, block_tokens: int) -> tuple[int, ...]:
        """The cache of one layer: (key or value, block, token in block, KV head, head_dim).

        With latent attention (block, token in block, entry_dim), as `semipd_engine.kernels.mla_attention` reads it.
        """
        if self.latent is not None:
            return (num_blocks, block_tokens, self.latent.entry_dim)
        return (2, num_blocks, block_tokens, self.num_kv_heads, self.head_dim)

    def kv_bytes_per_token(self, item_bytes: int) -> int:
        return self.num_layers * math.prod(self.kv_layer_shape(1, 1)) * item_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How one family is called in each file format, and what its decoder has that Llama's has not."""

    gguf_name: str | None = None  # `general.architecture`, and the prefix of the metadata keys; None: no GGUF
    gguf_permutes_rope: bool = False  # GGUF keeps Q and K with the two halves of each head interleaved
    qkv_bias: bool = False
    qk_norm: bool = False
    is_latent: bool = False  # latent attention and experts
    is_windowed: bool = False  # `sliding_window` counts without `use_sliding_window`


ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": Architecture(gguf_name="llama", gguf_permutes_rope=True),
    "MistralForCausalLM": Architecture(is_windowed=True),
    "Qwen2ForCausalLM": Architecture(qkv_bias=True),
    "Qwen3ForCausalLM": Architecture(qk_norm=True),
    "DeepseekV2ForCausalLM": Architecture(is_latent=True),
}


def unsupported(what: str, given: object, allowed: str) -> InvalidSpec:
    """The error for a model that the decoder cannot compute: `what` names the property of the model."""
    return InvalidSpec("spec.model.uri", f"a model whose {what} is {given}", allowed)


def require_architecture(name: object, known: Mapping[str, Architecture] = ARCHITECTURES) -> str:
    """Raises: InvalidSpec unless `name` is a supported architecture."""
    if not isinstance(name, str) or name not in known:
        raise unsupported("architecture", name, ", ".join(known))
    return name


def limit_context(config_tokens: int, wanted_tokens: int | None) -> int:
    """The context to serve: what is wanted, at most what the model was trained for.

    Raises: InvalidSpec if more is wanted.
    """
    if wanted_tokens is None:
        return config_tokens
    if not 1 <= wanted_tokens <= config_tokens:
        raise InvalidSpec(
            "spec.model.maxContextTokens", wanted_tokens, f"1 to {config_tokens}, the context of this model"
        )
    return wanted_tokens
