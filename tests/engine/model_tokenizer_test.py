"""The tokenizer rebuilt from the built-in GGUF file encodes, decodes and templates as transformers' own does."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest
import transformers
from tokenizers import Tokenizer

from semipd_core.errors import InvalidSpec
from semipd_engine.model import sources
from semipd_engine.model.tokenizer import GgufVocabulary, build_tokenizer

pytestmark = pytest.mark.slow

TEXTS = [
    pytest.param("Hello, world!", id="plain words"),
    pytest.param("  two  spaces\tand\n\nnewlines \n", id="white space"),
    pytest.param("don't you'll WE'VE", id="contractions"),
    pytest.param("In 2024, 3.14159 and 007 and 1000000", id="digits"),
    pytest.param("naïve café — «Überraschung» Ελληνικά Русский", id="letters beyond ASCII"),
    pytest.param("日本語のテキスト 한국어 العربية", id="other scripts"),
    pytest.param("👩‍👩‍👧 🤖 e\u0301 \u200b", id="emoji, combining and zero-width characters"),
    pytest.param("def f(x: int) -> str:\n\treturn f'{x!r}' # 2 ** 8\n", id="code"),
    pytest.param("<|im_start|>user\nhi<|im_end|>", id="special tokens"),
    pytest.param("<|im_start|><|im_end|><|endoftext|>", id="special tokens side by side"),
    pytest.param("<|im_start user", id="almost a special token"),
    pytest.param("", id="nothing"),
]
CHATS = [
    pytest.param([{"role": "user", "content": "Hi"}], id="the template's own system message"),
    pytest.param(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2+2?"}],
        id="a system message",
    ),
    pytest.param(
        [
            {"role": "user", "content": "one\ntwo"},
            {"role": "assistant", "content": "three"},
            {"role": "user", "content": "é"},
        ],
        id="several turns",
    ),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("smollm2")
    sources.open_source("builtin://smollm2-135m").write_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def ours(directory: Path) -> Tokenizer:
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


@pytest.fixture(scope="module")
def theirs():
    file = Path(sources.open_source("builtin://smollm2-135m").location)
    return transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


@pytest.mark.parametrize("text", TEXTS)
def test_encodes_as_transformers_does(ours: Tokenizer, theirs, text: str) -> None:
    assert ours.encode(text).ids == theirs(text).input_ids


@pytest.mark.parametrize("text", TEXTS)
def test_decodes_to_the_text(ours: Tokenizer, text: str) -> None:
    assert ours.decode(ours.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("messages", CHATS)
def test_the_chat_template_renders_as_transformers_does(directory: Path, theirs, messages: list) -> None:
    template = jinja2.Template((directory / "chat_template.jinja").read_text())
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert template.render(messages=messages, add_generation_prompt=True) == expected


def test_special_tokens_are_left_out_of_decoded_text(ours: Tokenizer) -> None:
    assert ours.decode(ours.encode("a<|im_end|>").ids) == "a"


def test_an_unknown_pre_tokenizer_is_refused() -> None:
    vocabulary = GgufVocabulary(
        kind="gpt2",
        pre_tokenizer="tekken",
        tokens=["a"],
        token_types=[1],
        merges=[],
        bos_token_id=None,
        adds_bos=False,
    )
    with pytest.raises(InvalidSpec, match="tekken"):
        build_tokenizer(vocabulary)


def test_a_vocabulary_that_asks_for_it_begins_with_bos() -> None:
    vocabulary = GgufVocabulary(
        kind="gpt2",
        pre_tokenizer="gpt-2",
        tokens=["<s>", "a", "b", "ab"],
        token_types=[3, 1, 1, 1],
        merges=["a b"],
        bos_token_id=0,
        adds_bos=True,
    )
    assert build_tokenizer(vocabulary).encode("abb").ids == [0, 3, 2]
