"""What follows from an Xid, the driver's word for a fault of a GPU? Pure.

Source: NVIDIA, "Xid Errors" (catalogue for Ampere and later, column "immediate action") and "GPU memory error management"
(row remapping); what the Kubernetes device plugin ignores (`internal/rm/health.go`: 13, 31, 43, 45, 68, 109). Both hold the
faults of a program for harmless; here the program is ours, and its lanes share one GPU, so theirs restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

ECHO_S = 15.0  # a lane that was ended by force leaves an Xid of its own


class ReactionKind(StrEnum):
    RECORD = "Record"  # counted and logged
    RESTART_LANES = "RestartLanes"  # all that share the GPU: under MPS one's fault hits all
    RESTART_ENGINE = "RestartEngine"  # what the GPU's memory holds may be damaged: memory server too
    CORDON = "Cordon"  # no new requests, no new split; open requests go on
    RESET = "Reset"  # as CORDON, and nothing starts before the platform has reset the GPU
    LOST = "Lost"  # the GPU is gone: everything on it ends and waits for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """`reason` is one sentence for the log and for conditions."""

    kind: ReactionKind
    reason: str


_KNOWN: Mapping[int, tuple[ReactionKind, str]] = MappingProxyType(
    {
        13: (ReactionKind.RECORD, "a kernel made an illegal access: its lane fails by itself"),
        31: (ReactionKind.RESTART_LANES, "a lane accessed memory that is not mapped"),
        43: (ReactionKind.RESTART_LANES, "the GPU stopped a lane's work"),
        45: (ReactionKind.RESTART_LANES, "the driver ended a lane's work"),
        46: (ReactionKind.RESET, "the GPU stopped processing"),
        48: (ReactionKind.RESET, "an uncorrectable error in the GPU's memory"),
        62: (ReactionKind.RESET, "the GPU's power management unit halted"),
        63: (ReactionKind.RECORD, "a row of memory will be remapped at the next reset; work goes on"),
        64: (ReactionKind.RESET, "a row of memory could not be remapped"),
        68: (ReactionKind.RECORD, "the video decoder failed: nothing here uses it"),
        79: (ReactionKind.LOST, "the GPU has fallen off the bus"),
        92: (ReactionKind.RECORD, "many memory errors were corrected"),
        94: (ReactionKind.RESTART_ENGINE, "an uncorrectable memory error, contained to the engine's memory"),
        95: (ReactionKind.RESET, "an uncorrectable memory error that was not contained"),
        109: (ReactionKind.RECORD, "a context switch timed out"),
        119: (ReactionKind.RESET, "the GPU's system processor does not answer"),
        120: (ReactionKind.RESET, "the GPU's system processor failed"),
        154: (ReactionKind.RECORD, "the driver asks for another recovery action, which NVML tells"),
    }
)

KNOWN_XIDS = tuple(_KNOWN)


def decide(xid: int, *, since_forced_end_s: float | None = None) -> Reaction:
    """`since_forced_end_s`: since the agent last ended a lane by force or by this very policy; None: never.

    An Xid that is not known keeps the GPU from new work, as that of a hardware fault would.
    """
    kind, what = _KNOWN.get(xid, (ReactionKind.CORDON, "an Xid that this release does not know"))
    is_echo = since_forced_end_s is not None and since_forced_end_s < ECHO_S
    if kind is ReactionKind.RESTART_LANES and is_echo:
        reason = f"Xid {xid}: {what}; lanes were ended {since_forced_end_s:.0f} s ago, which explains it"
        return Reaction(kind=ReactionKind.RECORD, reason=reason)
    return Reaction(kind=kind, reason=f"Xid {xid}: {what}")
