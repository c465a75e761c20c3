"""The journal's entries: JSON lines, the first of which names the version of the rest."""

from __future__ import annotations

import msgspec

from semipd_core.agent_config import PartitionWire, SwitchStatus, WishWire
from semipd_core.partition import Isolation, Role

VERSION = 1


class Entry(msgspec.Struct, frozen=True, rename="camel", tag_field="entry", tag=True, kw_only=True):
    """Base of all entries; `entry` holds the class name."""


class Opened(Entry, frozen=True, kw_only=True):
    version: int = VERSION


class Starting(Entry, frozen=True, kw_only=True):
    """A process is about to be started or forked. `process` is its name, unique among the living."""

    process: str
    lane_role: Role | None = None  # lanes only
    percent: int | None = None  # lanes only: the share requested


class Started(Entry, frozen=True, kw_only=True):
    process: str
    pid: int
    start_ticks: int
    boot_id: str


class Exited(Entry, frozen=True, kw_only=True):
    """The exit is confirmed and whoever must know of it does."""

    process: str


class WishTaken(Entry, frozen=True, kw_only=True):
    wish: WishWire
    engine_ids: list[str]
    is_open: bool = True  # not concluded yet


class SwitchBegun(Entry, frozen=True, kw_only=True):
    engine_id: str
    switch: SwitchStatus


class SwapSending(Entry, frozen=True, kw_only=True):
    """From here the switch is finished, not rolled back."""

    engine_id: str


class SwitchEffective(Entry, frozen=True, kw_only=True):
    engine_id: str
    seconds: float


class SwitchRollingBack(Entry, frozen=True, kw_only=True):
    engine_id: str


class SwitchEnded(Entry, frozen=True, kw_only=True):
    """`is_open` keeps the wish open: the switch is tried again."""

    engine_id: str
    switch: SwitchStatus
    is_open: bool = False


class SharesInForce(Entry, frozen=True, kw_only=True):
    engine_id: str
    partition: PartitionWire


class IsolationChosen(Entry, frozen=True, kw_only=True):
    """By the probe at start, for as long as this journal is kept."""

    isolation: Isolation
    reason: str
    message: str


AnyEntry = (
    Opened
    | Starting
    | Started
    | Exited
    | WishTaken
    | SwitchBegun
    | SwapSending
    | SwitchEffective
    | SwitchRollingBack
    | SwitchEnded
    | SharesInForce
    | IsolationChosen
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEntry] = msgspec.json.Decoder(AnyEntry)


def encode(entry: Entry) -> bytes:
    return _encoder.encode(entry) + b"\n"


def decode(line: bytes) -> AnyEntry:
    """Raises: msgspec.MsgspecError."""
    return _decoder.decode(line)
