"""Which token comes next. Random choices are keyed by (seed, position): the same whatever the batch, lane or switch.

Noise comes from a counter-based generator (splitmix64, Steele et al., OOPSLA 2014) and Gumbel-max
(Maddison et al., arXiv 1411.0030), so there is no state to hand over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semipd_core.messages import Sampling

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    token: int
    logprob: (
        float | None
    )  # of the model's own distribution, before temperature and cuts; None unless asked for


@torch.inference_mode()
def sample(logits: Tensor, samplings: Sequence[Sampling], positions: Sequence[int]) -> list[Choice]:
    """One token per row. logits: (rows, vocab) fp32; positions: those that the new tokens take in their sequences."""
    tokens = logits.argmax(-1).tolist()
    for row, (sampling, position) in enumerate(zip(samplings, positions, strict=True)):
        if sampling.temperature > 0:
            tokens[row] = _sample_row(logits[row], sampling, position)
    return [
        Choice(token=token, logprob=_logprob(logits[row], token) if sampling.logprob else None)
        for row, (token, sampling) in enumerate(zip(tokens, samplings, strict=True))
    ]


def _logprob(logits: Tensor, token: int) -> float:
    return float(logits[token] - logits.logsumexp(-1))


def _sample_row(logits: Tensor, sampling: Sampling, position: int) -> int:
    scaled, candidates = _keep_candidates(logits.double() / sampling.temperature, sampling)
    noise = gumbel_noise(sampling.seed, position, len(logits))
    if candidates is None:
        return int((scaled + noise).argmax())
    return int(candidates[(scaled + noise[candidates]).argmax()])


def _keep_candidates(scaled: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor | None]:
    """What top_k, then top_p leave: values in descending order with their token ids; None: all, in order of ids."""
    is_top_k = 0 < sampling.top_k < len(scaled)
    if not is_top_k and sampling.top_p >= 1.0:
        return scaled, None
    values, ids = torch.sort(scaled, descending=True, stable=True)
    if is_top_k:
        values, ids = values[: sampling.top_k], ids[: sampling.top_k]
    if sampling.top_p < 1.0:
        probabilities = values.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        kept = max(1, int((before < sampling.top_p).sum()))
        values, ids = values[:kept], ids[:kept]
    return values, ids


def gumbel_noise(seed: int, position: int, size: int) -> Tensor:
    """`size` standard Gumbel values, (size) fp64, of the stream (seed, position)."""
    key = _mix_int(_mix_int(seed & _MASK) + position)
    counters = torch.arange(1, size + 1, dtype=torch.int64)
    bits = _mix(counters * _signed(_GOLDEN) + _signed(key))
    uniform = (_shift_right(bits, 11).double() + 0.5) * 2.0**-53
    return -(-uniform.log()).log()


def _mix_int(value: int) -> int:
    """splitmix64 of one counter."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def _mix(values: Tensor) -> Tensor:
    """splitmix64's finaliser, wrapping in int64."""
    values = (values ^ _shift_right(values, 30)) * _signed(_MIX_1)
    values = (values ^ _shift_right(values, 27)) * _signed(_MIX_2)
    return values ^ _shift_right(values, 31)


def _shift_right(values: Tensor, bits: int) -> Tensor:
    """Logical, where torch's own is arithmetic."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
