"""Between a wish and its form on the wire."""

from __future__ import annotations

import msgspec

from semipd_core.agent_config import BandWire, PartitionWire, WishWire
from semipd_core.partition import Band, Partition, Wish


def from_wire(wire: WishWire) -> Wish:
    """Without a band, the target alone."""
    target = Partition(**msgspec.structs.asdict(wire.target))
    return Wish(
        target=target,
        band=Band.only(target) if wire.band is None else Band(**msgspec.structs.asdict(wire.band)),
        decision_id=wire.decision_id,
        reason=wire.reason,
        message=wire.message,
        pinned=wire.pinned,
    )


def to_wire(wish: Wish) -> WishWire:
    target, band = wish.target, wish.band
    return WishWire(
        target=PartitionWire(prefill_percent=target.prefill_percent, decode_percent=target.decode_percent),
        band=BandWire(
            prefill_min_percent=band.prefill_min_percent,
            prefill_max_percent=band.prefill_max_percent,
            decode_min_percent=band.decode_min_percent,
            decode_max_percent=band.decode_max_percent,
        ),
        decision_id=wish.decision_id,
        reason=wish.reason,
        message=wish.message,
        pinned=wish.pinned,
    )
