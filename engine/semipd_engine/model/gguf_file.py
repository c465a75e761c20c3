"""A model in one GGUF file: config, weights and tokenizer. Source: the `gguf` package, and the GGUF specification."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import dequantize

from semipd_core.errors import InvalidSpec
from semipd_engine.model.config import (
    ARCHITECTURES,
    ModelConfig,
    limit_context,
    require_architecture,
    unsupported,
)
from semipd_engine.model.tokenizer import GgufVocabulary, build_tokenizer, write_tokenizer
from semipd_engine.model.weights import Array, separate_halves

_LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ROPE_DIVISORS = "rope_freqs.weight"


class GgufModel:
    """Source of a model (`semipd_engine.model.sources.ModelSource`)."""

    def __init__(self, path: Path) -> None:
        """Raises: InvalidSpec if the file is missing, truncated, not GGUF, or of an unsupported architecture."""
        self.location = str(path)
        self._reader = _open(path)
        known = {name: one for name, one in ARCHITECTURES.items() if one.gguf_name is not None}
        names = {architecture.gguf_name: name for name, architecture in known.items()}
        found = self._optional("general.architecture", None)
        self._architecture = require_architecture(names.get(found, found), known)
        self._tensors = {_checkpoint_name(tensor.name): tensor for tensor in self._reader.tensors}
        self._query_heads = self._number("attention.head_count")
        self._key_heads = self._number("attention.head_count_kv", self._query_heads)

    def read_config(self, dtype: str, max_context_tokens: int | None) -> ModelConfig:
        """Raises: InvalidSpec if a key is missing or asks for what the decoder does not compute."""
        hidden = self._number("embedding_length")
        head_dim = self._number("attention.key_length", hidden // self._query_heads)
        self._require("attention.value_length", head_dim)
        self._require("rope.dimension_count", head_dim)
        self._require("expert_count", 0)
        embedding = self.shapes.get("model.embed_tokens.weight", (0,))
        return ModelConfig(
            architecture=self._architecture,
            num_layers=self._number("block_count"),
            hidden_size=hidden,
            num_heads=self._query_heads,
            num_kv_heads=self._key_heads,
            head_dim=head_dim,
            intermediate_size=self._number("feed_forward_length"),
            vocab_size=embedding[0],
            rms_norm_eps=float(self._key("attention.layer_norm_rms_epsilon")),
            rope_theta=float(self._key("rope.freq_base", 10000.0)),
            rope_divisors=self._rope_divisors(head_dim),
            tied_embeddings="lm_head.weight" not in self._tensors,
            max_context_tokens=limit_context(self._number("context_length"), max_context_tokens),
            eos_token_ids=self._eos_token_ids(),
            bos_token_id=self._optional("tokenizer.ggml.bos_token_id", None),
            dtype=dtype,
        )

    @property
    def quantization(self) -> None:
        """GGUF has no FP8."""

    @property
    def row_scales(self) -> Mapping[str, tuple[int, int]]:
        return {}

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(int(n) for n in reversed(tensor.shape)) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Array:
        tensor = self._tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        except NotImplementedError as error:
            raise InvalidSpec(
                "spec.model.uri",
                f"{self.location} with {name} of type {tensor.tensor_type.name}",
                "types that the gguf package can dequantize",
            ) from error
        values = values.reshape(self.shapes[name])
        if ARCHITECTURES[self._architecture].gguf_permutes_rope:
            if name.endswith("q_proj.weight"):
                return separate_halves(values, self._query_heads)
            if name.endswith("k_proj.weight"):
                return separate_halves(values, self._key_heads)
        return values

    def write_tokenizer(self, directory: Path) -> None:
        """Raises: InvalidSpec for a kind of tokenizer that is not rebuilt from GGUF."""
        vocabulary = GgufVocabulary(
            kind=self._optional("tokenizer.ggml.model", None),
            pre_tokenizer=self._optional("tokenizer.ggml.pre", "default"),
            tokens=self._list("tokenizer.ggml.tokens"),
            token_types=self._list("tokenizer.ggml.token_type"),
            merges=self._list("tokenizer.ggml.merges"),
            bos_token_id=self._optional("tokenizer.ggml.bos_token_id", None),
            adds_bos=bool(self._optional("tokenizer.ggml.add_bos_token", False)),
        )
        template = self._optional("tokenizer.chat_template", None)
        write_tokenizer(directory, build_tokenizer(vocabulary).to_str(), template)

    def _rope_divisors(self, head_dim: int) -> list[float] | None:
        kind = self._key("rope.scaling.type", "none")
        if _ROPE_DIVISORS in self._tensors:
            return [float(x) for x in self._tensors[_ROPE_DIVISORS].data]
        if kind == "linear":
            return [float(self._key("rope.scaling.factor"))] * (head_dim // 2)
        if kind != "none":
            raise unsupported("rope scaling", kind, "none, linear, or a rope_freqs tensor")
        return None

    def _eos_token_ids(self) -> list[int]:
        keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
        found = [self._optional(key, None) for key in keys]
        return sorted({int(token) for token in found if token is not None})

    def _require(self, key: str, value: int) -> None:
        given = self._key(key, value)
        if given != value:
            raise unsupported(key, given, str(value))

    def _number(self, key: str, default: int | None = None) -> int:
        value = self._key(key, default)
        if not isinstance(value, int):
            raise unsupported(key, value, "one number for all layers")
        return value

    def _key(self, key: str, default: Any = None) -> Any:
        """A key of the architecture's own. Raises: InvalidSpec if it is missing and has no default."""
        name = f"{ARCHITECTURES[self._architecture].gguf_name}.{key}"
        value = self._optional(name, default)
        if value is None:
            raise InvalidSpec("spec.model.uri", f"{self.location} without {name}", "a GGUF file that has it")
        return value

    def _optional(self, name: str, default: Any) -> Any:
        field = self._reader.get_field(name)
        return default if field is None else field.contents()

    def _list(self, name: str) -> Sequence[Any]:
        value: Sequence[Any] = self._optional(name, [])
        return value


