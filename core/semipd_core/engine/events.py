"""What goes into the coordinator and what comes out. Everything else is `semipd_core.messages`."""

from __future__ import annotations

from dataclasses import dataclass

from semipd_core import messages
from semipd_core.step_split import StepChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEndGone:
    """The front end's connection ended: nobody waits for its requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneDisconnected:
    """A lane's connection ended. Its process may still be writing until `messages.LaneExited`."""

    lane_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToFrontEnd:
    message: messages.Tokens | messages.Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class ToAgent:
    message: messages.LaneAttached | messages.LaneLost | messages.Swapped


@dataclass(frozen=True, slots=True, kw_only=True)
class ToLane:
    lane_id: str
    message: messages.StepPlan | messages.Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSplit:
    """The caps that hold from here on (GreenContext); before the plans that count on them."""

    choice: StepChoice


Event = (
    messages.Submit
    | messages.Abort
    | FrontEndGone
    | messages.LaneHello
    | messages.StepResult
    | LaneDisconnected
    | messages.LaneExited
    | messages.Swap
)
Effect = ToFrontEnd | ToAgent | ToLane | SetSplit
