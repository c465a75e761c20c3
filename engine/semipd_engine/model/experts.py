"""A mixture of experts: each token's own few of many MLPs, and the shared ones for all. Source: DeepSeekMoE, arXiv 2401.06066."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from semipd_engine.model.config import ExpertsConfig
from semipd_engine.model.gated_mlp import GatedMlp, activate
from semipd_engine.model.ranks import LoneRank

GROUPED_MAJORS = frozenset({9, 10})  # compute capabilities


class RoutedExperts:
    """asks_host: whether `compute` waits until the device has told which experts were chosen."""

    def __init__(self, config: ExpertsConfig, weights: Mapping[str, Tensor]) -> None:
        self._config = config
        self._router = weights["router"]  # (experts, hidden) fp32
        self._gate_up = weights["experts_gate_up"].view(config.num_experts, 2 * config.intermediate_size, -1)
        self._down = weights["experts_down"].view(config.num_experts, -1, config.intermediate_size)
        self.asks_host = not is_grouped(self._gate_up, self._down)
        self._compute = compute_looped if self.asks_host else compute_grouped

    def compute(self, hidden: Tensor) -> Tensor:
        """The weighed sum of each token's own. hidden and what is returned: (tokens, hidden)."""
        weights, chosen = route(F.linear(hidden.float(), self._router), self._config)
        return self._compute(hidden, self._gate_up, self._down, weights, chosen)


class MixtureOfExperts:
    def __init__(self, config: ExpertsConfig, weights: Mapping[str, Tensor]) -> None:
        self._routed = RoutedExperts(config, weights)
        self._shared = GatedMlp(weights, LoneRank())

    def add_to(self, residual: Tensor, hidden: Tensor) -> Tensor:
        """residual, hidden and what is returned: (tokens, hidden)."""
        return self._shared.add_to(residual + self._routed.compute(hidden), hidden)


def route(logits: Tensor, config: ExpertsConfig) -> tuple[Tensor, Tensor]:
    """The experts of each token. logits: (tokens, experts) fp32. Returns weights fp32 and ids int64, (tokens, experts_per_token).

    A token uses the groups whose best experts are its best. Source: DeepSeek-V2, arXiv 2405.04434, section 2.2.
    """
    scores = logits.softmax(-1)
    if config.groups_per_token < config.num_groups:
        best = scores.view(len(scores), config.num_groups, -1).amax(-1)
        groups = best.topk(config.groups_per_token, sorted=False).indices
        is_used = torch.zeros_like(best, dtype=torch.bool).scatter_(1, groups, value=True)
        is_used = is_used.repeat_interleave(scores.shape[1] // config.num_groups, 1)
        scores = scores.masked_fill(~is_used, 0.0)
    weights, chosen = scores.topk(config.experts_per_token, sorted=False)
    return weights * config.routed_scaling_factor, chosen


def is_grouped(*weights: Tensor) -> bool:
    """Whether torch multiplies these by groups: rows of whole 16 bytes, and on CUDA without asking the host how large groups are.

    Source: pytorch/pytorch#194227, on what `grouped_mm` does by devices.
    """
    if any(weight.shape[-1] * weight.element_size() % 16 or weight.data_ptr() % 16 for weight in weights):
        return False
    if weights[0].device.type == "cpu":
        return True
    is_bf16 = all(weight.dtype == torch.bfloat16 for weight in weights)
    return is_bf16 and torch.cuda.get_device_capability(weights[0].device)[0] in GROUPED_MAJORS


def compute_grouped(hidden: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """Tokens sorted by expert, then one product for all experts; nothing is read back to the host.

    hidden: (tokens, hidden); gate_up: (experts, 2 * intermediate, hidden); down: (experts, hidden, intermediate);
    weights, chosen: as `route` returns them. Returns (tokens, hidden), summed in fp32.
    """
    tokens, each = chosen.shape
    experts, order = chosen.flatten().sort(stable=True)
    ids = torch.arange(len(gate_up), device=chosen.device)
    ends = torch.searchsorted(experts, ids, right=True, out_int32=True)
    rows = hidden.index_select(0, order // each)
    inner = activate(F.grouped_mm(rows, gate_up.transpose(1, 2), offs=ends))
    answers = F.grouped_mm(inner, down.transpose(1, 2), offs=ends)
    unsorted = torch.empty_like(answers).index_copy_(0, order, answers).view(tokens, each, -1)
    return (unsorted.float() * weights[:, :, None]).sum(1).to(hidden.dtype)


def compute_looped(hidden: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """As `compute_grouped`, one expert after the other, of those that a token has chosen."""
    total = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
    for expert in sorted(set(chosen.flatten().tolist())):
        token, place = (chosen == expert).nonzero(as_tuple=True)
        inner = activate(F.linear(hidden[token], gate_up[expert]))
        answers = F.linear(inner, down[expert]).float()
        total.index_add_(0, token, answers * weights[token, place, None])
    return total.to(hidden.dtype)
