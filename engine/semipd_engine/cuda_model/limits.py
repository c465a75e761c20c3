"""The largest steps of a lane, and those that warm it up: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semipd_core import messages
from semipd_core.engine_config import EngineConfig
from semipd_core.partition import Role
from semipd_engine.cuda_model.buckets import GraphsChoice, choose_graphs

_PLAIN = messages.Sampling()
_CUT = messages.Sampling(temperature=1.0, top_p=0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLimits:
    """The largest steps of a lane, and its graphs for decoding."""

    max_tokens: int
    max_rows: int
    decode_rows: int  # the most in a step that only decodes; 0: there is none
    takes_prompts: bool
    graphs: GraphsChoice

    @classmethod
    def of_role(cls, config: EngineConfig, role: Role, *, asks_host: bool) -> LaneLimits:
        """asks_host: as of the model's `Decoder`."""
        decode_rows = 0 if role is Role.PREFILL else config.max_rows
        max_tokens = {
            Role.PREFILL: config.prefill_budget_tokens,
            Role.MIXED: max(config.mixed_budget_tokens, config.max_rows),
            Role.DECODE: config.max_rows,
        }[role]
        return cls(
            max_tokens=max_tokens,
            max_rows=min(max_tokens, config.num_slots),
            decode_rows=decode_rows,
            takes_prompts=role is not Role.DECODE,
            graphs=choose_graphs(decode_rows=decode_rows, asks_host=asks_host),
        )


def largest_steps(limits: LaneLimits, context_tokens: int, *, has_latents: bool) -> list[list[messages.Row]]:
    """The rows of the largest step of each kind; but what a graph holds is run when it is captured.

    context_tokens: the most of a sequence; has_latents: whether a chunk with a past does other work than one without.
    """
    longest = min(limits.max_tokens, context_tokens)
    steps = []
    if limits.takes_prompts:
        steps.append([_idle_row(longest)])
        if has_latents and longest < context_tokens:
            steps.append([_idle_row(longest, start=context_tokens - longest)])
    if limits.decode_rows and not limits.graphs.rows:
        steps.append([_idle_row(1)] * limits.decode_rows)
    return steps


def smaller_steps(
    limits: LaneLimits, context_tokens: int, product_tokens: Sequence[int] = ()
) -> list[list[messages.Row]]:
    """What runs other kernels than the largest steps do; but what a graph holds is run when it is captured.

    product_tokens: the most of a step up to which a weight is multiplied in one form, of each form but that of any more.
    """
    if limits.graphs.rows and not limits.takes_prompts:
        return []
    longest = min(limits.max_tokens, context_tokens)
    forms = [[_idle_row(tokens)] for tokens in product_tokens if tokens < longest]
    return [*(forms if limits.takes_prompts else []), SMALLEST_STEP, [_idle_row(1, sampling=_CUT)]]


def _idle_row(num_tokens: int, start: int = 0, sampling: messages.Sampling = _PLAIN) -> messages.Row:
    """All of its blocks, and of its past, are the null block."""
    return messages.Row(
        slot=0, start=start, tokens=[0] * num_tokens, blocks_from=0, blocks=[], sampling=sampling
    )


SMALLEST_STEP = [_idle_row(1)]
