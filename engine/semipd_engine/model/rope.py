"""Rotary frequencies and their scaling for long contexts, as divisors of the plain frequencies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from semipd_engine.model.config import ModelConfig, unsupported

Floats = npt.NDArray[np.float64]


def frequencies(config: ModelConfig) -> Floats:
    """Radians per position, [rope_dim / 2]. Source: RoFormer, arXiv 2104.09864, section 3.2."""
    plain = _plain_frequencies(config.rope_theta, config.rope_dim)
    return plain if config.rope_divisors is None else plain / np.array(config.rope_divisors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How a model stretches its positions."""

    divisors: list[float] | None  # of the plain frequencies; None: all 1
    magnitude: float  # what rotated queries and keys are multiplied by
    score_factor: float  # what DeepSeek multiplies the scores by, beside that


def read_scaling(scaling: Mapping[str, Any] | None, theta: float, rope_dim: int) -> Scaling:
    """From the `rope_scaling` or `rope_parameters` of a Hugging Face config.

    Raises: InvalidSpec for a scaling that is not in SCALINGS.
    """
    given = scaling or {}
    kind = given.get("rope_type", given.get("type", "default"))
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise unsupported("rope scaling", kind, ", ".join(SCALINGS))
    try:
        return Scaling(
            divisors=SCALINGS[kind](given, theta, rope_dim),
            magnitude=_yarn_magnitude(given) if kind == "yarn" else 1.0,
            score_factor=1.0 if kind == "default" else _score_factor(given),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise unsupported("rope scaling", dict(given), f"the numbers that {kind!r} needs") from error


def _yarn_magnitude(scaling: Mapping[str, Any]) -> float:
    """Source: YaRN, arXiv 2309.00071, section 3.4; `mscale` and `mscale_all_dim` are DeepSeek-V2's."""
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return _mscale(scaling, "mscale") / _mscale(scaling, "mscale_all_dim")
    return _mscale(scaling)


def _score_factor(scaling: Mapping[str, Any]) -> float:
    """Source: DeepSeek-V2's released code, `softmax_scale`."""
    return _mscale(scaling, "mscale_all_dim") ** 2 if scaling.get("mscale_all_dim") else 1.0


def _mscale(scaling: Mapping[str, Any], weight_key: str | None = None) -> float:
    """1 for a context that is not stretched. Source: YaRN, arXiv 2309.00071, equation 22."""
    factor = float(scaling["factor"])
    weight = 1.0 if weight_key is None else float(scaling[weight_key])
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _plain_frequencies(theta: float, rope_dim: int) -> Floats:
    return np.asarray(theta ** -(np.arange(0, rope_dim, 2, dtype=np.float64) / rope_dim))


def _linear(scaling: Mapping[str, Any], _theta: float, rope_dim: int) -> list[float]:
    return [float(scaling["factor"])] * (rope_dim // 2)


def _llama3(scaling: Mapping[str, Any], theta: float, rope_dim: int) -> list[float]:
    """Long waves are divided by `factor`, short ones kept, those between blended.

    Source: Llama 3.1 reference code, `apply_scaling`.
    """
    factor = float(scaling["factor"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    plain = _plain_frequencies(theta, rope_dim)
    turns = float(scaling["original_max_position_embeddings"]) * plain / (2 * math.pi)
    return _blend(np.clip((turns - low) / (high - low), 0.0, 1.0), factor)


def _yarn(scaling: Mapping[str, Any], theta: float, rope_dim: int) -> list[float]:
    """As `_llama3`, but blended along the index of the wave.

    Source: YaRN, arXiv 2309.00071, section 3.2, and its released code.
    """
    factor = float(scaling["factor"])

    def index_of(turns: float) -> float:
        tokens = float(scaling["original_max_position_embeddings"])
        return rope_dim * math.log(tokens / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = (
        index_of(float(scaling.get("beta_fast") or 32)),
        index_of(float(scaling.get("beta_slow") or 1)),
    )
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope_dim - 1)
    if low == high:
        high += 0.001  # as the released code does
    ramp = np.clip((np.arange(rope_dim // 2) - low) / (high - low), 0.0, 1.0)
    return _blend(1.0 - ramp, factor)


def _blend(kept: Floats, factor: float) -> list[float]:
    """Divisors: 1 where `kept` is 1, `factor` where it is 0."""
    return [float(x) for x in 1.0 / ((1.0 - kept) / factor + kept)]


SCALINGS: Mapping[str, Callable[[Mapping[str, Any], float, int], list[float] | None]] = {
    "default": lambda _scaling, _theta, _rope_dim: None,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
