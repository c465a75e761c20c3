"""Rotary frequencies and their scaling for long contexts, as divisors of the plain frequencies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from semipd_engine.model.config import ModelConfig, unsupported

Floats = npt.NDArray[np.float64]


def frequencies(config: ModelConfig) -> Floats:
    """Radians per position, [head_dim / 2]. Source: RoFormer, arXiv 2104.09864, section 3.2."""
    plain = _plain_frequencies(config.rope_theta, config.head_dim)
    return plain if config.rope_divisors is None else plain / np.array(config.rope_divisors)


def divisors(scaling: Mapping[str, Any] | None, theta: float, head_dim: int) -> list[float] | None:
    """From the `rope_scaling` or `rope_parameters` of a Hugging Face config.

    Raises: InvalidSpec for a scaling that is not in SCALINGS.
    """
    kind = "default" if scaling is None else scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in SCALINGS:
        raise unsupported("rope scaling", kind, ", ".join(SCALINGS))
    try:
        return SCALINGS[kind](scaling or {}, _plain_frequencies(theta, head_dim))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise unsupported("rope scaling", dict(scaling or {}), f"the numbers that {kind!r} needs") from error


def _plain_frequencies(theta: float, head_dim: int) -> Floats:
    return np.asarray(theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim))


def _linear(scaling: Mapping[str, Any], plain: Floats) -> list[float]:
    return [float(scaling["factor"])] * len(plain)


def _llama3(scaling: Mapping[str, Any], plain: Floats) -> list[float]:
    """Long waves are divided by `factor`, short ones kept, those between blended.

    Source: Llama 3.1 reference code, `apply_scaling`.
    """
    factor = float(scaling["factor"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = float(scaling["original_max_position_embeddings"]) * plain / (2 * math.pi)
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return [float(x) for x in 1.0 / ((1.0 - blend) / factor + blend)]


SCALINGS: Mapping[str, Callable[[Mapping[str, Any], Floats], list[float] | None]] = {
    "default": lambda _scaling, _plain: None,
    "linear": _linear,
    "llama3": _llama3,
}
