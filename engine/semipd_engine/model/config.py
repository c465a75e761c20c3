"""What a decoder must know of a model, whatever file it came from. Written as `model.json`; holds no paths and no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from semipd_core.errors import InvalidSpec
from semipd_core.telemetry import Wire


class ModelConfig(Wire, frozen=True, kw_only=True):
    """A decoder-only transformer with grouped-query attention, RMSNorm, rotary positions and a gated SiLU MLP."""

    architecture: str  # a key of ARCHITECTURES
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    rope_divisors: list[float] | None  # head_dim / 2 divisors of the rotary frequencies; None: all 1
    tied_embeddings: bool
    max_context_tokens: int
    eos_token_ids: list[int]
    bos_token_id: int | None
    dtype: str  # of weights and KV: "BF16" or "FP32"

    def kv_bytes_per_token(self, item_bytes: int) -> int:
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * item_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How one family is called in each file format."""

    gguf_name: str  # `general.architecture`, and the prefix of the metadata keys
    gguf_permutes_rope: bool  # GGUF keeps Q and K with the two halves of each head interleaved


ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": Architecture(gguf_name="llama", gguf_permutes_rope=True),
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
