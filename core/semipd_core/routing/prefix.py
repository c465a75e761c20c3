"""Prompt prefixes as chains of hashes, and who has seen which. Approximate: what an engine has evicted meanwhile is not known."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import msgspec

BLOCK_BYTES = 256  # of JSON text, some 64 tokens: less would not pay for an uneven load
MAX_BLOCKS = 64
HASHES_KEPT = 50_000
HOLDERS_KEPT = 4  # of a prefix, the latest


class _Prompt(msgspec.Struct, frozen=True):
    """The parts of a request body that a prompt is rendered from, in the order of templates."""

    tools: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()


def read_prefix(body: bytes) -> list[int]:
    """The chain of hashes of a request body (JSON, OpenAI's completions or chat); empty if there is no whole block of a prompt.

    Two bodies share the first n hashes if the first n × BLOCK_BYTES bytes of their prompts are the same.
    """
    try:
        found = msgspec.json.decode(body, type=_Prompt)
    except msgspec.MsgspecError:
        return []  # the engine says what is wrong with it
    return chain(b"".join(map(bytes, (found.tools, found.messages, found.prompt))))


def chain(text: bytes) -> list[int]:
    """64-bit hashes of the first 1, 2, … whole blocks of `text`."""
    ends = range(0, min(len(text), MAX_BLOCKS * BLOCK_BYTES) + 1, BLOCK_BYTES)
    hasher = hashlib.blake2b(digest_size=8)
    hashes = []
    for start, end in pairwise(ends):
        hasher.update(text[start:end])
        hashes.append(int.from_bytes(hasher.digest(), "big"))
    return hashes


class PrefixIndex:
    """Who was given which prefix, the latest HASHES_KEPT blocks of them. Mutable, not thread-safe."""

    def __init__(self, capacity: int = HASHES_KEPT) -> None:
        self._holders: OrderedDict[int, tuple[str, ...]] = OrderedDict()
        self._capacity = capacity

    def __len__(self) -> int:
        return len(self._holders)

    def matches(self, hashes: Sequence[int]) -> dict[str, int]:
        """By name, how many blocks of the chain it has seen."""
        found: dict[str, int] = {}
        for number, each in enumerate(hashes, 1):
            holders = self._holders.get(each)
            if holders is None:
                break
            for name in holders:
                found[name] = number
        return found

    def record(self, hashes: Sequence[int], name: str) -> None:
        """`name` is given a prompt with this chain."""
        for each in reversed(hashes):  # the first block outlives the later ones
            others = tuple(holder for holder in self._holders.get(each, ()) if holder != name)
            self._holders[each] = (name, *others)[:HOLDERS_KEPT]
            self._holders.move_to_end(each)
        while len(self._holders) > self._capacity:
            self._holders.popitem(last=False)

    def forget(self, name: str) -> None:
        """It is gone, and its cache with it."""
        for each, holders in list(self._holders.items()):
            if name in holders:
                left = tuple(holder for holder in holders if holder != name)
                if left:
                    self._holders[each] = left
                else:
                    del self._holders[each]
