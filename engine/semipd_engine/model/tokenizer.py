"""Writes `tokenizer.json` and `chat_template.jinja`, which is all that the front end knows of a tokenizer.

A Hugging Face directory has them; from a GGUF file's vocabulary the tokenizer is built anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from semipd_engine.model.config import unsupported
from semipd_shell.files import write_atomically

_CONTROL, _USER_DEFINED = 3, 4  # token types of GGUF


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufVocabulary:
    kind: str | None  # `tokenizer.ggml.model`
    pre_tokenizer: str
    tokens: Sequence[str]
    token_types: Sequence[int]
    merges: Sequence[str]  # "left right"
    bos_token_id: int | None
    adds_bos: bool


def _byte_level() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()])


PRE_TOKENIZERS: Mapping[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _byte_level,
    "smollm": _smollm,
}


def build_tokenizer(vocabulary: GgufVocabulary) -> Tokenizer:
    """Raises: InvalidSpec for a model or pre-tokenizer that is not in PRE_TOKENIZERS."""
    if vocabulary.kind != "gpt2" or vocabulary.pre_tokenizer not in PRE_TOKENIZERS:
        given = f"{vocabulary.kind} with pre-tokenizer {vocabulary.pre_tokenizer}"
        known = ", ".join(PRE_TOKENIZERS)
        raise unsupported("GGUF tokenizer", given, f"gpt2 with {known}, or a Hugging Face directory")
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in vocabulary.merges)]
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[vocabulary.pre_tokenizer]()
    tokenizer.decoder = decoders.ByteLevel()
    types = list(zip(vocabulary.tokens, vocabulary.token_types, strict=True))
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token, kind in types if kind == _CONTROL]
    )
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False) for token, kind in types if kind == _USER_DEFINED]
    )
    if vocabulary.adds_bos and vocabulary.bos_token_id is not None:
        bos = vocabulary.tokens[vocabulary.bos_token_id]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A $B",
            special_tokens=[(bos, vocabulary.bos_token_id)],
        )
    return tokenizer


def write_tokenizer(directory: Path, tokenizer_json: str, chat_template: str | None) -> None:
    """Without a template the file is absent: such a model serves completions, no chat."""
    write_atomically(directory / "tokenizer.json", tokenizer_json.encode())
    template = directory / "chat_template.jinja"
    if chat_template is None:
        template.unlink(missing_ok=True)
    else:
        write_atomically(template, chat_template.encode())
