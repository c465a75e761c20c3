"""Which front end gets the next request? Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True, eq=False, kw_only=True)
class Upstream:
    """A front end as the proxy knows it."""

    index: int
    socket_path: str
    ready: bool = False  # as it said last
    num_open: int = 0  # requests of ours that it has not finished
    num_served: int = 0


def order_of_choice(upstreams: Iterable[Upstream]) -> list[Upstream]:
    """Ready before not ready, then the fewest open requests, then the fewest served so that equals take turns.

    One that is not ready stays a last resort: if it waits for its coordinator, it keeps requests until that is back.
    """
    return sorted(upstreams, key=lambda one: (not one.ready, one.num_open, one.num_served, one.index))
