"""The shards of all ranks together are the model, each query head beside the KV head that it reads; other sizes are refused."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.errors import InvalidSpec
from semipd_engine.model import layout, sharding, weights
from semipd_engine.model.config import ModelConfig

RANKS = [1, 2, 4]


def model_config(**sizes: object) -> ModelConfig:
    config = {
        "architecture": "LlamaForCausalLM",
        "num_layers": 1,
        "hidden_size": 6,
        "num_heads": 8,
        "num_kv_heads": 4,
        "head_dim": 4,
        "intermediate_size": 8,
        "vocab_size": 11,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_divisors": None,
        "tied_embeddings": False,
        "max_context_tokens": 64,
        "eos_token_ids": [],
        "bos_token_id": None,
        "dtype": "FP32",
    }
    return ModelConfig(**(config | sizes))


@st.composite
def models_and_ranks(draw: st.DrawFn) -> tuple[ModelConfig, int]:
    num_ranks = draw(st.sampled_from(RANKS))
    num_kv_heads = draw(
        st.sampled_from([1, 2, 3, 4, 8]).filter(lambda n: n % num_ranks == 0 or num_ranks % n == 0)
    )
    queries_each = draw(st.integers(1, 3)) * max(1, num_ranks // num_kv_heads)
    config = model_config(
        num_heads=num_kv_heads * queries_each,
        num_kv_heads=num_kv_heads,
        head_dim=draw(st.sampled_from([2, 4])),
        intermediate_size=num_ranks * draw(st.integers(1, 3)),
        vocab_size=draw(st.integers(num_ranks, 13)),
        tied_embeddings=draw(st.booleans()),
        dtype=draw(st.sampled_from(["FP32", "BF16"])),
    )
    return config, num_ranks


@dataclass(frozen=True)
class RandomCheckpoint:
    """Reads of each tensor are counted."""

    tensors: dict[str, np.ndarray]
    reads: dict[str, int]
    location: str = "memory"

    @classmethod
    def of(cls, config: ModelConfig) -> RandomCheckpoint:
        rng = np.random.default_rng(0)
        parts = [part for tensor in layout.fused_tensors(config) for part in tensor.parts]
        return cls({part.source: rng.standard_normal(part.shape, np.float32) for part in parts}, {})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: values.shape for name, values in self.tensors.items()}

    def read(self, name: str) -> np.ndarray:
        self.reads[name] = self.reads.get(name, 0) + 1
        return self.tensors[name]


def load(config: ModelConfig, num_ranks: int, checkpoint: RandomCheckpoint) -> list[dict[str, np.ndarray]]:
    """Each rank's tensors by name, out of its own arena."""
    shards = sharding.shard(config, num_ranks)
    placed = [layout.place(shard.tensors, config.dtype) for shard in shards]
    arenas = [bytearray(num_bytes) for _, num_bytes in placed]
    written: list[int] = []
    weights.load_shards(
        [
            weights.Destination(tensors=shard.tensors, entries=entries, arena=memoryview(arena))
            for shard, (entries, _), arena in zip(shards, placed, arenas, strict=True)
        ],
        checkpoint,
        written.append,
    )
    assert written == sorted(written)
    assert written[-1] == sum(entry.num_bytes for entries, _ in placed for entry in entries)
    kind = np.float32 if config.dtype == "FP32" else np.uint16
    return [
        {
            entry.name: np.frombuffer(arena, kind, math.prod(entry.shape), entry.offset).reshape(entry.shape)
            for entry in entries
        }
        for (entries, _), arena in zip(placed, arenas, strict=True)
    ]


