"""Which requests can be served at all, and with how many tokens."""

from __future__ import annotations

from dataclasses import dataclass

from semipd_core.engine.config import CoordinatorConfig
from semipd_core.messages import Submit


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    max_tokens: int  # cut to what the context leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    message: str


def judge_submit(submit: Submit, config: CoordinatorConfig) -> Accepted | Refused:
    """Refuse what could never be served, whatever else runs."""
    num_prompt = len(submit.prompt)
    if num_prompt == 0:
        return Refused(message="prompt: got 0 tokens, allowed: at least 1")
    if submit.max_tokens < 1:
        return Refused(message=f"max_tokens: got {submit.max_tokens}, allowed: at least 1")
    if num_prompt >= config.max_context_tokens:
        return Refused(
            message=f"prompt: got {num_prompt} tokens, allowed: at most {config.max_context_tokens - 1} "
            f"(the context holds {config.max_context_tokens} tokens, output included)"
        )
    max_tokens = min(submit.max_tokens, config.max_context_tokens - num_prompt)
    # The KV of the last token is never computed.
    blocks = -(-(num_prompt + max_tokens - 1) // config.block_tokens)
    if blocks > config.usable_blocks:
        return Refused(
            message=f"prompt and max_tokens: got {num_prompt} + {max_tokens} tokens, which need {blocks} KV blocks of "
            f"{config.block_tokens} tokens, allowed: at most {config.usable_blocks} blocks"
        )
    return Accepted(max_tokens=max_tokens)
