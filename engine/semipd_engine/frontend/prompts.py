"""From what the user wrote to token ids, checked against vocabulary and context. Pure, but for the time it takes."""

from __future__ import annotations

from typing import Any

from semipd_engine.frontend.api_errors import ApiError, invalid_field
from semipd_engine.frontend.request_decoding import ChatMessage, ChatRequest, CompletionRequest
from semipd_engine.frontend.request_settings import GenerationSettings
from semipd_engine.frontend.served_model import ServedModel

MAX_PROMPTS = 64
_ALLOWED = "a string, a list of strings, a list of token ids, or a list of lists of token ids"


def completion_prompts(request: CompletionRequest, model: ServedModel) -> list[list[int]]:
    """Token ids of each prompt. Raises: ApiError."""
    return [
        _encode(part, name, model) if isinstance(part, str) else _checked_ids(part, name, model)
        for name, part in _parse(request.prompt)
    ]


def chat_prompts(request: ChatRequest, model: ServedModel) -> list[list[int]]:
    """One prompt. Raises: ApiError."""
    if not request.messages:
        raise invalid_field("messages", [], "at least one message")
    if model.template is None:
        raise ApiError(
            400, "messages: this model has no chat template, allowed: /v1/completions with a prompt"
        )
    turns = [_turn(message, f"messages[{index}]") for index, message in enumerate(request.messages)]
    text = model.template.render(turns)
    # The template writes the special tokens itself.
    return [_checked_length(model.tokenizer.encode(text, add_special_tokens=False).ids, "messages", model)]


def tokens_left(prompt: list[int], settings: GenerationSettings, model: ServedModel) -> int:
    """How many tokens may be generated. Raises: ApiError if `max_tokens` does not fit beside the prompt."""
    max_tokens = settings.max_tokens
    left = model.context_tokens - len(prompt)
    if max_tokens is None:
        return min(left, settings.default_max_tokens or left)
    if max_tokens > left:
        allowed = f"1..{left}: the context holds {model.context_tokens} tokens, the prompt has {len(prompt)}"
        raise invalid_field(settings.max_tokens_field, max_tokens, allowed, code="context_length_exceeded")
    return max_tokens


def _parse(prompt: Any) -> list[tuple[str, str | list[Any]]]:
    """The prompts with the path of each."""
    if isinstance(prompt, str):
        return [("prompt", prompt)]
    if not isinstance(prompt, list) or not prompt:
        raise invalid_field("prompt", prompt, _ALLOWED)
    if not isinstance(prompt[0], str | list):
        return [("prompt", prompt)]
    if len(prompt) > MAX_PROMPTS:
        raise invalid_field("prompt", f"{len(prompt)} prompts", f"up to {MAX_PROMPTS}")
    for index, part in enumerate(prompt):
        if not isinstance(part, type(prompt[0])):
            raise invalid_field(f"prompt[{index}]", part, f"the same type as prompt[0]; {_ALLOWED}")
    return [(f"prompt[{index}]", part) for index, part in enumerate(prompt)]


def _encode(text: str, name: str, model: ServedModel) -> list[int]:
    return _checked_length(model.tokenizer.encode(text).ids, name, model)


def _checked_ids(ids: list[Any], name: str, model: ServedModel) -> list[int]:
    for index, token in enumerate(ids):
        if type(token) is not int or not 0 <= token < model.vocab_size:
            raise invalid_field(f"{name}[{index}]", token, f"a token id, 0..{model.vocab_size - 1}")
    return _checked_length(ids, name, model)


def _checked_length(ids: list[int], name: str, model: ServedModel) -> list[int]:
    if not ids:
        raise invalid_field(name, "0 tokens", f"1..{model.context_tokens - 1} tokens")
    if len(ids) >= model.context_tokens:
        allowed = f"1..{model.context_tokens - 1} tokens: the context holds {model.context_tokens}, one of them generated"
        raise invalid_field(name, f"{len(ids)} tokens", allowed, code="context_length_exceeded")
    return ids


def _turn(message: ChatMessage, name: str) -> dict[str, str]:
    """`developer` is OpenAI's newer name for `system`; templates know only the older."""
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return {"role": role, "content": message.content}
    if message.content is None:
        raise invalid_field(f"{name}.content", None, "a string or a list of text parts")
    for index, part in enumerate(message.content):
        if part.type != "text" or part.text is None:
            raise invalid_field(
                f"{name}.content[{index}].type", part.type, "'text' with a text; this model reads text only"
            )
    return {"role": role, "content": "\n".join(part.text or "" for part in message.content)}
