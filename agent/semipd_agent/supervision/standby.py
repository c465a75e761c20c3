"""Lanes kept warm at other shares: what is known when that is decided, and what is decided. Bytes, seconds, permille."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from semipd_core.partition import Partition


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyFacts:
    """`free_bytes`: of the memory that lanes take, the GPU's or the host's; None: nobody knows."""

    lanes_max: int = 0  # 0: no lane is kept
    max_age_s: float = 0.0
    free_bytes: int | None = None
    wished: tuple[Partition, ...] = ()  # lately, the latest first

    @property
    def is_on(self) -> bool:
        return self.lanes_max > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbyChoice:
    """Lane ids. Lanes in neither are no standbys: what becomes of them is the other rules' business."""

    kept: frozenset[str] = frozenset()
    dropped: Mapping[str, str] = field(default_factory=dict)  # with the reason
