"""Where models come from, and what a user is told about files that cannot be served."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy
from tiny_llama import build_config, build_weights, write_tiny_llama

from semipd_core.errors import InvalidSpec
from semipd_engine.model import layout, sources, weights
from semipd_engine.model.gguf_file import _LAYER_TENSORS, _TENSORS
from semipd_engine.model.weights import interleave_halves


def resolve(uri: str):
    """As far as the memory server gets before it reads weights."""
    source = sources.open_source(uri)
    config = source.read_config("FP32", None)
    weights.check(layout.fused_tensors(config), source)
    return source, config


def fill(source, config) -> bytearray:
    tensors = list(layout.fused_tensors(config))
    entries, num_bytes = layout.place(iter(tensors), config.dtype)
    arena = bytearray(num_bytes)
    with memoryview(arena) as view:
        weights.load(tensors, entries, source, view, lambda _: None)
    return arena


def write_tiny_gguf(path: Path, **overrides) -> Path:
    """The tiny Llama as llama.cpp's converter writes it: Q and K permuted, tensors renamed."""
    config = build_config()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_bos_token_id(config["bos_token_id"])
    for key, value in overrides.items():
        writer.add_uint32(f"llama.{key}", value)
    ours = {theirs: name for name, theirs in _TENSORS.items()}
    ours |= {theirs: name for name, theirs in _LAYER_TENSORS.items()}
    for name, weight in build_weights(config, seed=0).items():
        values = weight
        base = name.removesuffix(".weight")
        if base in ours:
            gguf_name = ours[base]
        else:
            layer, _, part = base.removeprefix("model.layers.").partition(".")
            gguf_name = f"blk.{layer}.{ours[part]}"
        if base.endswith("q_proj"):
            values = interleave_halves(values, config["num_attention_heads"])
        if base.endswith("k_proj"):
            values = interleave_halves(values, config["num_key_value_heads"])
        writer.add_tensor(f"{gguf_name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_and_safetensors_of_one_model_fill_the_same_arena(tmp_path: Path, tiny_llama_dir: Path) -> None:
    ours, our_config = resolve(f"file://{tiny_llama_dir}")
    theirs, their_config = resolve(f"file://{write_tiny_gguf(tmp_path / 'tiny.gguf')}")
    assert their_config.rms_norm_eps == pytest.approx(our_config.rms_norm_eps)
    assert fill(ours, our_config) == fill(theirs, their_config)


def test_shards_of_any_type_fill_the_same_arena_as_one_file(tmp_path: Path, tiny_llama_dir: Path) -> None:
    whole, config = resolve(f"file://{tiny_llama_dir}")
    directory = write_tiny_llama(tmp_path / "sharded")
    tensors = safetensors.numpy.load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for shard, part in (("a.safetensors", names[:9]), ("b.safetensors", names[9:])):
        safetensors.numpy.save_file({name: tensors[name] for name in part}, directory / shard)
        weight_map |= dict.fromkeys(part, shard)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    sharded, _ = resolve(f"file://{directory}")
    assert fill(sharded, config) == fill(whole, config)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoints_are_widened(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    import safetensors.torch

    directory = write_tiny_llama(tmp_path / "half")
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    halves = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    safetensors.torch.save_file(halves, directory / "model.safetensors")
    source, _ = resolve(f"file://{directory}")
    for name, half in halves.items():
        assert np.array_equal(source.read(name), half.float().numpy())


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)


def edit_config(directory: Path, **changes) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop_tensor(directory: Path, name: str) -> None:
    tensors = safetensors.numpy.load_file(directory / "model.safetensors")
    del tensors[name]
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(
            lambda d: truncate(d / "model.safetensors"),
            ["model.safetensors", "bytes"],
            id="truncated weights",
        ),
        pytest.param(
            lambda d: (d / "model.safetensors").write_bytes(b"\xff" * 64), ["model.safetensors"], id="garbage"
        ),
        pytest.param(lambda d: (d / "model.safetensors").write_bytes(b""), ["model.safetensors"], id="empty"),
        pytest.param(lambda d: (d / "model.safetensors").unlink(), ["without weights"], id="no weights"),
        pytest.param(
            lambda d: edit_config(d, architectures=["GPT2LMHeadModel"]),
            ["GPT2LMHeadModel", "LlamaForCausalLM"],
            id="unsupported architecture",
        ),
        pytest.param(
            lambda d: edit_config(d, hidden_act="gelu"), ["hidden_act", "silu"], id="another activation"
        ),
        pytest.param(
            lambda d: edit_config(d, rope_scaling={"rope_type": "longrope", "factor": 4.0}),
            ["longrope", "llama3"],
            id="unsupported rope scaling",
        ),
        pytest.param(
            lambda d: edit_config(d, rope_scaling={"rope_type": "yarn", "factor": 4.0}),
            ["yarn", "numbers"],
            id="a yarn that does not say from where it stretches",
        ),
        pytest.param(
            lambda d: edit_config(d, rope_scaling={"rope_type": "llama3"}),
            ["llama3"],
            id="scaling without numbers",
        ),
        pytest.param(
            lambda d: edit_config(d, num_hidden_layers="2"), ["num_hidden_layers"], id="a number as text"
        ),
        pytest.param(
            lambda d: edit_config(d, intermediate_size=256), ["[128, 64]", "[256, 64]"], id="another shape"
        ),
        pytest.param(
            lambda d: drop_tensor(d, "model.norm.weight"),
            ["without tensor model.norm.weight"],
            id="missing tensor",
        ),
        pytest.param(lambda d: (d / "config.json").write_text("{"), ["config.json"], id="broken config"),
        pytest.param(
            lambda d: (d / "config.json").write_text("[]"), ["a JSON object"], id="config is a list"
        ),
    ],
)
def test_a_damaged_directory_says_what_is_wrong(tmp_path: Path, damage, said: list[str]) -> None:
    directory = write_tiny_llama(tmp_path / "model")
    damage(directory)
    with pytest.raises(InvalidSpec) as caught:
        resolve(f"file://{directory}")
    assert caught.value.path == "spec.model.uri"
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize("lost_bytes", [1, 5000, 200_000])
def test_a_truncated_gguf_says_both_sizes(tmp_path: Path, lost_bytes: int) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - lost_bytes)
    with pytest.raises(InvalidSpec) as caught:
        resolve(f"file://{path}")
    assert f"{size - lost_bytes} bytes" in str(caught.value)
    assert f"{size} bytes" in str(caught.value)


