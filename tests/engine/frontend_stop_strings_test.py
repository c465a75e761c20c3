"""A text ends at the same place however it arrives in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_engine.frontend.stop_strings import StopMatcher, find_stop


def cut_by_character(text: str, stops: tuple[str, ...]) -> str:
    """The oracle: read on until the text read so far ends with a stop string; the longest of them is cut off."""
    for end in range(1, len(text) + 1):
        if found := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, found))]
    return text


def push_all(pieces: list[str], stops: tuple[str, ...]) -> tuple[list[str], bool]:
    matcher = StopMatcher(stops)
    out = [matcher.push(piece) for piece in pieces]
    return [*out, matcher.flush()], matcher.matched


small_texts = st.text(alphabet="abc", max_size=12)
stop_tuples = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=4).map(tuple)


@given(pieces=st.lists(small_texts, max_size=8), stops=stop_tuples)
def test_any_split_gives_the_text_of_the_oracle(pieces, stops):
    out, matched = push_all(pieces, stops)
    text = "".join(pieces)
    assert "".join(out) == cut_by_character(text, stops)
    assert matched == (find_stop(text, stops) is not None)


@given(pieces=st.lists(small_texts, max_size=8), stops=stop_tuples)
def test_no_more_is_held_back_than_could_be_a_stop_string(pieces, stops):
    matcher = StopMatcher(stops)
    received = released = ""
    for piece in pieces:
        received += piece
        released += matcher.push(piece)
        if matcher.matched:
            break
        held = received[len(released) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


@pytest.mark.parametrize(
    ("pieces", "stops", "text"),
    [
        pytest.param(["one two"], (), "one two", id="without stop strings nothing is held back"),
        pytest.param(["on", "e t", "wo"], ("e two",), "on", id="a stop string across three pieces"),
        pytest.param(["ab", "ac"], ("abc", "ac"), "ab", id="a false start is given back"),
        pytest.param(["xabc"], ("bc", "abc"), "x", id="of two that end together the longer is cut"),
        pytest.param(["abcde"], ("bcd", "abcde"), "a", id="the one that is complete first wins"),
        pytest.param(["END"], ("END",), "", id="a text that is nothing but the stop string"),
        pytest.param(["EN"], ("END",), "EN", id="an incomplete stop string at the end is text"),
    ],
)
def test_text_before_the_stop_string(pieces, stops, text):
    assert "".join(push_all(pieces, stops)[0]) == text
