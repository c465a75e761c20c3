"""A model of Llama-3.1-8B's shape with random weights, as a Hugging Face directory: no network, and no weights of anybody's.

Written without torch and safetensors: a header in JSON, then the tensors. One block of random bf16 values is repeated, scaled by
the fan-in: values are as large as real ones, so that a GPU draws the power that it would, and 16 GB are written at disk speed.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LLAMA_8B: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "bfloat16",
}
# Odd, so that no two rows of a matrix are equal: equal rows of the head would tie, and the lowest ids win each time.
BLOCK_VALUES = (1 << 22) - 3
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    name: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        size = 2
        for length in self.shape:
            size *= length
        return size


def weights(config: Mapping[str, Any]) -> Iterator[Weight]:
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    yield Weight(name="model.embed_tokens.weight", shape=(vocab, hidden))
    for layer in range(config["num_hidden_layers"]):
        shapes = {
            "input_layernorm": (hidden,), "self_attn.q_proj": (query, hidden), "self_attn.k_proj": (key, hidden),
            "self_attn.v_proj": (key, hidden), "self_attn.o_proj": (hidden, query),
            "post_attention_layernorm": (hidden,), "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
        }  # fmt: skip
        for name, shape in shapes.items():
            yield Weight(name=f"model.layers.{layer}.{name}.weight", shape=shape)
    yield Weight(name="model.norm.weight", shape=(hidden,))
    if not config["tie_word_embeddings"]:
        yield Weight(name="lm_head.weight", shape=(vocab, hidden))


def write_model(directory: Path, config: Mapping[str, Any] = LLAMA_8B) -> Path:
    """Once: a directory that is whole is left as it is. Raises: OSError where it does not fit."""
    if (directory / "config.json").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    needed = sum(weight.num_bytes for weight in weights(config))
    free = shutil.disk_usage(directory).free
    if free < needed + (1 << 30):
        raise OSError(f"{directory}: {needed / 1e9:.0f} GB of weights, {free / 1e9:.0f} GB are free")
    _write_weights(directory / "model.safetensors", config)
    _write_tokenizer(directory, config["vocab_size"])
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (directory / "config.json").write_text(
        json.dumps(dict(config), indent=1)
    )  # last: it says that all is there
    return directory


def _write_weights(path: Path, config: Mapping[str, Any]) -> None:
    """Source: the safetensors format: u64 length of the header, the header in JSON, then the data."""
    header, begin = {}, 0
    for weight in weights(config):
        end = begin + weight.num_bytes
        header[weight.name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for weight in weights(config):
            _write_values(file, weight)


def _write_values(file: Any, weight: Weight) -> None:
    block = memoryview(_block(weight)).cast("B")
    left = weight.num_bytes
    while left:
        part = min(left, len(block))
        file.write(block[:part])
        left -= part


def _block(weight: Weight) -> bytes:
    """Random bf16 of variance 1 / fan-in; norms are ones."""
    import numpy as np  # noqa: PLC0415  (the pure parts of this module are tested without)

    if len(weight.shape) == 1:
        values = np.ones(weight.shape[0], np.float32)
    else:
        draw = np.random.default_rng(len(weight.name))
        values = draw.standard_normal(min(BLOCK_VALUES, weight.num_bytes // 2), dtype=np.float32)
        values /= np.sqrt(weight.shape[1], dtype=np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def _write_tokenizer(directory: Path, vocab_size: int) -> None:
    """A token for every id, each with text of its own: bytes beyond ASCII would wait for the rest of their character."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415

    alphabet = [*(chr(code) for code in range(33, 127)), "Ġ", "Ċ"]  # the last two: blank and line feed
    names = ["<|begin|>", "<|end|>", *(f"t{n}" for n in range(vocab_size - 2 - len(alphabet))), *alphabet]
    tokenizer = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<|begin|>", "eos_token": "<|end|>"})
    )
