"""Which requests come when: the same for every engine and baseline at the same rate. Pure.

Arrivals are a Poisson process whose seed is (workload, run) and not the rate: a higher rate is the same process, faster, with the
same prompts in the same order. So two engines at one rate meet the same requests, and a difference is theirs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from semipd_bench.trace import Trace, TraceRequest

RUN_S = 60.0
CONTEXT_TOKENS = 8192
PROMPT_MIN, OUTPUT_MIN = 16, 2  # an answer of one token has no TPOT
# ShareGPT-like and long, as Nexus describes its mix (arXiv 2507.06608): mean tokens in/out 496/97 and 5905/180.
SHORT_MEAN, LONG_MEAN = (496, 97), (5905, 180)
SIGMA_PROMPT, SIGMA_OUTPUT = 1.0, 0.8  # of the logarithm: assumed, the paper gives means only
SHORT_PERMILLE = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    prompt_tokens: int
    output_tokens: int


Draw = Callable[[random.Random], Lengths]


def arrivals(draw_lengths: Draw, *, rate_per_s: float, seed: str, run_s: float = RUN_S) -> Trace:
    """`run_s` seconds of requests. Raises: ValueError for a rate that is not positive."""
    if rate_per_s <= 0:
        raise ValueError(f"rate_per_s is {rate_per_s}, allowed: > 0")
    times, lengths = random.Random(f"{seed}-times"), random.Random(f"{seed}-lengths")
    requests: list[TraceRequest] = []
    at_s = times.expovariate(1.0) / rate_per_s
    while at_s < run_s:
        drawn = draw_lengths(lengths)
        requests.append(
            TraceRequest(at_s=at_s, prompt_tokens=drawn.prompt_tokens, output_tokens=drawn.output_tokens)
        )
        at_s += times.expovariate(1.0) / rate_per_s
    return Trace(name=seed, requests=tuple(requests), duration_s=run_s)


def from_trace(requests: Sequence[TraceRequest]) -> Draw:
    """Lengths of recorded requests, drawn with replacement, so that any rate has enough of them."""
    pairs = [_fitted(request.prompt_tokens, request.output_tokens) for request in requests]
    return lambda draw: draw.choice(pairs)


def mixed(draw: random.Random) -> Lengths:
    """60 % ShareGPT-like, 40 % long, log-normal."""
    prompt_mean, output_mean = SHORT_MEAN if draw.randrange(1000) < SHORT_PERMILLE else LONG_MEAN
    return _fitted(_log_normal(draw, prompt_mean, SIGMA_PROMPT), _log_normal(draw, output_mean, SIGMA_OUTPUT))


def workloads(azure: Trace) -> Mapping[str, Draw]:
    """`azure`: the bundled trace, whose second half is the conversation trace."""
    return {"conv": from_trace(azure.halves()[1].requests), "mixed": mixed}


def _log_normal(draw: random.Random, mean: float, sigma: float) -> int:
    """With that mean: the mean of a log-normal is exp(mu + sigma^2 / 2)."""
    return round(mean * draw.lognormvariate(-sigma * sigma / 2, sigma))


def _fitted(prompt_tokens: int, output_tokens: int) -> Lengths:
    """Into the context, the prompt cut before the answer."""
    output_tokens = min(max(output_tokens, OUTPUT_MIN), CONTEXT_TOKENS // 2)
    prompt_tokens = min(max(prompt_tokens, PROMPT_MIN), CONTEXT_TOKENS - output_tokens)
    return Lengths(prompt_tokens=prompt_tokens, output_tokens=output_tokens)
