"""Which block holds which prefix: full blocks by the chained hash of their tokens, idle ones in order of last use.

No two equal blocks are merged; the first one published under a hash stays.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice

HASH_BYTES = 16


def extend_hashes(hashes: list[bytes], tokens: Sequence[int], block_tokens: int) -> None:
    """Append the hashes of the full blocks of `tokens` that `hashes` lacks: h_i = blake2b(h_(i-1), tokens of block i)."""
    for index in range(len(hashes), len(tokens) // block_tokens):
        block = array("q", tokens[index * block_tokens : (index + 1) * block_tokens])
        parent = hashes[-1] if hashes else b""
        hashes.append(hashlib.blake2b(block.tobytes(), key=parent, digest_size=HASH_BYTES).digest())


class PrefixCache:
    """Knows published blocks. `park` and `unpark` say which of them are idle, that is open to eviction."""

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, block: int) -> bool:
        return block in self._hash_of

    @property
    def num_idle(self) -> int:
        return len(self._idle)

    def is_idle(self, block: int) -> bool:
        return block in self._idle

    def match(self, hashes: Sequence[bytes], max_blocks: int) -> list[int]:
        """The blocks of the longest cached prefix, of at most `max_blocks` blocks."""
        found = []
        for digest in islice(hashes, max_blocks):
            block = self._block_of.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def publish(self, digest: bytes, block: int) -> None:
        if digest not in self._block_of and block not in self._hash_of:
            self._block_of[digest] = block
            self._hash_of[block] = digest

    def park(self, block: int) -> None:
        self._idle[block] = None

    def unpark(self, block: int) -> None:
        del self._idle[block]

    def evict(self) -> int:
        """Forget the idle block that was used longest ago and return it."""
        block, _ = self._idle.popitem(last=False)
        del self._block_of[self._hash_of.pop(block)]
        return block

    def check_integrity(self) -> None:
        assert {block: digest for digest, block in self._block_of.items()} == self._hash_of
        assert self._idle.keys() <= self._hash_of.keys(), "an idle block is not published"
