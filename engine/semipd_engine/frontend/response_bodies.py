"""The JSON of OpenAI's responses and chunks, whole and streamed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from semipd_engine.frontend.generation import Delta, Generation

SSE_DONE = b"data: [DONE]\n\n"
_encoder = msgspec.json.Encoder()


def sse(data: dict[str, Any]) -> bytes:
    return b"data: " + _encoder.encode(data) + b"\n\n"


def usage(generations: Sequence[Generation], *, first_choices: Sequence[Generation]) -> dict[str, Any]:
    """A prompt counts once, however many choices it has: `first_choices` holds one choice per prompt."""
    return _usage(
        prompt_tokens=sum(len(generation.submit.prompt) for generation in first_choices),
        completion_tokens=sum(len(generation.received) for generation in generations),
        cached_tokens=sum(generation.cached_tokens for generation in first_choices),
    )


def usage_so_far(generation: Generation, delta: Delta) -> dict[str, Any]:
    return _usage(
        prompt_tokens=len(generation.submit.prompt),
        completion_tokens=delta.num_tokens,
        cached_tokens=generation.cached_tokens,
    )


def _usage(*, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


class ResponseForm(Protocol):
    """How one endpoint writes its answers."""

    def whole(self, texts: Sequence[str], finishes: Sequence[str | None]) -> dict[str, Any]:
        """The response without `usage`."""

    def chunk(self, delta: Delta, *, is_first: bool) -> dict[str, Any]:
        """One streamed chunk without `usage`; `is_first` of its choice."""

    def last_chunk(self) -> dict[str, Any]:
        """The chunk without choices that carries the usage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionForm:
    request_id: str
    model: str
    created: int  # unix time, seconds

    def whole(self, texts: Sequence[str], finishes: Sequence[str | None]) -> dict[str, Any]:
        choices = [
            self._choice(index, text, finish)
            for index, (text, finish) in enumerate(zip(texts, finishes, strict=True))
        ]
        return self._body(choices)

    def chunk(self, delta: Delta, *, is_first: bool) -> dict[str, Any]:  # noqa: ARG002  # the chat form needs it
        return self._body([self._choice(delta.choice, delta.text, delta.finish)])

    def last_chunk(self) -> dict[str, Any]:
        return self._body([])

    def _body(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"cmpl-{self.request_id}",
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _choice(self, index: int, text: str, finish: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatForm:
    request_id: str
    model: str
    created: int  # unix time, seconds

    def whole(self, texts: Sequence[str], finishes: Sequence[str | None]) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish,
            }
            for index, (text, finish) in enumerate(zip(texts, finishes, strict=True))
        ]
        return self._body("chat.completion", choices)

    def chunk(self, delta: Delta, *, is_first: bool) -> dict[str, Any]:
        """The role travels with the first text: a chunk of its own would look like a token to clients."""
        content = {"content": delta.text} if delta.text or is_first else {}
        choice = {
            "index": delta.choice,
            "delta": {"role": "assistant"} | content if is_first else content,
            "logprobs": None,
            "finish_reason": delta.finish,
        }
        return self._body("chat.completion.chunk", [choice])

    def last_chunk(self) -> dict[str, Any]:
        return self._body("chat.completion.chunk", [])

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.request_id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


Form = type[CompletionForm] | type[ChatForm]


def model_card(served_name: str, created: int, context_tokens: int | None) -> dict[str, Any]:
    """`max_model_len` as vLLM names it; None until the model is known."""
    return {
        "id": served_name,
        "object": "model",
        "created": created,
        "owned_by": "semipd",
        "max_model_len": context_tokens,
    }
