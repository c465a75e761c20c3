"""A model in a Hugging Face directory: config.json, safetensors, tokenizer.json and a chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semipd_core.errors import InvalidSpec
from semipd_engine.model import deepseek, fp8, rope
from semipd_engine.model.config import (
    ARCHITECTURES,
    ModelConfig,
    limit_context,
    require_architecture,
    unsupported,
)
from semipd_engine.model.config_values import ConfigValues
from semipd_engine.model.safetensors_files import SafetensorsCheckpoint, find_files
from semipd_engine.model.tokenizer import write_tokenizer
from semipd_engine.model.weights import Array, Checkpoint

# Properties that the decoder does not have, and the value that means their absence.
_REQUIRED: Mapping[str, object] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
}


class HuggingFaceModel:
    """Source of a model (`semipd_engine.model.sources.ModelSource`)."""

    def __init__(self, directory: Path) -> None:
        """Raises: InvalidSpec if config or weights are missing or unreadable, or the architecture unsupported."""
        self.location = str(directory)
        self._directory = directory
        self._config = _read_json(directory / "config.json")
        values = ConfigValues(self._config, self.location)
        architectures = self._config.get("architectures") or [None]
        named = architectures[0] if isinstance(architectures, list) else architectures
        self._architecture = require_architecture(named)
        self._scheme = fp8.read_scheme(values.section("quantization_config"))
        self._checkpoint = _open_checkpoint(directory, self._scheme)

    @property
    def quantization(self) -> fp8.Scheme | None:
        return self._scheme

    @property
    def row_scales(self) -> Mapping[str, tuple[int, int]]:
        return self._checkpoint.row_scales if isinstance(self._checkpoint, fp8.Fp8Checkpoint) else {}

    def read_config(self, dtype: str, max_context_tokens: int | None) -> ModelConfig:
        """Raises: InvalidSpec if a key is missing or asks for what the decoder does not compute."""
        values = ConfigValues(self._config, self.location)
        values.require(_REQUIRED)
        family = ARCHITECTURES[self._architecture]
        heads, hidden = values.whole("num_attention_heads"), values.whole("hidden_size")
        if family.is_latent:
            head_dim, rope_dim = deepseek.read_query_head_dim(values), deepseek.read_rope_dim(values)
        else:
            head_dim = rope_dim = values.whole("head_dim", hidden // heads)
        given = values.section("rope_parameters") or values.section("rope_scaling") or {}
        theta = ConfigValues(given, self.location).positive(
            "rope_theta", values.positive("rope_theta", 10000.0)
        )
        scaling = rope.read_scaling(given, theta, rope_dim)
        context_tokens = limit_context(values.whole("max_position_embeddings"), max_context_tokens)
        self._refuse_windows(values, context_tokens)
        return ModelConfig(
            architecture=self._architecture,
            num_layers=values.whole("num_hidden_layers"),
            hidden_size=hidden,
            num_heads=heads,
            num_kv_heads=values.whole("num_key_value_heads", heads),
            head_dim=head_dim,
            intermediate_size=values.whole("intermediate_size"),
            vocab_size=values.whole("vocab_size"),
            rms_norm_eps=values.positive("rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope_divisors=scaling.divisors,
            tied_embeddings=bool(self._config.get("tie_word_embeddings", False)),
            max_context_tokens=context_tokens,
            eos_token_ids=self._eos_token_ids(values),
            bos_token_id=None
            if values.get("bos_token_id") is None
            else values.whole("bos_token_id", minimum=0),
            dtype=dtype,
            rope_magnitude=scaling.magnitude,
            qkv_bias=family.qkv_bias,
            qk_norm=family.qk_norm,
            latent=deepseek.read_latent(values, scaling) if family.is_latent else None,
            experts=deepseek.read_experts(values) if family.is_latent else None,
        )

    def _refuse_windows(self, values: ConfigValues, context_tokens: int) -> None:
        """A window as wide as the context hides nothing.

        Raises: InvalidSpec for a narrower one.
        """
        if not values.get("use_sliding_window", ARCHITECTURES[self._architecture].is_windowed):
            return
        window_tokens = values.whole("sliding_window", context_tokens)
        if window_tokens < context_tokens:
            allowed = f"none, or spec.model.maxContextTokens of at most {window_tokens}"
            raise unsupported("sliding_window", window_tokens, allowed)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._checkpoint.shapes

    def read(self, name: str) -> Array:
        return self._checkpoint.read(name)

    def write_tokenizer(self, directory: Path) -> None:
        """Raises: InvalidSpec without tokenizer.json."""
        path = self._directory / "tokenizer.json"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSpec("spec.model.uri", f"{path} ({error})", "a readable tokenizer.json") from error
        write_tokenizer(directory, text, self._chat_template())

    def _chat_template(self) -> str | None:
        path = self._directory / "chat_template.jinja"
        if path.exists():
            return path.read_text(encoding="utf-8")
        settings = self._directory / "tokenizer_config.json"
        template = _read_json(settings).get("chat_template") if settings.exists() else None
        if isinstance(template, list):  # several, by name
            template = next((one["template"] for one in template if one["name"] == "default"), None)
        return template

    def _eos_token_ids(self, values: ConfigValues) -> list[int]:
        """Those of generation_config.json, which instruction-tuned models extend, else those of config.json."""
        path = self._directory / "generation_config.json"
        generation = _read_json(path) if path.exists() else {}
        if "eos_token_id" in generation:
            values = ConfigValues(generation, self.location, path.name)
        return values.token_ids("eos_token_id")


def _open_checkpoint(directory: Path, scheme: fp8.Scheme | None) -> Checkpoint:
    stored = SafetensorsCheckpoint(find_files(directory), str(directory))
    if scheme is not None:
        return fp8.Fp8Checkpoint(stored, scheme)
    fp8.require_no_fp8(stored)
    return stored


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidSpec("spec.model.uri", f"{path} ({error})", "a readable JSON file") from error
    if not isinstance(content, dict):
        raise InvalidSpec("spec.model.uri", f"{path} holding a {type(content).__name__}", "a JSON object")
    return content
