"""Step plans without requests: a load becomes rows over blocks that nobody owns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from semipd_core import messages
from semipd_core.profile.format import StepLoad

TOKEN_STRIDE = 7919  # prime: neighbouring tokens differ, as embeddings and experts are read


def build_plans(
    load: StepLoad, *, blocks: Sequence[int], block_tokens: int, vocab_size: int
) -> Iterator[messages.StepPlan]:
    """The same step again and again; the first one also tells the lane its block tables, as a coordinator's deltas do.

    Each row has blocks of its own, as long as `blocks` suffice: caches must not flatter a context.
    """
    per_row = -(-(load.context_tokens + load.tokens) // block_tokens)
    tokens = [TOKEN_STRIDE * index % vocab_size for index in range(load.tokens)]
    held = [
        [blocks[(row * per_row + index) % len(blocks)] for index in range(per_row)]
        for row in range(load.rows)
    ]
    epoch = 1
    while True:
        rows = [
            messages.Row(
                slot=slot,
                start=load.context_tokens,
                tokens=tokens,
                blocks_from=0 if epoch == 1 else per_row,
                blocks=held[slot] if epoch == 1 else [],
                sampling=messages.Sampling(),
            )
            for slot in range(load.rows)
        ]
        yield messages.StepPlan(epoch=epoch, rows=rows, request_ids=[""] * load.rows)
        epoch += 1
