"""Block tables on the device, of one width, kept up to date by deltas; and their mirror on the host.

One row more than there are slots: what pads a batch has the last one, whose blocks are all the null block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from semipd_core import messages

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deltas:
    """New entries of the tables: `blocks[i]` goes to `places[i]` of the flattened tables."""

    places: Ints
    blocks: Ints

    def __len__(self) -> int:
        return len(self.places)


class BlockTables:
    def __init__(
        self, *, num_slots: int, max_context_tokens: int, block_tokens: int, device: torch.device
    ) -> None:
        self.block_tokens = block_tokens
        self.padding_slot = num_slots
        self.width = -(-max_context_tokens // block_tokens)
        self._host = np.zeros((num_slots + 1, self.width), np.int32)
        self._device = torch.zeros((num_slots + 1, self.width), dtype=torch.int32, device=device)

    def apply(self, rows: Sequence[messages.Row]) -> Deltas:
        """Append the rows' new blocks to the mirror; what is returned is still to be written on the device.

        Raises: ValueError for a row that does not fit.
        """
        places: list[Ints] = []
        blocks: list[int] = []
        for row in rows:
            end = row.blocks_from + len(row.blocks)
            if end > self.width or not 0 <= row.slot < self.padding_slot:
                raise ValueError(
                    f"row of slot {row.slot} with {end} blocks; allowed: slots below {self.padding_slot}, "
                    f"{self.width} blocks"
                )
            if row.blocks:
                first = row.slot * self.width
                self._host[row.slot, row.blocks_from : end] = row.blocks
                places.append(np.arange(first + row.blocks_from, first + end, dtype=np.int64))
                blocks += row.blocks
        return Deltas(
            places=np.concatenate(places) if places else np.zeros(0, np.int64),
            blocks=np.array(blocks, np.int64),
        )

    def write(self, places: Tensor, blocks: Tensor) -> None:
        """places: int64; blocks: int32; both on the device."""
        self._device.view(-1).index_copy_(0, places, blocks)

    def gather(self, slots: Tensor) -> Tensor:
        """(rows, width) int32. slots: (rows) int64, on the device."""
        return self._device.index_select(0, slots)

    def blocks(self, slots: Ints, counts: Ints) -> Ints:
        """The first `counts[i]` blocks of slot `slots[i]`, one row after the other, from the host's mirror."""
        starts = counts.cumsum() - counts
        places = np.arange(counts.sum()) - np.repeat(starts, counts)
        blocks: Ints = self._host[np.repeat(slots, counts), places].astype(np.int64)
        return blocks

    def kv_slots(self, slots: Ints | int, positions: Ints) -> Ints:
        """Where the tokens at `positions` lie: block id * block_tokens + offset."""
        blocks: Ints = self._host[slots, positions // self.block_tokens].astype(np.int64)
        return blocks * self.block_tokens + positions % self.block_tokens
