"""The KV block pool: the only allocator of an engine.

Two lanes run unordered steps over the same blocks, so a released block may still be read or written by a step in flight.
It carries a fence (lane, epoch) and is handed out again only when that lane has completed the epoch or is confirmed gone.
Source: engine reference §3, "the race single-stream engines do not have".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from semipd_core.engine.prefix_cache import PrefixCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """The last planned step that refers to some blocks."""

    lane: int  # serial number: names may come again, these do not
    epoch: int


class BlockPool:
    """A block is referenced, or fenced, or available: free, or idle in the prefix cache. Block 0 is none of these."""

    def __init__(self, num_blocks: int, cache: PrefixCache | None) -> None:
        self._cache = cache
        self._free = deque(range(1, num_blocks))
        self._references = [0] * num_blocks
        self._fences = [0] * num_blocks  # open fences per block
        self._completed: dict[int, int] = {}  # lane -> epoch
        self._fenced: dict[int, dict[int, list[int]]] = {}  # lane -> epoch -> blocks
        self._num_fenced_idle = 0

    @property
    def num_total(self) -> int:
        return len(self._references) - 1

    @property
    def num_cached(self) -> int:
        return self._cache.num_idle if self._cache else 0

    @property
    def num_available(self) -> int:
        return len(self._free) + self.num_cached

    @property
    def num_fenced(self) -> int:
        """Blocks without an owner that become available once steps in flight have ended."""
        return self._num_fenced_idle

    @property
    def num_used(self) -> int:
        return self.num_total - self.num_available

    def match(self, hashes: Sequence[bytes], max_blocks: int) -> list[int]:
        return self._cache.match(hashes, max_blocks) if self._cache else []

    def is_available(self, block: int) -> bool:
        """Whether sharing this cached block uses up an available one."""
        return self._cache is not None and self._cache.is_idle(block)

    def share(self, blocks: Sequence[int]) -> None:
        """Add a reference to cached blocks (from `match`)."""
        for block in blocks:
            if self._references[block] == 0:
                self._leave_idle(block)
            self._references[block] += 1

    def take(self, count: int) -> list[int]:
        """`count` blocks with nobody's content, idle prefixes last. The caller has checked `num_available`."""
        assert count <= self.num_available, f"{count} blocks wanted, {self.num_available} available"
        blocks = [self._take_one() for _ in range(count)]
        for block in blocks:
            self._references[block] = 1
        return blocks

    def publish(self, digest: bytes, block: int) -> None:
        """Offer a block whose content is complete and final to later prompts."""
        if self._cache is not None:
            self._cache.publish(digest, block)

    def release(self, blocks: Sequence[int], fence: Fence | None) -> None:
        """Give up one reference to each block; the ends of prefixes become the first to be evicted."""
        fenced = self._open_list(fence)
        for block in reversed(blocks):
            self._references[block] -= 1
            if fenced is not None:
                self._fences[block] += 1
                fenced.append(block)
            if self._references[block] == 0:
                self._become_idle(block)

    def open_lane(self, lane: int) -> None:
        self._completed[lane] = 0
        self._fenced[lane] = {}

    def complete(self, lane: int, epoch: int) -> None:
        self._completed[lane] = epoch
        self._lift(self._fenced[lane].pop(epoch, ()))

    def close_lane(self, lane: int) -> None:
        """The lane can write no more: lift its fences."""
        self._completed.pop(lane, None)
        for blocks in self._fenced.pop(lane, {}).values():
            self._lift(blocks)

    def _open_list(self, fence: Fence | None) -> list[int] | None:
        if fence is None or self._completed.get(fence.lane, fence.epoch) >= fence.epoch:
            return None
        return self._fenced[fence.lane].setdefault(fence.epoch, [])

    def _lift(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            self._fences[block] -= 1
            if self._fences[block] == 0 and self._references[block] == 0:
                self._num_fenced_idle -= 1
                self._make_available(block)

    def _become_idle(self, block: int) -> None:
        if self._fences[block]:
            self._num_fenced_idle += 1
        else:
            self._make_available(block)

    def _leave_idle(self, block: int) -> None:
        assert self._cache is not None, "shared blocks come from the prefix cache"
        if self._fences[block]:
            self._num_fenced_idle -= 1
        else:
            self._cache.unpark(block)

    def _make_available(self, block: int) -> None:
        if self._cache is not None and block in self._cache:
            self._cache.park(block)
        else:
            self._free.append(block)

    def _take_one(self) -> int:
        if self._free:
            return self._free.popleft()
        assert self._cache is not None, "nothing free and no cache"
        return self._cache.evict()

    def check_integrity(self, references: Sequence[int]) -> None:
        """`references`: how many owners each block has, counted by the caller."""
        assert self._references == list(references), "reference counts differ from owners"
        fences = [0] * len(self._fences)
        for epochs in self._fenced.values():
            for blocks in epochs.values():
                for block in blocks:
                    fences[block] += 1
        assert fences == self._fences, "fence counts differ from fences"
        free = set(self._free)
        assert len(free) == len(self._free), "a block is free twice"
        fenced_idle = 0
        for block in range(1, len(self._references)):
            idle = self._cache is not None and self._cache.is_idle(block)
            held = self._references[block] > 0
            fenced_idle += not held and self._fences[block] > 0
            places = (block in free) + idle + held + (not held and self._fences[block] > 0)
            assert places == 1, f"block {block} is in {places} places"
        assert fenced_idle == self._num_fenced_idle, "count of fenced blocks"
        assert 0 not in free, "the null block is free"
        if self._cache is not None:
            self._cache.check_integrity()
