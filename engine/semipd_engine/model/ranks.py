"""How the ranks of a lane put their parts together: what the decoder asks of a communicator, and the answer of a lone rank."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from semipd_engine.model.projection import Projection


class Ranks(Protocol):
    """One of `size` processes that compute the same batch, each on its shard, and make the same calls in the same order."""

    number: int
    size: int

    def sum(self, values: Tensor) -> Tensor:
        """The sum of all ranks' `values`, with every rank, in their place."""
        ...

    def gather_columns(self, values: Tensor) -> Tensor:
        """(rows, columns of each) to (rows, size * columns) with the first rank; the others keep their own."""
        ...

    def broadcast(self, values: Tensor) -> Tensor:
        """The first rank's `values`, with every rank, in their place."""
        ...

    def exchange(self, value: int) -> list[int]:
        """Every rank's `value`, by its number, on the host of every rank."""
        ...


class LoneRank:
    number = 0
    size = 1

    def sum(self, values: Tensor) -> Tensor:
        return values

    def gather_columns(self, values: Tensor) -> Tensor:
        return values

    def broadcast(self, values: Tensor) -> Tensor:
        return values

    def exchange(self, value: int) -> list[int]:
        return [value]


def add_product(residual: Tensor, values: Tensor, projection: Projection, ranks: Ranks) -> Tensor:
    """The residual plus the projected values: each rank has some of the columns of both, and the first brings the residual.

    residual: (tokens, hidden); values: (tokens, columns); projection: (hidden, columns).
    """
    part = projection.add_to(residual, values) if ranks.number == 0 else projection.apply(values)
    return ranks.sum(part)


def gather_logits(part: Tensor, vocab_size: int, ranks: Ranks) -> Tensor:
    """(rows, the rank's tokens of the vocabulary) to (rows, vocab), with the first rank.

    The last ranks may have fewer tokens than the others: they pad.
    """
    missing = -(-vocab_size // ranks.size) - part.shape[1]
    return ranks.gather_columns(F.pad(part, (0, missing)) if missing else part)[:, :vocab_size]
