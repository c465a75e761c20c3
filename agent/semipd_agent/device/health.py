"""In what state are the pod's GPUs, and what may run on them? Pure: a view in, a verdict with its reason out.

The gravest state of any GPU is that of all: an engine's lanes use every GPU of its pod.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from semipd_agent.device.facts import DeviceUnit
from semipd_agent.device.reading import GpuReading
from semipd_agent.device.xid import ReactionKind

MISSES_UNTIL_LOST = 3  # looks in a row that did not find the GPU, where NVML does not say that it is lost
LOST_FOR_S = 30.0  # after Xid 79 NVML may answer for a while
SILENT_AFTER_S = 30.0


class GpuState(StrEnum):
    HEALTHY = "Healthy"
    DEGRADED = "Degraded"  # told, and nothing else
    UNHEALTHY = "Unhealthy"  # no new requests and no new split; open requests go on
    NEEDS_RESET = "NeedsReset"  # as Unhealthy, and nothing starts
    NO_DRIVER = "NoDriver"  # what runs goes on, nothing starts
    LOST = "Lost"  # everything on the GPU ends, nothing starts


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """An Xid that still counts. `uuid` is "" where it is not known which GPU it was."""

    uuid: str
    kind: ReactionKind
    reason: str
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuView:
    """`missing`: UUIDs that were there once and that the last looks did not find."""

    units: tuple[DeviceUnit, ...] = ()
    readings: tuple[GpuReading, ...] = ()
    missing: tuple[str, ...] = ()
    misses: int = 0  # looks in a row with any missing
    says_lost: bool = False  # NVML, of any GPU, in the last look
    error: str | None = None  # why the last look read nothing
    silent_s: float = 0.0  # since the last look ended
    marks: tuple[Mark, ...] = ()
    now_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuVerdict:
    """`uuids`: of the GPUs that are meant; empty where that is not known, or nothing is wrong."""

    state: GpuState
    reason: str
    uuids: tuple[str, ...] = ()

    @property
    def is_cordoned(self) -> bool:
        """No new requests."""
        return self.state in (GpuState.UNHEALTHY, GpuState.NEEDS_RESET, GpuState.LOST)

    @property
    def switch_hold(self) -> str | None:
        """Why no split moves."""
        return self.reason if self.is_cordoned or self.state is GpuState.NO_DRIVER else None

    @property
    def start_hold(self) -> str | None:
        """Why nothing that uses the GPU starts."""
        held = (GpuState.NEEDS_RESET, GpuState.NO_DRIVER, GpuState.LOST)
        return self.reason if self.state in held else None

    @property
    def must_end(self) -> str | None:
        """Why what uses the GPU must end."""
        return self.reason if self.state is GpuState.LOST else None


Rule = Callable[[GpuView], GpuVerdict | None]


def decide(view: GpuView) -> GpuVerdict:
    return next(verdict for rule in RULES if (verdict := rule(view)) is not None)


def outlives(mark: Mark, view: GpuView) -> bool:
    """Whether `mark` still counts: a lost GPU that answers for a while is back, no other Xid is forgotten."""
    is_seen = not view.missing and not view.says_lost and view.error is None
    return not (mark.kind is ReactionKind.LOST and is_seen and view.now_s - mark.at_s > LOST_FOR_S)


def lost(view: GpuView) -> GpuVerdict | None:
    if marks := _of(view, ReactionKind.LOST):
        return _by_xid(GpuState.LOST, marks)
    names = ", ".join(view.missing)
    if view.missing and (view.says_lost or view.misses >= MISSES_UNTIL_LOST):
        said = "NVML says that it is lost" if view.says_lost else "NVML no longer finds it"
        return GpuVerdict(state=GpuState.LOST, reason=f"{names}: {said}", uuids=view.missing)
    if view.says_lost and not view.units:
        return GpuVerdict(state=GpuState.LOST, reason="NVML says that the GPU is lost")
    return None


def no_driver(view: GpuView) -> GpuVerdict | None:
    reason = view.error if view.error is not None or view.units else "NVML lists no GPU"
    return None if reason is None else GpuVerdict(state=GpuState.NO_DRIVER, reason=reason)


def needs_reset(view: GpuView) -> GpuVerdict | None:
    if marks := _of(view, ReactionKind.RESET):
        return _by_xid(GpuState.NEEDS_RESET, marks)
    for reading in view.readings:
        if reading.recovery_action not in (None, "None"):
            reason = f"{reading.uuid}: the driver asks for {reading.recovery_action}"
            return GpuVerdict(state=GpuState.NEEDS_RESET, reason=reason, uuids=(reading.uuid,))
        if reading.has_remap_failed:
            reason = f"{reading.uuid}: a row of memory could not be remapped"
            return GpuVerdict(state=GpuState.NEEDS_RESET, reason=reason, uuids=(reading.uuid,))
    return None


def unhealthy(view: GpuView) -> GpuVerdict | None:
    marks = _of(view, ReactionKind.CORDON)
    return _by_xid(GpuState.UNHEALTHY, marks) if marks else None


def degraded(view: GpuView) -> GpuVerdict | None:
    """Errors that the GPU works on with, and a driver that hangs: it may answer yet."""
    if view.silent_s > SILENT_AFTER_S:
        reason = f"NVML has not answered for {view.silent_s // 10 * 10:.0f} s"
        return GpuVerdict(state=GpuState.DEGRADED, reason=reason)
    if ill := [unit for unit in view.units if not unit.healthy]:
        reason = "; ".join(f"{unit.uuid}: {unit.reason}" for unit in ill)
        return GpuVerdict(state=GpuState.DEGRADED, reason=reason, uuids=tuple(unit.uuid for unit in ill))
    if pending := [reading.uuid for reading in view.readings if reading.is_remap_pending]:
        reason = f"{', '.join(pending)}: a row of memory is remapped at the next reset"
        return GpuVerdict(state=GpuState.DEGRADED, reason=reason, uuids=tuple(pending))
    return None


def healthy(view: GpuView) -> GpuVerdict | None:
    return GpuVerdict(state=GpuState.HEALTHY, reason=f"GPUs that answer: {len(view.units)}")


RULES: tuple[Rule, ...] = (lost, no_driver, needs_reset, unhealthy, degraded, healthy)


def _of(view: GpuView, kind: ReactionKind) -> list[Mark]:
    return [mark for mark in view.marks if mark.kind is kind]


def _by_xid(state: GpuState, marks: list[Mark]) -> GpuVerdict:
    """By the oldest: what came after may follow from it."""
    first = min(marks, key=lambda mark: mark.at_s)
    prefix = f"{first.uuid}: " if first.uuid else ""
    uuids = tuple(sorted({mark.uuid for mark in marks if mark.uuid}))
    return GpuVerdict(state=state, reason=f"{prefix}{first.reason}", uuids=uuids)