@pytest.mark.parametrize("kept_bytes", [0, 3, 20, 300])
def test_a_gguf_cut_in_its_header_is_unreadable(tmp_path: Path, kept_bytes: int) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    with path.open("r+b") as file:
        file.truncate(kept_bytes)
    with pytest.raises(InvalidSpec, match=r"tiny\.gguf"):
        resolve(f"file://{path}")


def test_a_mixture_of_experts_in_gguf_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="expert_count"):
        resolve(f"file://{write_tiny_gguf(tmp_path / 'tiny.gguf', expert_count=8)}")


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("", id="empty"),
        pytest.param("smollm2", id="no scheme"),
        pytest.param("ftp://host/model", id="unknown scheme"),
        pytest.param("file://", id="no path"),
        pytest.param("file:///no/such/place", id="missing path"),
        pytest.param("file:///etc/hostname", id="neither directory nor GGUF"),
        pytest.param("builtin://gpt5", id="unknown built-in model"),
        pytest.param("hf://no/such/depth/of/path", id="no repository name"),
    ],
)
def test_a_bad_uri_is_refused_with_what_is_allowed(uri: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        sources.open_source(uri)
    assert caught.value.path == "spec.model.uri"
    assert "://" in caught.value.allowed


def test_a_hub_model_offline_says_what_to_do(monkeypatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InvalidSpec, match="file://PATH"):
        sources.open_source("hf://nobody/nothing@main")
