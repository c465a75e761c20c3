"""A model in a Hugging Face directory: config.json, safetensors, tokenizer.json and a chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semipd_core.errors import InvalidSpec
from semipd_engine.model import rope
from semipd_engine.model.config import ModelConfig, limit_context, require_architecture, unsupported
from semipd_engine.model.safetensors_files import SafetensorsCheckpoint, find_files
from semipd_engine.model.tokenizer import write_tokenizer
from semipd_engine.model.weights import Array

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
        architectures = self._config.get("architectures") or [None]
        self._architecture = require_architecture(architectures[0])
        self._checkpoint = SafetensorsCheckpoint(find_files(directory), self.location)

    def read_config(self, dtype: str, max_context_tokens: int | None) -> ModelConfig:
        """Raises: InvalidSpec if a key is missing or asks for what the decoder does not compute."""
        for key, value in _REQUIRED.items():
            if self._config.get(key, value) != value:
                raise unsupported(key, self._config[key], str(value))
        heads, hidden = self._number("num_attention_heads"), self._number("hidden_size")
        head_dim = self._number("head_dim", hidden // heads)
        scaling = self._config.get("rope_parameters") or self._config.get("rope_scaling")
        theta = float((scaling or {}).get("rope_theta", self._config.get("rope_theta", 10000.0)))
        tied = bool(self._config.get("tie_word_embeddings", False))
        return ModelConfig(
            architecture=self._architecture,
            num_layers=self._number("num_hidden_layers"),
            hidden_size=hidden,
            num_heads=heads,
            num_kv_heads=self._number("num_key_value_heads", heads),
            head_dim=head_dim,
            intermediate_size=self._number("intermediate_size"),
            vocab_size=self._number("vocab_size"),
            rms_norm_eps=float(self._config.get("rms_norm_eps", 1e-6)),
            rope_theta=theta,
            rope_divisors=rope.divisors(scaling, theta, head_dim),
            tied_embeddings=tied,
            max_context_tokens=limit_context(self._number("max_position_embeddings"), max_context_tokens),
            eos_token_ids=self._eos_token_ids(),
            bos_token_id=self._config.get("bos_token_id"),
            dtype=dtype,
        )

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

    def _eos_token_ids(self) -> list[int]:
        """Those of generation_config.json, which instruction-tuned models extend, else those of config.json."""
        path = self._directory / "generation_config.json"
        generation = _read_json(path) if path.exists() else {}
        found = generation.get("eos_token_id", self._config.get("eos_token_id"))
        if found is None:
            return []
        return sorted({int(token) for token in (found if isinstance(found, list) else [found])})

    def _number(self, key: str, default: int | None = None) -> int:
        value = self._config.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or value < 1:
            raise InvalidSpec(
                "spec.model.uri", f"{self.location}/config.json with {key} {value!r}", "a whole number from 1"
            )
        return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidSpec("spec.model.uri", f"{path} ({error})", "a readable JSON file") from error
    if not isinstance(content, dict):
        raise InvalidSpec("spec.model.uri", f"{path} holding a {type(content).__name__}", "a JSON object")
    return content
