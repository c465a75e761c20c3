"""What a lane knows of the coordinator's KV blocks: one row of block ids per slot, kept up to date by deltas."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from semipd_core import messages

Ints = npt.NDArray[np.int64]


class BlockTables:
    def __init__(self, *, num_slots: int, max_context_tokens: int, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.max_context_tokens = max_context_tokens
        max_blocks = -(-max_context_tokens // block_tokens)
        self._blocks = np.zeros((num_slots, max_blocks), np.int32)
        self._last_tokens = np.zeros(num_slots, np.int64)

    def apply(self, row: messages.Row) -> None:
        """Append the row's new blocks."""
        end = row.blocks_from + len(row.blocks)
        self._blocks[row.slot, row.blocks_from : end] = row.blocks

    def blocks(self, slot: int, context_tokens: int) -> npt.NDArray[np.int32]:
        """The ids of the blocks that hold the first `context_tokens` tokens."""
        return self._blocks[slot, : -(-context_tokens // self.block_tokens)]

    def kv_slots(self, slot: int, positions: Ints) -> Ints:
        """Where the tokens at `positions` lie: block id * block_tokens + offset."""
        blocks: Ints = self._blocks[slot, positions // self.block_tokens].astype(np.int64)
        return blocks * self.block_tokens + positions % self.block_tokens

    def tokens(self, row: messages.Row) -> list[int]:
        """The row's tokens; of a run-ahead row the one sampled last for its slot."""
        return row.tokens or [int(self._last_tokens[row.slot])]

    def remember(self, slot: int, token: int) -> None:
        self._last_tokens[slot] = token
