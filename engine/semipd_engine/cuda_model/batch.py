"""A step plan as plain arrays, on the host: rows of one token first, then prompt chunks, each token where the kernels want it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from semipd_core import messages
from semipd_engine.cuda_model.block_tables import BlockTables, Ints

LAST_SAMPLED = (
    -1
)  # in place of a token id: the token that the slot's last step has sampled, known to the device alone
_HALF, _WHOLE = 1 << 63, 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    token_ids: Ints  # (tokens)
    positions: Ints  # (tokens)
    kv_slots: Ints  # (tokens): block * block_tokens + offset, where each token's key and value go
    slots: Ints  # (rows)
    contexts: Ints  # (rows): KV entries that the row's last token sees, itself included
    num_singles: int  # rows of one token, which come first
    token_starts: Ints  # (chunks + 1), from the first chunk's first token
    sampled: Ints  # (samples): the tokens whose logits are wanted
    sampled_slots: Ints  # (samples)
    sampled_rows: Sequence[int]  # the plan's row of each
    temperatures: npt.NDArray[np.float64]
    top_ps: npt.NDArray[np.float64]
    top_ks: Ints
    seeds: Ints  # modulo 2**64
    sample_positions: Ints  # those that the new tokens take in their sequences
    wants_logprobs: Sequence[bool]  # (samples)

    @property
    def num_chunks(self) -> int:
        return len(self.token_starts) - 1


def build_batch(rows: Sequence[messages.Row], tables: BlockTables) -> StepBatch:
    """The rows' blocks must have been applied to `tables`."""
    singles = [index for index, row in enumerate(rows) if row.num_tokens == 1]
    longer = [index for index, row in enumerate(rows) if row.num_tokens > 1]
    order = singles + longer
    lengths = np.array([rows[index].num_tokens for index in order], np.int64)
    starts = np.array([rows[index].start for index in order], np.int64)
    slots = np.array([rows[index].slot for index in order], np.int64)
    ends = lengths.cumsum()
    positions = np.arange(ends[-1]) - np.repeat(ends - lengths - starts, lengths)
    wanted = [place for place, index in enumerate(order) if rows[index].sampling is not None]
    samplings = [sampling for index in order if (sampling := rows[index].sampling) is not None]
    return StepBatch(
        token_ids=np.array([t for index in order for t in rows[index].tokens or [LAST_SAMPLED]], np.int64),
        positions=positions,
        kv_slots=tables.kv_slots(np.repeat(slots, lengths), positions),
        slots=slots,
        contexts=starts + lengths,
        num_singles=len(singles),
        token_starts=np.concatenate([[0], lengths[len(singles) :].cumsum()]),
        sampled=ends[wanted] - 1,
        sampled_slots=slots[wanted],
        sampled_rows=[order[place] for place in wanted],
        temperatures=np.array([sampling.temperature for sampling in samplings], np.float64),
        top_ps=np.array([sampling.top_p for sampling in samplings], np.float64),
        top_ks=np.array([sampling.top_k for sampling in samplings], np.int64),
        seeds=np.array([_signed(sampling.seed) for sampling in samplings], np.int64),
        sample_positions=(starts + lengths)[wanted],
        wants_logprobs=[sampling.logprob for sampling in samplings],
    )


def _signed(seed: int) -> int:
    return (seed + _HALF) % _WHOLE - _HALF
