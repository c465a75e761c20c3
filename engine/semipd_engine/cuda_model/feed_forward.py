"""What follows attention in a layer, on the kernels: each gives the next norm what it adds to the residual."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from semipd_engine.cuda_model.projection import build_projection
from semipd_engine.kernels.silu_mul import silu_mul
from semipd_engine.model.config import ExpertsConfig
from semipd_engine.model.experts import RoutedExperts


class GatedMlp:
    asks_host = False

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._gate_up = build_projection(weights, "gate_up")  # (2 * intermediate, hidden)
        self._down = build_projection(weights, "down")  # (hidden, intermediate)

    def compute(self, hidden: Tensor) -> Tensor:
        """What the layer adds. hidden and what is returned: (tokens, hidden)."""
        return self._down.apply(silu_mul(self._gate_up.apply(hidden)))


class MixtureOfExperts:
    """asks_host: as of `RoutedExperts`."""

    def __init__(self, config: ExpertsConfig, weights: Mapping[str, Tensor]) -> None:
        self._routed = RoutedExperts(config, weights)
        self._gate_up = build_projection(
            weights, "gate_up"
        )  # of the shared experts, (2 * intermediate, hidden)
        self._down = build_projection(weights, "down")  # (hidden, intermediate)
        self.asks_host = self._routed.asks_host

    def compute(self, hidden: Tensor) -> Tensor:
        """What the layer adds. hidden and what is returned: (tokens, hidden)."""
        shared = silu_mul(self._gate_up.apply(hidden))
        return self._down.add_to(self._routed.compute(hidden), shared)
