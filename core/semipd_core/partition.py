"""A partition: the pair of SM caps of the prefill and decode lanes, and the band a node may move it in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a lane executes. MIXED is the single lane of `Unified`."""

    PREFILL = "prefill"
    DECODE = "decode"
    MIXED = "mixed"


class Isolation(StrEnum):
    """How shares are kept apart (design: Isolation back-ends)."""

    MPS = "MPS"  # a lane process per role, its cap fixed at start: a change replaces the lane
    GREEN_CONTEXT = "GreenContext"  # the cap is read at each turn: no restart
    NONE = "None"  # two lanes, no caps: the (100, 100) baseline
    UNIFIED = "Unified"  # one lane, chunked prefill mixed with decode

    @property
    def roles(self) -> tuple[Role, ...]:
        return (Role.MIXED,) if self is Isolation.UNIFIED else (Role.PREFILL, Role.DECODE)

    @property
    def replaces_lanes(self) -> bool:
        """Whether a change of share starts a new lane process."""
        return self is Isolation.MPS


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Caps in percent of the device's SMs, each 1..100. Sums above 100 are legal: the lanes then compete."""

    prefill_percent: int
    decode_percent: int

    def __post_init__(self) -> None:
        for name in ("prefill_percent", "decode_percent"):
            value = getattr(self, name)
            if not 1 <= value <= 100:
                raise ValueError(f"{name} is {value}, allowed: 1..100")

    def percent(self, role: Role) -> int:
        """The cap of `role`; the mixed lane has the whole device."""
        if role is Role.MIXED:
            return 100
        return self.prefill_percent if role is Role.PREFILL else self.decode_percent

    def __str__(self) -> str:
        return f"({self.prefill_percent}, {self.decode_percent})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The caps inside which a node may move by itself, inclusive, in percent."""

    prefill_min_percent: int
    prefill_max_percent: int
    decode_min_percent: int
    decode_max_percent: int

    def holds(self, partition: Partition) -> bool:
        return (
            self.prefill_min_percent <= partition.prefill_percent <= self.prefill_max_percent
            and self.decode_min_percent <= partition.decode_percent <= self.decode_max_percent
        )

    def encloses(self, other: Band) -> bool:
        return (
            self.prefill_min_percent <= other.prefill_min_percent
            and other.prefill_max_percent <= self.prefill_max_percent
            and self.decode_min_percent <= other.decode_min_percent
            and other.decode_max_percent <= self.decode_max_percent
        )

    def hull(self, other: Band) -> Band:
        """The smallest band that encloses both."""
        return Band(
            prefill_min_percent=min(self.prefill_min_percent, other.prefill_min_percent),
            prefill_max_percent=max(self.prefill_max_percent, other.prefill_max_percent),
            decode_min_percent=min(self.decode_min_percent, other.decode_min_percent),
            decode_max_percent=max(self.decode_max_percent, other.decode_max_percent),
        )

    def clamp(self, partition: Partition) -> Partition:
        return Partition(
            prefill_percent=min(
                max(partition.prefill_percent, self.prefill_min_percent), self.prefill_max_percent
            ),
            decode_percent=min(
                max(partition.decode_percent, self.decode_min_percent), self.decode_max_percent
            ),
        )

    @classmethod
    def only(cls, partition: Partition) -> Band:
        """The band that holds one partition alone."""
        return cls(
            prefill_min_percent=partition.prefill_percent,
            prefill_max_percent=partition.prefill_percent,
            decode_min_percent=partition.decode_percent,
            decode_max_percent=partition.decode_percent,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the cluster loop asks of an engine: a target now, and the band inside which the node may answer bursts.

    `pinned` is a wish by hand: both loops leave it alone until it is released.
    """

    target: Partition
    band: Band
    decision_id: str
    reason: str
    message: str
    pinned: bool = False
