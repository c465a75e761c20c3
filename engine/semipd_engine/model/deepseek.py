"""What a DeepSeek-V2 config.json says beyond that of a Llama: latent attention and a mixture of experts.

Source: DeepSeek-V2, arXiv 2405.04434, and the models of transformers, which the tests hold this against.
"""

from __future__ import annotations

from collections.abc import Mapping

from semipd_engine.model.config import ExpertsConfig, LatentConfig, unsupported
from semipd_engine.model.config_values import ConfigValues
from semipd_engine.model.rope import Scaling

# What the router does not do. Implementations disagree about `norm_topk_prob`, and the published models do not set it.
_REQUIRED: Mapping[str, object] = {"scoring_func": "softmax", "norm_topk_prob": False}
_GROUPED, _UNGROUPED = "group_limited_greedy", "greedy"


def read_query_head_dim(values: ConfigValues) -> int:
    return values.whole("qk_nope_head_dim") + read_rope_dim(values)


def read_rope_dim(values: ConfigValues) -> int:
    """Raises: InvalidSpec unless it is even: positions turn pairs."""
    dim = values.whole("qk_rope_head_dim")
    if dim % 2:
        raise values.invalid("qk_rope_head_dim", dim, "an even number")
    return dim


def read_latent(values: ConfigValues, scaling: Scaling) -> LatentConfig:
    """Raises: InvalidSpec for a missing or impossible value."""
    return LatentConfig(
        q_lora_rank=None if values.get("q_lora_rank") is None else values.whole("q_lora_rank"),
        kv_lora_rank=values.whole("kv_lora_rank"),
        qk_nope_head_dim=values.whole("qk_nope_head_dim"),
        qk_rope_head_dim=read_rope_dim(values),
        v_head_dim=values.whole("v_head_dim"),
        softmax_scale=scaling.score_factor * read_query_head_dim(values) ** -0.5,
    )


def read_experts(values: ConfigValues) -> ExpertsConfig:
    """Raises: InvalidSpec for a missing or impossible value, or a router that is not computed."""
    values.require(_REQUIRED)
    experts = values.whole("n_routed_experts")
    groups, groups_per_token = _read_groups(values, experts)
    return ExpertsConfig(
        num_experts=experts,
        num_shared_experts=values.whole("n_shared_experts"),
        experts_per_token=_at_most(values, "num_experts_per_tok", experts // groups * groups_per_token),
        intermediate_size=values.whole("moe_intermediate_size"),
        first_layer=values.whole("first_k_dense_replace", 0, minimum=0),
        layer_step=values.whole("moe_layer_freq", 1),
        num_groups=groups,
        groups_per_token=groups_per_token,
        routed_scaling_factor=values.positive("routed_scaling_factor", 1.0),
    )


def _read_groups(values: ConfigValues, experts: int) -> tuple[int, int]:
    """Groups of experts, and how many of them a token uses."""
    method = values.get("topk_method", _UNGROUPED)
    if not isinstance(method, str) or method not in {_GROUPED, _UNGROUPED}:
        raise unsupported("topk_method", method, f"{_UNGROUPED} or {_GROUPED}")
    if method == _UNGROUPED:
        return 1, 1
    groups = values.whole("n_group")
    if experts % groups:
        raise values.invalid("n_group", groups, f"a divisor of n_routed_experts, {experts}")
    return groups, _at_most(values, "topk_group", groups)


def _at_most(values: ConfigValues, key: str, maximum: int) -> int:
    value = values.whole(key)
    if value > maximum:
        raise values.invalid(key, value, f"1 to {maximum}")
    return value
