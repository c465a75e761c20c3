"""The gated SiLU MLP of one layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from semipd_engine.model.projection import build_projection
from semipd_engine.model.ranks import Ranks, add_product


class GatedMlp:
    def __init__(self, weights: Mapping[str, Tensor], ranks: Ranks) -> None:
        self._ranks = ranks
        self._gate_up = build_projection(weights, "gate_up")  # (2 * intermediate, hidden)
        self._down = build_projection(weights, "down")  # (hidden, intermediate)

    def add_to(self, residual: Tensor, hidden: Tensor) -> Tensor:
        """residual, hidden and what is returned: (tokens, hidden)."""
        return add_product(residual, activate(self._gate_up.apply(hidden)), self._down, self._ranks)


def activate(gate_up: Tensor) -> Tensor:
    """(tokens, 2 * intermediate), the gate first, to (tokens, intermediate)."""
    gate, up = gate_up.chunk(2, 1)
    return F.silu(gate).mul_(up)
