"""What a front end knows of the model: tokenizer, chat template, sizes. Read from the files that the memory server writes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from semipd_core.engine_config import EngineConfig
from semipd_core.telemetry import Wire
from semipd_engine.frontend.chat_template import ChatTemplate

POLL_S = 0.1


class ModelFacts(Wire, frozen=True, kw_only=True):
    """The part of `model.json` that matters here."""

    vocab_size: int
    max_context_tokens: int
    eos_token_ids: list[int]
    bos_token_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    tokenizer: Tokenizer
    template: ChatTemplate | None  # None: the model has none, chat is refused
    vocab_size: int
    context_tokens: int
    stop_token_ids: list[int]


def load(config: EngineConfig) -> ServedModel:
    """Raises: OSError, msgspec.MsgspecError, jinja2.TemplateError, or plain Exception from the tokenizer library."""
    directory = Path(config.model_directory)
    facts = msgspec.json.decode((directory / "model.json").read_bytes(), type=ModelFacts)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return ServedModel(
        tokenizer=tokenizer,
        template=_load_template(directory / "chat_template.jinja", tokenizer, facts),
        vocab_size=facts.vocab_size,
        context_tokens=min(config.max_context_tokens or facts.max_context_tokens, facts.max_context_tokens),
        stop_token_ids=facts.eos_token_ids,
    )


async def wait_for(config: EngineConfig) -> ServedModel:
    """Poll until the memory server listens: all files are there by then, and a model without a template is known to be one."""
    while not Path(config.memory_socket).exists():
        await asyncio.sleep(POLL_S)
    return load(config)


def _load_template(path: Path, tokenizer: Tokenizer, facts: ModelFacts) -> ChatTemplate | None:
    if not path.exists():
        return None
    special_tokens = {
        "bos_token": _text_of(tokenizer, facts.bos_token_id),
        "eos_token": _text_of(tokenizer, next(iter(facts.eos_token_ids), None)),
    }
    return ChatTemplate(path.read_text(encoding="utf-8"), special_tokens)


def _text_of(tokenizer: Tokenizer, token_id: int | None) -> str:
    return "" if token_id is None else tokenizer.id_to_token(token_id) or ""
