"""Named places where a process can be told to die, so that tests cause the faults they claim to survive.

`SEMIPD_FAILPOINTS=lane.result.before_send=3,agent.journal.written=1` kills the process (SIGKILL to itself) when it passes
`lane.result.before_send` for the third time. A place also counts a token in a file, given by `SEMIPD_FAILPOINT_ONCE=DIR`,
so that a replacement does not die again at the same place. Unset, a pass costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

ENVIRONMENT = "SEMIPD_FAILPOINTS"
POISON_ENVIRONMENT = "SEMIPD_FAILPOINT_POISON_TOKEN"
ONCE_ENVIRONMENT = "SEMIPD_FAILPOINT_ONCE"

# Every place there is. Tests generate their cases from this table; `reach` refuses a name that is not in it.
FAILPOINTS: dict[str, str] = {
    "agent.journal.before_write": "an entry is about to be written",
    "agent.journal.after_write": "the entry is on disk, its action not begun",
    "agent.switch.lane_started": "the new lane is forked, not attached",
    "agent.switch.lane_attached": "the new lane waits to be swapped in",
    "agent.switch.swap_sent": "the coordinator was told to swap, its answer not read",
    "agent.switch.old_lane_stopping": "swapped, the old lane not yet stopped",
    "lane.started": "forked, nothing attached",
    "lane.memory_attached": "arenas mapped, coordinator unknown",
    "lane.hello_sent": "known to the coordinator",
    "lane.plan_received": "a step is in hand, nothing computed",
    "lane.layer_computed": "between two layers, the device's turn given back",
    "lane.turn_held": "inside a turn",
    "lane.result.before_send": "computed, the result not sent",
    "lane.result.after_send": "the result sent, the next step not read",
    "lane.stop_received": "told to stop",
    "coordinator.submit_received": "a request is in hand, not acknowledged",
    "coordinator.plan.before_send": "a step is planned, not sent",
    "coordinator.plan.after_send": "a step is sent",
    "coordinator.result_received": "a result is in hand, its tokens not sent on",
    "coordinator.tokens_sent": "tokens are with the front end",
    "coordinator.swap_received": "a swap is in hand, not answered",
    "memory.listening": "arenas ready, nobody attached yet",
    "memory.fds_sent": "a lane has its arenas",
}

_passes: dict[str, int] = {}


def _armed() -> dict[str, int]:
    armed = {}
    for item in filter(None, os.environ.get(ENVIRONMENT, "").split(",")):
        name, _, count = item.partition("=")
        armed[name] = int(count or 1)
    return armed


_targets = _armed()


def rearm() -> None:
    """Read the environment again (after a fork that changed it)."""
    _targets.clear()
    _targets.update(_armed())
    _passes.clear()


def reach(name: str) -> None:
    """Die here if the environment says so."""
    assert name in FAILPOINTS, name
    if name not in _targets:
        return
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] == _targets[name] and _first_time(name):
        os.kill(os.getpid(), signal.SIGKILL)


def reach_poison(tokens: list[int]) -> None:
    """Die here if `SEMIPD_FAILPOINT_POISON_TOKEN` is among `tokens`: a request that kills every lane that takes it."""
    if _poison is not None and _poison in tokens:
        os.kill(os.getpid(), signal.SIGKILL)


def _poison_token() -> int | None:
    value = os.environ.get(POISON_ENVIRONMENT)
    return None if value is None else int(value)


_poison = _poison_token()


def _first_time(name: str) -> bool:
    """Whether no process has died at `name` yet, in all of a test's processes."""
    directory = os.environ.get(ONCE_ENVIRONMENT)
    if directory is None:
        return True
    try:
        (Path(directory) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
