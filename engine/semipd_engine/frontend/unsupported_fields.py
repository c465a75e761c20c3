"""Fields that OpenAI's API (or vLLM's) knows and this engine does not: accepted where they change nothing, refused otherwise.

A field that is in no table is ignored, as OpenAI-compatible servers do; so are those that only describe the request
(`user`, `metadata`, `store`, `service_tier`, …).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semipd_engine.frontend.api_errors import invalid_field

# Field: the values that ask for nothing. None (JSON null) always does.
INERT_VALUES: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (),  # equal to n: see below
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_logprobs": (),
    "reasoning_effort": (),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
    "verbosity": (),
    "web_search_options": (),
}


def refuse_unsupported(fields: Mapping[str, Any]) -> None:
    """Raises: ApiError that names the first known field whose value this engine cannot honour."""
    for name, value in fields.items():
        if name not in INERT_VALUES or value is None:
            continue
        inert = (fields.get("n") or 1,) if name == "best_of" else INERT_VALUES[name]
        if not any(_is_same(value, other) for other in inert):
            allowed = " or ".join(["absent", *map(repr, inert)])
            raise invalid_field(name, value, f"{allowed} (not supported)", code="unsupported_parameter")


def _is_same(value: Any, other: Any) -> bool:
    """1 and True are equal in Python, but not in JSON."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)
