"""A step plan as tensors: tokens of all rows one after the other, single-token rows first, and what attention reads for each.

Everything here is computed once per step and used by every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from semipd_core import messages
from semipd_engine.model.block_tables import BlockTables

GROUP_WASTE_MAX = 1.25  # padded KV entries per real one, in a group of decode rows
GROUP_ENTRIES_MAX = 65_536  # KV entries that one group gathers at most, unless a single row has more


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeGroup:
    """Rows of one token each, computed in one call; shorter contexts are padded with block 0 and masked."""

    first: int  # tokens [first, last) of the batch
    last: int
    blocks: Tensor  # (planes * rows * blocks) int64: rows of a layer's KV, all keys, then all values
    mask: Tensor  # (rows, 1, 1, blocks * block_tokens), 0 or -inf, in the dtype of the model


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptChunk:
    """Consecutive tokens of one sequence. One that starts at 0 reads nothing but itself: blocks and mask are None."""

    first: int
    last: int
    context_tokens: int  # KV entries that the last token sees, itself included
    blocks: Tensor | None  # as in DecodeGroup
    mask: Tensor | None  # (last - first, context_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    token_ids: Tensor  # (tokens) int64
    positions: Tensor  # (tokens) int64
    kv_slots: Tensor  # (tokens) int64: block * block_tokens + offset, where each token's key and value go
    groups: Sequence[DecodeGroup]
    chunks: Sequence[PromptChunk]
    sampled: Tensor  # (samples) int64: the tokens whose logits are wanted
    sampled_rows: Sequence[int]  # the plan's row of each

    @property
    def num_singles(self) -> int:
        """Rows of one token, which come first."""
        return self.groups[-1].last if self.groups else 0


def build_batch(
    rows: Sequence[messages.Row],
    tables: BlockTables,
    num_blocks: int,
    dtype: torch.dtype,
    *,
    kv_planes: int = 2,
) -> Batch:
    """The rows' block deltas must have been applied to `tables`. kv_planes: 2 of keys and values, 1 of latents."""
    singles = [index for index, row in enumerate(rows) if row.num_tokens == 1]
    singles.sort(key=lambda index: rows[index].start)
    longer = [index for index, row in enumerate(rows) if row.num_tokens > 1]
    ordered = singles + longer
    ends = np.cumsum([rows[index].num_tokens for index in ordered])
    positions = [_positions(rows[index]) for index in ordered]
    slots = [tables.kv_slots(rows[index].slot, at) for index, at in zip(ordered, positions, strict=True)]
    wanted = [
        (end - 1, index) for end, index in zip(ends, ordered, strict=True) if rows[index].sampling is not None
    ]
    reader = _KvReader(tables, num_blocks, dtype, kv_planes)
    return Batch(
        token_ids=torch.tensor([token for index in ordered for token in tables.tokens(rows[index])]),
        positions=torch.from_numpy(np.concatenate(positions)),
        kv_slots=torch.from_numpy(np.concatenate(slots)),
        groups=_build_groups([rows[index] for index in singles], reader),
        chunks=[
            reader.chunk(rows[index], int(end))
            for index, end in zip(longer, ends[len(singles) :], strict=True)
        ],
        sampled=torch.tensor([int(end) for end, _ in wanted], dtype=torch.int64),
        sampled_rows=[index for _, index in wanted],
    )


def group_by_length(lengths: Sequence[int]) -> list[slice]:
    """Cut ascending lengths into runs whose padding to the longest wastes little and whose gathered KV stays small."""
    groups: list[slice] = []
    first, total = 0, 0
    for index, length in enumerate(lengths):
        padded = length * (index - first + 1)
        is_wasteful = padded > GROUP_WASTE_MAX * (total + length) or padded > GROUP_ENTRIES_MAX
        if index > first and is_wasteful:
            groups.append(slice(first, index))
            first, total = index, 0
        total += length
    return [*groups, slice(first, len(lengths))] if lengths else []


def _positions(row: messages.Row) -> npt.NDArray[np.int64]:
    return np.arange(row.start, row.start + row.num_tokens, dtype=np.int64)


def _build_groups(rows: Sequence[messages.Row], reader: _KvReader) -> list[DecodeGroup]:
    return [reader.group(rows[part], part.start) for part in group_by_length([row.start + 1 for row in rows])]


@dataclass(frozen=True, slots=True)
class _KvReader:
    tables: BlockTables
    num_blocks: int
    dtype: torch.dtype
    kv_planes: int

    def group(self, rows: Sequence[messages.Row], first: int) -> DecodeGroup:
        contexts = np.array([row.start + 1 for row in rows])
        width = -(-int(contexts.max()) // self.tables.block_tokens)
        blocks = np.zeros((len(rows), width), np.int64)
        for index, row in enumerate(rows):
            held = self.tables.blocks(row.slot, row.start + 1)
            blocks[index, : len(held)] = held
        is_hidden = np.arange(width * self.tables.block_tokens) >= contexts[:, None]
        return DecodeGroup(
            first=first,
            last=first + len(rows),
            blocks=self._all_planes(blocks.ravel()),
            mask=self._mask(is_hidden)[:, None, None, :],
        )

    def chunk(self, row: messages.Row, last: int) -> PromptChunk:
        first, context = last - row.num_tokens, row.start + row.num_tokens
        if row.start == 0:
            return PromptChunk(first=first, last=last, context_tokens=context, blocks=None, mask=None)
        blocks = self.tables.blocks(row.slot, context).astype(np.int64)
        return PromptChunk(
            first=first,
            last=last,
            context_tokens=context,
            blocks=self._all_planes(blocks),
            mask=self._mask(np.arange(context) > _positions(row)[:, None]),
        )

    def _all_planes(self, blocks: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(
            np.concatenate([blocks + plane * self.num_blocks for plane in range(self.kv_planes)])
        )

    def _mask(self, is_hidden: npt.NDArray[np.bool_]) -> Tensor:
        return torch.zeros(is_hidden.shape, dtype=self.dtype).masked_fill_(
            torch.from_numpy(is_hidden), float("-inf")
        )