class _Truncated(Exception):
    def __init__(self, expected_bytes: int) -> None:
        self.expected_bytes = expected_bytes
        super().__init__(expected_bytes)


class _Reader(gguf.GGUFReader):
    """Says how long the file should be before it maps tensors beyond its end."""

    def _build_tensors(self, start_offs: int, fields: list[gguf.ReaderField]) -> None:
        expected_bytes = max((start_offs + _end_of_tensor(field) for field in fields), default=0)
        if expected_bytes > len(self.data):
            raise _Truncated(expected_bytes)
        super()._build_tensors(start_offs, fields)


def _end_of_tensor(field: gguf.ReaderField) -> int:
    _length, _name, _rank, sizes, kind, offset = field.parts
    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(int(kind[0]))]
    return int(offset[0]) + math.prod(int(size) for size in sizes) // block * block_bytes


def _open(path: Path) -> _Reader:
    try:
        return _Reader(path)
    except _Truncated as error:
        raise InvalidSpec(
            "spec.model.uri",
            f"{path} of {path.stat().st_size} bytes",
            f"a whole GGUF file; its header speaks of {error.expected_bytes} bytes",
        ) from error
    except (OSError, ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        found = f"{path.stat().st_size} bytes" if path.exists() else "missing"
        raise InvalidSpec("spec.model.uri", f"{path} ({found}: {error})", "a readable GGUF file") from error


def _checkpoint_name(name: str) -> str:
    """The Hugging Face name of a GGUF tensor; unknown names stay as they are."""
    base, _, kind = name.rpartition(".")
    if base in _TENSORS:
        return f"{_TENSORS[base]}.{kind}"
    block, _, part = base.removeprefix("blk.").partition(".")
    if base.startswith("blk.") and part in _LAYER_TENSORS:
        return f"model.layers.{block}.{_LAYER_TENSORS[part]}.{kind}"
    return name
