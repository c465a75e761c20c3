"""The latest decisions of all loops, newest first, without a line for each second in which nothing changed."""

from __future__ import annotations

from collections import deque

from semipd_core.agent_config import DecisionStatus

KEPT = 10


class DecisionLog:
    def __init__(self) -> None:
        self._items: deque[DecisionStatus] = deque(maxlen=KEPT)

    def add(self, decision: DecisionStatus) -> None:
        """A decision that repeats the loop's last one for the engine is dropped."""
        latest = next(
            (
                item
                for item in self._items
                if (item.loop, item.engine_id) == (decision.loop, decision.engine_id)
            ),
            None,
        )
        if latest is not None and not decision.changed and latest.reason == decision.reason:
            return
        self._items.appendleft(decision)

    def newest(self) -> list[DecisionStatus]:
        return list(self._items)