def attention_heads(config: ModelConfig, qkv: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(query, key, value) rows of each query head, as grouped-query attention pairs them."""
    heads = qkv.reshape(-1, config.head_dim, qkv.shape[1])
    query, key, value = np.split(heads, [config.num_heads, config.num_heads + config.num_kv_heads])
    group = config.num_heads // config.num_kv_heads
    return [(query[head], key[head // group], value[head // group]) for head in range(config.num_heads)]


@given(models_and_ranks())
def test_the_shards_together_are_the_model(case: tuple[ModelConfig, int]) -> None:
    config, num_ranks = case
    checkpoint = RandomCheckpoint.of(config)
    [whole] = load(config, 1, checkpoint)
    checkpoint.reads.clear()
    parts = load(config, num_ranks, checkpoint)
    assert set(checkpoint.reads.values()) == {1}, "each tensor is read once, for all ranks"
    own = sharding.shard(config, num_ranks)[0].model
    joined = [head for part in parts for head in attention_heads(own, part["layers.0.qkv"])]
    expected = attention_heads(config, whole["layers.0.qkv"])
    assert len(joined) == len(expected)
    assert all(np.array_equal(np.stack(a), np.stack(b)) for a, b in zip(joined, expected, strict=True))
    for name in ("o", "down"):
        columns = np.concatenate([part[f"layers.0.{name}"] for part in parts], 1)
        assert np.array_equal(columns, whole[f"layers.0.{name}"])
    gates, ups = zip(*(np.split(part["layers.0.gate_up"], 2) for part in parts), strict=True)
    assert np.array_equal(np.concatenate([*gates, *ups]), whole["layers.0.gate_up"])
    for name in ("embed", "norm", "layers.0.input_norm", "layers.0.post_norm"):
        assert all(np.array_equal(part[name], whole[name]) for part in parts)
    if not config.tied_embeddings:
        assert np.array_equal(np.concatenate([part["head"] for part in parts]), whole["head"])


@given(models_and_ranks())
def test_a_rank_has_its_part_of_the_kv_bytes(case: tuple[ModelConfig, int]) -> None:
    config, num_ranks = case
    own = sharding.shard(config, num_ranks)[0].model
    whole_bytes, own_bytes = config.kv_bytes_per_token(4), own.kv_bytes_per_token(4)
    replicas = max(1, num_ranks // config.num_kv_heads)
    assert own_bytes * num_ranks == whole_bytes * replicas


@given(vocab_size=st.integers(1, 1000), num_ranks=st.integers(1, 8))
def test_the_vocabulary_is_cut_without_gap_into_parts_of_one_width(vocab_size: int, num_ranks: int) -> None:
    spans = [sharding.vocabulary_span(vocab_size, rank, num_ranks) for rank in range(num_ranks)]
    assert [token for span in spans for token in range(*span)] == list(range(vocab_size))
    width = -(-vocab_size // num_ranks)
    assert all(first == min(rank * width, vocab_size) for rank, (first, _) in enumerate(spans))


@pytest.mark.parametrize(
    ("sizes", "num_ranks", "allowed"),
    [
        pytest.param({"num_heads": 6, "num_kv_heads": 2}, 4, "one of 1, 2,", id="heads that do not divide"),
        pytest.param({"num_heads": 12, "num_kv_heads": 3}, 2, "one of 1,", id="KV heads that do not divide"),
        pytest.param({"intermediate_size": 6}, 4, "one of 1, 2,", id="an MLP that does not divide"),
        pytest.param({}, 3, "one of 1, 2, 4, 8,", id="a number of ranks that divides nothing"),
    ],
)
def test_a_number_of_ranks_that_does_not_fit_is_refused(
    sizes: dict[str, int], num_ranks: int, allowed: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        sharding.shard(model_config(**sizes), num_ranks)
    assert (caught.value.path, caught.value.given) == ("spec.resources.gpusPerEngine", num_ranks)
    assert caught.value.allowed.startswith(allowed)


def test_a_model_with_tensors_that_have_no_rule_is_refused_but_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    latent = layout.FusedTensor(
        name="layers.0.kv_latent", parts=(layout.Part(source="latent", shape=(8, 8)),)
    )
    monkeypatch.setattr(sharding, "fused_tensors", lambda _model: iter([latent]))
    config = model_config(architecture="LatentForCausalLM")
    assert sharding.shard(config, 1)[0].tensors == [latent]
    with pytest.raises(InvalidSpec, match="1, for models of architecture LatentForCausalLM"):
        sharding.shard(config, 2)
