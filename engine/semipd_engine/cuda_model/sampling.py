"""Tokens from logits on the device, and the log-probabilities of those rows that ask."""

from __future__ import annotations

from torch import Tensor

from semipd_engine.cuda_model.staging import StagedInputs
from semipd_engine.kernels import sampling


def choose_tokens(logits: Tensor, inputs: StagedInputs, *, has_cuts: bool) -> Tensor:
    """(samples) int64. logits: (samples, vocab) fp32."""
    samples = len(logits)
    return sampling.sample(
        logits,
        inputs["temperatures"][:samples],
        inputs["top_ks"][:samples],
        inputs["top_ps"][:samples],
        inputs["seeds"][:samples],
        inputs["sample_positions"][:samples],
        has_cuts=has_cuts,
    )


def logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """(samples) fp32, of the model's own distribution, before temperature and cuts."""
    return logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(-1)
