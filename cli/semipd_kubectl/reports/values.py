"""Parts that several reports share; JSON keys are the fields in camelCase."""

from __future__ import annotations

from datetime import UTC, datetime

from semipd_core.api.fields import PartitionSplit, ShareBounds
from semipd_core.api.partition import BandSpec
from semipd_core.api.service import DecisionRecord
from semipd_core.partition import Band, Partition
from semipd_core.telemetry import Wire
from semipd_kubectl.reports.reasons import meaning_of


class Split(Wire, frozen=True, kw_only=True):
    prefill_percent: int
    decode_percent: int

    def __str__(self) -> str:
        return f"{self.prefill_percent}/{self.decode_percent}"


class Range(Wire, frozen=True, kw_only=True):
    """Bounds or a band: caps in percent, inclusive."""

    prefill_min_percent: int
    prefill_max_percent: int
    decode_min_percent: int
    decode_max_percent: int

    def __str__(self) -> str:
        return (
            f"prefill {self.prefill_min_percent}..{self.prefill_max_percent} %, "
            f"decode {self.decode_min_percent}..{self.decode_max_percent} %"
        )

    @property
    def is_one_split(self) -> bool:
        return (
            self.prefill_min_percent == self.prefill_max_percent
            and self.decode_min_percent == self.decode_max_percent
        )


class DecisionReport(Wire, frozen=True, kw_only=True):
    """`time` is RFC 3339. `moved`: whether the split differs from the decision before; None for the oldest.

    `meaning`: of the reason, in words; None for a reason of a later release.
    """

    time: str
    decision_id: str
    partition: Split
    reason: str
    meaning: str | None
    message: str
    moved: bool | None


def split_of(split: PartitionSplit | Partition | None) -> Split | None:
    if split is None:
        return None
    return Split(prefill_percent=split.prefill_percent, decode_percent=split.decode_percent)


def range_of(given: ShareBounds | BandSpec | Band) -> Range:
    return Range(
        prefill_min_percent=given.prefill_min_percent,
        prefill_max_percent=given.prefill_max_percent,
        decode_min_percent=given.decode_min_percent,
        decode_max_percent=given.decode_max_percent,
    )


def decisions_of(records: tuple[DecisionRecord, ...]) -> list[DecisionReport]:
    """`records` and the answer are newest first."""
    older = [*records[1:], None][: len(records)]
    return [
        DecisionReport(
            time=record.time,
            decision_id=record.decision_id,
            partition=Split(
                prefill_percent=record.partition.prefill_percent,
                decode_percent=record.partition.decode_percent,
            ),
            reason=record.reason,
            meaning=meaning_of(record.reason),
            message=record.message,
            moved=None if before is None else record.partition != before.partition,
        )
        for record, before in zip(records, older, strict=True)
    ]


def unix_s(time: str) -> float | None:
    """Of an RFC 3339 time; None if it is none."""
    try:
        found = datetime.fromisoformat(time)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def age(time: str | None, now_s: float) -> str:
    """How long ago; ? if that is not known."""
    at_s = None if time is None else unix_s(time)
    if at_s is None:
        return "?"
    return _in_largest_unit(max(0, round(now_s - at_s)))


def left(time: str | None, now_s: float) -> str | None:
    """How long until then; None if that is over, or not known."""
    at_s = None if time is None else unix_s(time)
    return None if at_s is None or at_s <= now_s else _in_largest_unit(round(at_s - now_s))


def _in_largest_unit(seconds: int) -> str:
    """The largest that leaves two figures, as kubectl shows it."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
