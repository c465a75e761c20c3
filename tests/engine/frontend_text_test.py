"""Tokens become the same text whether they come one by one, in bursts, or twice."""

from __future__ import annotations

import itertools

import pytest
from fake_coordinator import EOS, TOKENIZER
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from semipd_core import messages
from semipd_core.slo.window import RequestJudge
from semipd_core.telemetry import SloTargets
from semipd_engine.frontend.generation import Delta, Generation, TokenGapError
from semipd_engine.frontend.text_stream import Detokenizer, TextStream

SLO = SloTargets(ttft_percentile=90, ttft_ms=2000, tpot_percentile=90, tpot_ms=250)
token_lists = st.lists(st.integers(0, TOKENIZER.get_vocab_size() - 1), max_size=24)
unicode_texts = st.text(max_size=16)


def generation(stops: tuple[str, ...] = (), stop_token_ids: tuple[int, ...] = (EOS,)) -> Generation:
    submit = messages.Submit(
        request_id="r",
        prompt=[5],
        max_tokens=100,
        arrived_ns=0,
        sampling=messages.Sampling(),
        stop_token_ids=list(stop_token_ids),
    )
    return Generation(
        choice=0,
        arrived_s=0.0,
        submit=submit,
        text=TextStream(TOKENIZER, stops),
        judge=RequestJudge(SLO, 0.0, 100),
    )


def tokens(offset: int, ids: list[int], finish: str | None = None) -> messages.Tokens:
    return messages.Tokens(
        request_id="r", offset=offset, tokens=ids, logprobs=None, finish=finish, cached_tokens=0
    )


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


@given(ids=token_lists)
def test_pieces_add_up_to_the_decoded_whole_even_for_broken_utf8(ids):
    detokenizer = Detokenizer(TOKENIZER)
    pieces = [detokenizer.push(token) for token in ids]
    assert "".join(pieces) + detokenizer.flush() == TOKENIZER.decode(ids, skip_special_tokens=True)


@given(text=unicode_texts)
def test_no_piece_of_a_valid_text_holds_half_a_character(text):
    detokenizer = Detokenizer(TOKENIZER)
    pieces = [detokenizer.push(token) for token in TOKENIZER.encode(text).ids]
    assert "".join(pieces) == text
    assert "�" in text or all("�" not in piece for piece in pieces)


def test_byte_fallback_that_changes_text_already_out_goes_on():
    """Such decoders turn valid bytes into U+FFFD when a stray byte follows; the library then refuses to go on."""
    vocab = {"<0xE4>": 0, "<0xBD>": 1, "<0xA0>": 2, "<0xFF>": 3, "a": 4}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(token) for token in [0, 1, 2, 3, 4]]
    assert pieces[2] == "你"
    assert "".join(pieces).endswith("a")


@given(ids=token_lists.filter(bool), cuts=st.sets(st.integers(1, 23)), repeat=st.integers(0, 5))
def test_bursts_and_repeats_change_nothing(ids, cuts, repeat):
    whole = generation(stop_token_ids=())
    expected = whole.accept(tokens(0, ids, "length"), 1.0)
    split = generation(stop_token_ids=())
    deltas: list[Delta] = []
    edges = [0, *sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    for start, end in itertools.pairwise(edges):
        from_ = max(0, start - repeat)
        deltas += split.accept(tokens(from_, ids[from_:end], "length" if end == len(ids) else None), 1.0)
    assert text_of(deltas) == text_of(expected) == TOKENIZER.decode(ids, skip_special_tokens=True)
    assert [delta.finish for delta in deltas if delta.finish] == ["length"]
    assert split.received == ids


@given(text=unicode_texts.filter(bool), stop=st.text(min_size=1, max_size=3))
def test_a_stop_string_cuts_the_text_wherever_tokens_end(text, stop):
    one = generation(stops=(stop,))
    ids = TOKENIZER.encode(text).ids
    deltas = one.accept(tokens(0, [*ids, EOS], "stop"), 1.0)
    assert text_of(deltas) == text.partition(stop)[0]
    assert deltas[-1].finish == "stop"


def test_the_last_text_carries_the_finish_reason():
    deltas = generation().accept(tokens(0, TOKENIZER.encode("the fox").ids, "length"), 1.0)
    assert [delta.text for delta in deltas] == ["the", " fox"]
    assert [delta.finish for delta in deltas] == [None, "length"]


def test_a_stop_token_ends_without_text_but_counts():
    deltas = generation().accept(tokens(0, [*TOKENIZER.encode("the").ids, EOS], "stop"), 1.0)
    assert [(delta.text, delta.finish, delta.num_tokens) for delta in deltas] == [
        ("the", None, 1),
        ("", "stop", 2),
    ]


def test_a_repeat_that_holds_only_known_tokens_still_ends_the_choice():
    one = generation()
    ids = TOKENIZER.encode("the fox").ids
    one.accept(tokens(0, ids), 1.0)
    assert [delta.finish for delta in one.accept(tokens(0, ids, "length"), 2.0)] == ["length"]
    assert one.accept(tokens(0, ids, "length"), 3.0) == []


def test_tokens_that_are_missing_are_an_error():
    with pytest.raises(TokenGapError, match="0 tokens, then offset 3"):
        generation().accept(tokens(3, [7]), 1.0)


def test_a_resubmission_holds_what_was_received():
    one = generation()
    one.accept(tokens(0, [7, 8]), 1.0)
    assert one.resubmission().generated == [7, 8]
    assert one.submit.generated == []


def test_times_of_a_choice():
    one = generation()
    one.accept(tokens(0, [7]), 1.0)
    one.accept(tokens(1, [8, 9]), 3.0)
    assert (one.ttft_s, one.tpot_s, one.e2e_s) == (1.0, 1.0, 3.0)
