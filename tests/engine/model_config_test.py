"""What config.json says of each family, held against what was published of the models, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from semipd_core.errors import InvalidSpec
from semipd_engine.model import layout
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.huggingface import HuggingFaceModel

_DEEPSEEK: dict[str, Any] = {
    "architectures": ["DeepseekV2ForCausalLM"],
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "vocab_size": 102400,
    "max_position_embeddings": 163840,
    "attention_bias": False,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "scoring_func": "softmax",
    "norm_topk_prob": False,
}
_YARN = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
}
V2_LITE = _DEEPSEEK | {
    "hidden_size": 2048,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "q_lora_rank": None,
    "n_routed_experts": 64,
    "topk_method": "greedy",
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "rope_scaling": _YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
}
V2 = _DEEPSEEK | {
    "hidden_size": 5120,
    "num_hidden_layers": 60,
    "num_attention_heads": 128,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "q_lora_rank": 1536,
    "n_routed_experts": 160,
    "topk_method": "group_limited_greedy",
    "n_group": 8,
    "topk_group": 3,
    "routed_scaling_factor": 16.0,
    "rope_scaling": _YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
}
QWEN3_8B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12288,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000,
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "sliding_window": None,
}
QWEN2_5_7B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "sliding_window": 131072,
}
MISTRAL_7B: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 32768,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
}


def read(
    directory: Path, config: dict[str, Any], max_context_tokens: int | None = None, **changes: Any
) -> ModelConfig:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config | changes))
    safetensors.numpy.save_file({}, directory / "model.safetensors")
    return HuggingFaceModel(directory).read_config("BF16", max_context_tokens)


def _groups(groups: dict[str, Any]) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": groups}


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        pytest.param(V2_LITE, 15.7, id="DeepSeek-V2-Lite"),
        pytest.param(V2, 235.7, id="DeepSeek-V2"),
        pytest.param(QWEN2_5_7B, 7.6, id="Qwen2.5-7B"),
        pytest.param(QWEN3_8B, 8.2, id="Qwen3-8B"),
        pytest.param(MISTRAL_7B, 7.2, id="Mistral-7B-v0.3"),
    ],
)
def test_a_model_has_as_many_parameters_as_was_published(
    tmp_path: Path, config: dict[str, Any], billions: float
) -> None:
    tensors = layout.fused_tensors(read(tmp_path, config))
    assert sum(math.prod(tensor.shape) for tensor in tensors) / 1e9 == pytest.approx(billions, abs=0.06)


@pytest.mark.parametrize("config", [V2_LITE, V2])
def test_a_token_of_latents_costs_what_the_paper_says(tmp_path: Path, config: dict[str, Any]) -> None:
    """(d_c + d_h^R) * l elements, which with d_c = 4 d_h and d_h^R = d_h / 2 is 9/2 d_h * l: arXiv 2405.04434, table 1."""
    model = read(tmp_path, config)
    assert model.kv_layer_shape(1, 1) == (1, 1, 576)
    assert model.kv_bytes_per_token(2) == 2 * (512 + 64) * model.num_layers
    assert model.kv_bytes_per_token(2) * 2 == 2 * 9 * 128 * model.num_layers


def test_a_token_of_keys_and_values_costs_two_vectors_per_kv_head(tmp_path: Path) -> None:
    assert read(tmp_path, MISTRAL_7B).kv_bytes_per_token(2) == 2 * 2 * 8 * 128 * 32


def test_yarn_scales_the_scores_of_deepseek(tmp_path: Path) -> None:
    """0.1 * mscale_all_dim * ln 40 + 1, squared: 1.5896 with 0.707, 1.8739 with 1."""
    for config, factor in ((V2_LITE, 1.5896), (V2, 1.8739)):
        model = read(tmp_path, config)
        assert model.rope_magnitude == 1.0
        assert model.latent is not None
        assert model.latent.softmax_scale * 192**0.5 == pytest.approx(factor, abs=1e-4)


def test_experts_are_in_the_layers_that_the_config_names(tmp_path: Path) -> None:
    model = read(tmp_path, V2_LITE, num_hidden_layers=9, first_k_dense_replace=3, moe_layer_freq=2)
    assert [layer for layer in range(9) if model.experts_of(layer)] == [4, 6, 8]
    names = {tensor.name for tensor in layout.fused_tensors(model)}
    assert {f"layers.{layer}.router" for layer in (4, 6, 8)} == {
        name for name in names if name.endswith("router")
    }


def test_the_router_is_kept_in_fp32(tmp_path: Path) -> None:
    entries, _ = layout.place(layout.fused_tensors(read(tmp_path, V2_LITE)), "BF16")
    assert {entry.name.split(".")[-1] for entry in entries if entry.dtype != "BF16"} == {"router"}


@pytest.mark.parametrize(
    ("config", "changes", "said"),
    [
        pytest.param(
            V2, {"topk_method": "noaux_tc"}, ["topk_method", "noaux_tc", "greedy"], id="V3's router"
        ),
        pytest.param(V2, {"topk_method": ["greedy"]}, ["topk_method", "['greedy']"], id="several methods"),
        pytest.param(
            V2, {"scoring_func": "sigmoid"}, ["scoring_func", "sigmoid", "softmax"], id="V3's scores"
        ),
        pytest.param(V2, {"norm_topk_prob": True}, ["norm_topk_prob", "True", "False"], id="normed weights"),
        pytest.param(V2, {"attention_bias": True}, ["attention_bias"], id="biases"),
        pytest.param(V2, {"hidden_act": "gelu"}, ["hidden_act", "silu"], id="another activation"),
        pytest.param(V2, {"kv_lora_rank": None}, ["kv_lora_rank None", "from 1"], id="no latent"),
        pytest.param(V2, {"q_lora_rank": 0}, ["q_lora_rank 0", "from 1"], id="an empty latent of queries"),
        pytest.param(V2, {"qk_rope_head_dim": 63}, ["qk_rope_head_dim 63", "even"], id="half a pair"),
        pytest.param(V2, {"v_head_dim": "128"}, ["v_head_dim '128'"], id="a number as text"),
        pytest.param(V2, {"n_group": 7}, ["n_group 7", "divisor", "160"], id="groups of no one size"),
        pytest.param(V2, {"n_group": None}, ["n_group None"], id="groups without their number"),
        pytest.param(V2, {"topk_group": 9}, ["topk_group 9", "1 to 8"], id="more groups than there are"),
        pytest.param(
            V2,
            {"num_experts_per_tok": 61},
            ["num_experts_per_tok 61", "1 to 60"],
            id="too many experts of 3 groups",
        ),
        pytest.param(
            V2_LITE, {"num_experts_per_tok": 65}, ["num_experts_per_tok 65", "1 to 64"], id="too many experts"
        ),
        pytest.param(V2, {"n_shared_experts": None}, ["n_shared_experts None"], id="no shared expert"),
        pytest.param(V2, {"moe_layer_freq": 0}, ["moe_layer_freq 0"], id="experts in every no-th layer"),
        pytest.param(
            V2, {"first_k_dense_replace": -1}, ["first_k_dense_replace -1", "from 0"], id="a layer -1"
        ),
        pytest.param(
            V2, {"routed_scaling_factor": 0}, ["routed_scaling_factor 0"], id="experts that do nothing"
        ),
        pytest.param(
            V2,
            {"rope_scaling": _YARN | {"mscale_all_dim": "all"}},
            ["'yarn'", "numbers"],
            id="a scale that is a word",
        ),
        pytest.param(
            V2, {"architectures": ["DeepseekV3ForCausalLM"]}, ["DeepseekV3ForCausalLM", "DeepseekV2"], id="V3"
        ),
        pytest.param(
            MISTRAL_7B,
            {"sliding_window": 4096},
            ["sliding_window", "4096", "maxContextTokens"],
            id="Mistral with a window",
        ),
        pytest.param(
            QWEN2_5_7B,
            {"use_sliding_window": True, "sliding_window": 4096},
            ["sliding_window", "4096"],
            id="Qwen2 with a window in use",
        ),
        pytest.param(QWEN3_8B, {"attention_bias": True}, ["attention_bias"], id="Qwen3 with biases"),
    ],
)
def test_what_the_decoder_does_not_compute_is_refused(
    tmp_path: Path, config: dict[str, Any], changes: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        read(tmp_path, config, **changes)
    assert caught.value.path == "spec.model.uri"
    for words in said:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"rms_norm_eps": "1e-5"}, "rms_norm_eps '1e-5'", id="an epsilon as text"),
        pytest.param({"rms_norm_eps": [1e-5]}, "rms_norm_eps [1e-05]", id="an epsilon in a list"),
        pytest.param({"rope_theta": "x"}, "rope_theta 'x'", id="a theta as text"),
        pytest.param({"rope_theta": 0}, "rope_theta 0", id="a theta of nothing"),
        pytest.param({"rope_parameters": {"rope_theta": "x"}}, "rope_theta 'x'", id="an inner theta as text"),
        pytest.param({"rope_scaling": [8.0]}, "rope_scaling [8.0]", id="a list of scalings"),
        pytest.param({"rope_scaling": "yarn"}, "rope_scaling 'yarn'", id="the name of a scaling"),
        pytest.param({"rope_parameters": 2}, "rope_parameters 2", id="a number of parameters"),
        pytest.param({"rope_scaling": {"rope_type": ["yarn"]}}, "['yarn']", id="several kinds of a scaling"),
        pytest.param({"eos_token_id": "</s>"}, "eos_token_id '</s>'", id="an end as text"),
        pytest.param({"eos_token_id": [1, None]}, "eos_token_id [1, None]", id="no end among ends"),
        pytest.param({"bos_token_id": "<s>"}, "bos_token_id '<s>'", id="a beginning as text"),
        pytest.param({"architectures": {}}, "architecture", id="architectures by name"),
        pytest.param({"architectures": {"a": 1}}, "architecture", id="architectures by no number"),
        pytest.param({"quantization_config": "fp8"}, "quantization_config 'fp8'", id="a quantization's name"),
        pytest.param({"quantization_config": ["fp8"]}, "quantization_config ['fp8']", id="quantizations"),
        pytest.param(
            {"quantization_config": _groups({"default": "fp8"})}, "config_groups' weights", id="a named group"
        ),
        pytest.param(
            {"quantization_config": _groups({"default": {"weights": "fp8"}})},
            "config_groups' weights",
            id="named weights",
        ),
        pytest.param(
            {
                "quantization_config": _groups(
                    {"default": {"weights": {"num_bits": 8, "type": "float", "strategy": ["tensor"]}}}
                )
            },
            "strategy",
            id="several strategies",
        ),
    ],
)
def test_what_is_not_of_its_kind_is_refused_with_its_key(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        read(tmp_path, MISTRAL_7B, **changes)
    assert caught.value.path == "spec.model.uri"
    assert said in str(caught.value)


def test_what_is_null_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    nulls = dict.fromkeys(
        ("rms_norm_eps", "rope_theta", "rope_scaling", "quantization_config", "bos_token_id")
    )
    model = read(tmp_path, MISTRAL_7B, **nulls)
    assert (model.rms_norm_eps, model.rope_theta, model.bos_token_id) == (1e-6, 10000.0, None)


def test_the_ends_of_a_generation_config_are_read_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 3, 7]}')
    assert read(tmp_path, MISTRAL_7B, eos_token_id=1).eos_token_ids == [3, 7]
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "x"}')
    with pytest.raises(InvalidSpec, match=r"generation_config\.json with eos_token_id 'x'"):
        read(tmp_path, MISTRAL_7B)


def test_a_window_hides_nothing_of_a_context_that_is_no_longer(tmp_path: Path) -> None:
    model = read(tmp_path, MISTRAL_7B, 4096, sliding_window=4096)
    assert model.max_context_tokens == 4096
