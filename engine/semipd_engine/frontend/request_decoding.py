"""From the bytes of a request body to its fields. Pure: every defect is an ApiError that names the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import msgspec

from semipd_engine.frontend.api_errors import ApiError, invalid_field
from semipd_engine.frontend.unsupported_fields import refuse_unsupported


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None  # usage on every chunk; needs include_usage


class ContentPart(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart] | None = None
    name: str | None = None


class SamplingFields(msgspec.Struct, frozen=True, kw_only=True):
    """What both kinds of request share, as OpenAI names it; None: the default.

    `top_k`, `ignore_eos` and `return_token_ids` are named as vLLM does.
    """

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class CompletionRequest(SamplingFields, frozen=True, kw_only=True):
    prompt: Any  # text, token ids, or a list of either: `prompts.parse_prompts`


class ChatRequest(SamplingFields, frozen=True, kw_only=True):
    messages: list[ChatMessage]
    max_completion_tokens: int | None = None


Request = TypeVar("Request", CompletionRequest, ChatRequest)

_PATH = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_EXPECTED = re.compile(r"Expected `([^`]+)`")
_STEP = re.compile(r"\.?(\w+)|\[(\d+)\]")


def decode_request(body: bytes, kind: type[Request]) -> Request:
    """Raises: ApiError for malformed JSON, a wrong type, a missing field, a known field that is not supported."""
    fields = _decode_object(body)
    refuse_unsupported(fields)
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise _field_error(fields, str(error)) from error


def _decode_object(body: bytes) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except RecursionError as error:
        raise ApiError(400, "the body is nested too deeply") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(
            400, f"the body is not valid JSON: {error}; given {len(body)} bytes, allowed: one JSON object"
        ) from error
    if not isinstance(value, dict):
        raise ApiError(400, f"the body is a JSON {type(value).__name__}, allowed: one JSON object")
    return value


def _field_error(fields: Mapping[str, Any], text: str) -> ApiError:
    """From "Expected `int | null`, got `str` - at `$.n`" to the field, its value and what is allowed."""
    found = _PATH.search(text)
    path = found.group(1) if found else ""
    reason = _PATH.sub("", text)
    if missing := _MISSING.search(reason):
        param = f"{path}.{missing.group(1)}" if path else missing.group(1)
        return invalid_field(param, None, "a value, the field is required")
    if reason.startswith("Invalid enum value") and path.endswith("role"):
        reason = "'system', 'developer', 'user', 'assistant'"
    if expected := _EXPECTED.match(reason):
        reason = expected.group(1).replace(" | ", " or ")
    return invalid_field(path, _value_at(fields, path), reason)


def _value_at(value: Any, path: str) -> Any:
    for key, index in _STEP.findall(path):
        value = value[int(index)] if index else value[key]
    return value
