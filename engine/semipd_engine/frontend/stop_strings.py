"""Where does a text end, given stop strings, when it arrives in pieces? Pure.

A text ends at the stop string that is complete first; of several complete at the same character, at the longest. So the
answer does not depend on how the text was split.
"""

from __future__ import annotations


class StopMatcher:
    """Holds back what may be the beginning of a stop string."""

    __slots__ = ("_held", "_stops", "matched")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.matched = False

    def push(self, text: str) -> str:
        """The text that is now certain to stay; nothing once a stop string has matched."""
        if self.matched:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        cut = find_stop(text, self._stops)
        self.matched = cut is not None
        if cut is None:
            cut = len(text) - _possible_stop_length(text, self._stops)
        self._held = "" if self.matched else text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """The rest: no more text comes."""
        text, self._held = self._held, ""
        return text


def find_stop(text: str, stops: tuple[str, ...]) -> int | None:
    """Where the text is cut, or None."""
    found = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    return min(found)[1] if found else None


def _possible_stop_length(text: str, stops: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that is the beginning of a stop string."""
    longest = min(len(text), max(map(len, stops)) - 1)
    return next(
        (size for size in range(longest, 0, -1) if any(stop.startswith(text[-size:]) for stop in stops)), 0
    )
