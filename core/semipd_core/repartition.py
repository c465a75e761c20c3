"""The life of one engine as its agent sees it, as a table: which event leads from which phase to which.

Design: 0001 "Switch". A change of share prepares new lanes beside the old ones, swaps them in at a step boundary, and
retires the old ones; GreenContext passes the same phases without new lanes. An event that has no place in a phase is a
defect of the agent and raises. The table holds no action: those are the agent's (`semipd_agent.supervision.plan`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Phase(StrEnum):
    STARTING = "Starting"  # started or adopted, not all lanes active
    STEADY = "Steady"  # every role has its active lane at the share in force
    PREPARING = "Preparing"  # new lanes start and attach; the old ones serve
    SWAPPING = "Swapping"  # the coordinator is told to swap; there is no way back
    RETIRING = "Retiring"  # the new share is in effect, old lanes exit
    ROLLING_BACK = "RollingBack"  # new lanes are stopped; the old ones serve
    RECOVERING = "Recovering"  # a lane, the coordinator or the memory server is being replaced
    DRAINING = "Draining"  # open requests finish; lost processes are replaced, shares stay
    FAILED = "Failed"  # the user must change something; nothing is restarted


class Event(StrEnum):
    READY = "Ready"  # every role has an active lane at the share in force, and no other lane lives
    WISH = "Wish"  # another share is asked for
    PREPARED = "Prepared"  # new lanes wait, each granted what was requested
    REJECTED = "Rejected"  # a new lane died, was late, or was granted another share
    EFFECTIVE = "Effective"  # every changed role runs at its new share
    RETIRED = "Retired"  # the exits of the old lanes are confirmed
    ROLLED_BACK = "RolledBack"  # the exits of the new lanes are confirmed
    LANE_LOST = "LaneLost"  # a role has no active lane at the share in force
    BASE_LOST = "BaseLost"  # the coordinator or the memory server is gone, so all lanes go
    DRAIN = "Drain"
    INVALID = "Invalid"  # a process said that its input is wrong (exit code 2)


class SwitchForm(StrEnum):
    """How a switch came into effect, which is what its duration depends on."""

    COLD = "Cold"  # a lane was started for it
    WARM = "Warm"  # all its lanes stood by already
    CAPS = "Caps"  # no lane was replaced


class IllegalTransition(AssertionError):
    """The event has no place in the phase."""


def _build() -> dict[tuple[Phase, Event], Phase]:
    table = {
        (Phase.STARTING, Event.READY): Phase.STEADY,
        (Phase.RECOVERING, Event.READY): Phase.STEADY,
        (Phase.STEADY, Event.WISH): Phase.PREPARING,
        (Phase.PREPARING, Event.PREPARED): Phase.SWAPPING,
        (Phase.PREPARING, Event.REJECTED): Phase.ROLLING_BACK,
        (Phase.SWAPPING, Event.EFFECTIVE): Phase.RETIRING,
        (Phase.SWAPPING, Event.REJECTED): Phase.ROLLING_BACK,  # GreenContext: the caps read back differ
        (Phase.RETIRING, Event.RETIRED): Phase.STEADY,
        (Phase.ROLLING_BACK, Event.ROLLED_BACK): Phase.STEADY,
        (Phase.STEADY, Event.LANE_LOST): Phase.RECOVERING,
        (Phase.STARTING, Event.BASE_LOST): Phase.STARTING,
        (Phase.STARTING, Event.DRAIN): Phase.DRAINING,
        (Phase.STEADY, Event.DRAIN): Phase.DRAINING,
        (Phase.RECOVERING, Event.DRAIN): Phase.DRAINING,
        (Phase.DRAINING, Event.BASE_LOST): Phase.DRAINING,
    }
    running = set(Phase) - {Phase.STARTING, Phase.DRAINING, Phase.FAILED}
    table |= {(phase, Event.BASE_LOST): Phase.RECOVERING for phase in running}
    table |= {(phase, Event.INVALID): Phase.FAILED for phase in Phase}
    return table


TRANSITIONS: Mapping[tuple[Phase, Event], Phase] = MappingProxyType(_build())

SWITCHING = frozenset({Phase.PREPARING, Phase.SWAPPING, Phase.RETIRING, Phase.ROLLING_BACK})
SERVING = SWITCHING | {Phase.STEADY}


def is_legal(phase: Phase, event: Event) -> bool:
    return (phase, event) in TRANSITIONS


def advance(phase: Phase, event: Event) -> Phase:
    """Raises: IllegalTransition."""
    try:
        return TRANSITIONS[phase, event]
    except KeyError:
        raise IllegalTransition(f"{event} has no place in phase {phase}") from None


def markdown_table() -> str:
    """The table for the documentation: a row per phase, a column per event, empty where illegal."""
    events = list(Event)
    head = ["| phase | " + " | ".join(events) + " |", "|---" * (len(events) + 1) + "|"]
    rows = [
        f"| {phase} | " + " | ".join(TRANSITIONS.get((phase, event), "") for event in events) + " |"
        for phase in Phase
    ]
    return "\n".join([*head, *rows]) + "\n"
