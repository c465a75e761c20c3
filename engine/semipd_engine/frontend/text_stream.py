"""From token ids to text, one token at a time. The concatenated pieces are the text, streamed or not."""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from semipd_engine.frontend.stop_strings import StopMatcher


class Detokenizer:
    """Text of a growing token sequence; special tokens have none. Incomplete UTF-8 waits for its remaining tokens."""

    __slots__ = ("_context", "_pending", "_stream", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._context: list[
            int
        ] = []  # tokens of the last piece: decoders treat the start of a text differently
        self._pending: list[int] = []  # tokens whose text is not out yet

    def push(self, token: int) -> str:
        self._pending.append(token)
        try:
            piece = self._stream.step(self._tokenizer, token)
        except Exception:
            # The library raises plain Exception where byte-fallback tokens change text that is already out.
            piece = self._pending_text()
            self._stream = DecodeStream(ids=[token], skip_special_tokens=True)
        if piece is None:
            return ""
        self._context, self._pending = self._pending, []
        return piece

    def flush(self) -> str:
        """What is left at the end, incomplete characters as U+FFFD."""
        text = self._pending_text() if self._pending else ""
        self._pending = []
        return text

    def _pending_text(self) -> str:
        before = self._tokenizer.decode(self._context, skip_special_tokens=True)
        both = self._tokenizer.decode(self._context + self._pending, skip_special_tokens=True)
        if both.startswith(before):
            return both[len(before) :]
        return self._tokenizer.decode(self._pending, skip_special_tokens=True)


class TextStream:
    """Tokens in, text out, cut before the first stop string (`stopped`)."""

    __slots__ = ("_detokenizer", "_matcher")

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...]) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._matcher = StopMatcher(stops)

    @property
    def stopped(self) -> bool:
        return self._matcher.matched

    def push(self, token: int) -> str:
        return self._matcher.push(self._detokenizer.push(token))

    def finish(self) -> str:
        """The text that was held back. May still find a stop string."""
        text = self._matcher.push(self._detokenizer.flush())
        return text if self.stopped else text + self._matcher.flush()
