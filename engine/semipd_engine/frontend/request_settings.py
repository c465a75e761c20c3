"""From decoded fields to checked settings with all defaults filled in. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from semipd_engine.frontend.api_errors import invalid_field
from semipd_engine.frontend.request_decoding import ChatRequest, CompletionRequest, SamplingFields

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's, for /v1/completions; a chat may fill the context
MAX_CHOICES = 8
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256  # held-back text is searched at every token
SEED_BITS = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """How to answer. `max_tokens` None: `default_max_tokens`, or what the context leaves; `seed` None: drawn once per prompt."""

    max_tokens: int | None
    max_tokens_field: str  # where the user wrote it, for error messages
    default_max_tokens: int | None  # None: as many as the context leaves
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: tuple[str, ...]
    num_choices: int
    ignore_eos: bool
    return_token_ids: bool
    stream: bool
    include_usage: bool
    continuous_usage: bool


def completion_settings(request: CompletionRequest) -> GenerationSettings:
    """Raises: ApiError."""
    max_tokens = _max_tokens("max_tokens", request.max_tokens)
    return _settings(request, max_tokens, "max_tokens", DEFAULT_COMPLETION_TOKENS)


def chat_settings(request: ChatRequest) -> GenerationSettings:
    """`max_completion_tokens` supersedes `max_tokens`, as OpenAI says. Raises: ApiError."""
    older = _max_tokens("max_tokens", request.max_tokens)
    newer = _max_tokens("max_completion_tokens", request.max_completion_tokens)
    if newer is None:
        return _settings(request, older, "max_tokens", None)
    return _settings(request, newer, "max_completion_tokens", None)


def _settings(
    request: SamplingFields, max_tokens: int | None, max_tokens_field: str, default_max_tokens: int | None
) -> GenerationSettings:
    stream = bool(request.stream)
    options = request.stream_options
    if options is not None and not stream:
        raise invalid_field("stream_options", "an object without stream", "only with stream: true")
    include_usage = options is not None and bool(options.include_usage)
    return GenerationSettings(
        max_tokens=max_tokens,
        max_tokens_field=max_tokens_field,
        default_max_tokens=default_max_tokens,
        temperature=_within("temperature", request.temperature, 0.0, 2.0, default=1.0),
        top_p=_top_p(request.top_p),
        top_k=_top_k(request.top_k),
        seed=_seed(request.seed),
        stop=_stops(request.stop),
        num_choices=int(_within("n", request.n, 1, MAX_CHOICES, default=1)),
        ignore_eos=bool(request.ignore_eos),
        return_token_ids=bool(request.return_token_ids),
        stream=stream,
        include_usage=include_usage,
        continuous_usage=include_usage and options is not None and bool(options.continuous_usage_stats),
    )


def _within(name: str, value: float | None, low: float, high: float, *, default: float) -> float:
    if value is None:
        return default
    if not low <= value <= high:
        raise invalid_field(name, value, f"{low:g}..{high:g}")
    return value


def _max_tokens(name: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise invalid_field(name, value, "1 or more")
    return value


def _top_p(value: float | None) -> float:
    if value is None:
        return 1.0
    if not 0.0 < value <= 1.0:
        raise invalid_field("top_p", value, "above 0, up to 1")
    return value


def _top_k(value: int | None) -> int:
    """-1 and 0 are off."""
    if value is None or value == -1:
        return 0
    if not 0 <= value < 2**31:
        raise invalid_field("top_k", value, "-1 or 0 (off), or 1..2147483647")
    return value


def _seed(value: int | None) -> int | None:
    """Folded to 63 bits, so that `seed + index` stays a signed 64-bit integer in every process."""
    if value is None:
        return None
    if not -(2**63) <= value < 2**63:
        raise invalid_field("seed", value, "a signed 64-bit integer")
    folded: int = value & (2**SEED_BITS - 1)
    return folded


def _stops(value: str | list[str] | None) -> tuple[str, ...]:
    stops = () if value is None else (value,) if isinstance(value, str) else tuple(value)
    if len(stops) > MAX_STOPS:
        raise invalid_field("stop", f"{len(stops)} strings", f"up to {MAX_STOPS} strings")
    for index, stop in enumerate(stops):
        if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            name = "stop" if isinstance(value, str) else f"stop[{index}]"
            raise invalid_field(name, stop, f"a string of 1..{MAX_STOP_CHARACTERS} characters")
    return stops
