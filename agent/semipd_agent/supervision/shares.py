"""The shares of one engine: in force, wished for, and the switch between them. Every step is journalled before it counts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from semipd_agent.journal import entries as entry
from semipd_agent.journal.file import Journal
from semipd_agent.journal.recovery import JournalledEngine
from semipd_core import repartition
from semipd_core.agent_config import PartitionWire, SwitchStatus
from semipd_core.partition import Partition
from semipd_core.repartition import Event, Phase, SwitchForm
from semipd_shell import failpoints, log

MAX_ATTEMPTS = 3  # of a switch that others' deaths interrupt
WISHES_KEPT = 8

_log = log.logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Shares asked for, whoever asked; `at_s` is unix time, `at_monotonic_s` measures."""

    partition: Partition
    decision_id: str
    reason: str
    message: str
    at_s: float
    at_monotonic_s: float
    attempts: int = 0


def to_wire(partition: Partition) -> PartitionWire:
    return PartitionWire(prefill_percent=partition.prefill_percent, decode_percent=partition.decode_percent)


def from_wire(wire: PartitionWire) -> Partition:
    return Partition(prefill_percent=wire.prefill_percent, decode_percent=wire.decode_percent)


class Shares:
    """`on_ended` gets every switch that ended, done or rolled back."""

    def __init__(
        self,
        engine_id: str,
        journal: Journal,
        initial: Partition,
        resumed: JournalledEngine,
        on_ended: Callable[[SwitchStatus], None],
    ) -> None:
        self.engine_id = engine_id
        self._journal = journal
        self._on_ended = on_ended
        self.phase = resumed.resumed_phase
        self.phase_since_s = time.monotonic()
        self.partition = from_wire(resumed.partition) if resumed.partition else initial
        self.requested = self.partition
        self.goal: Goal | None = None
        self.switch: SwitchStatus | None = resumed.switch
        self.last_switch: SwitchStatus | None = resumed.switch
        self.rejection: str | None = None
        self.form: SwitchForm | None = None  # of the switch under way, once it is prepared
        self.wished: deque[Partition] = deque(maxlen=WISHES_KEPT)  # lately, the latest first
        self._current: Goal | None = None  # of the switch under way
        self._is_retried = resumed.stage is Phase.PREPARING
        if resumed.wish is not None and resumed.is_open:
            self._resume_wish(resumed)
        if resumed.switch is not None:
            self._resume_switch(resumed.switch)

    def _resume_wish(self, resumed: JournalledEngine) -> None:
        assert resumed.wish is not None
        wish = resumed.wish
        is_under_way = resumed.switch is not None and resumed.switch.decision_id == wish.decision_id
        if not is_under_way:
            self.ask(new_goal(from_wire(wish.target), wish.decision_id, wish.reason, wish.message))

    def _resume_switch(self, switch: SwitchStatus) -> None:
        """The wish's age survives the agent, on the wall clock."""
        goal = new_goal(from_wire(switch.to_partition), switch.decision_id, switch.reason, switch.message)
        age_s = max(0.0, goal.at_s - switch.at_s)
        self._current = replace(
            goal, at_s=switch.at_s, at_monotonic_s=goal.at_monotonic_s - age_s, attempts=1
        )
        self.requested = goal.partition
        if self.phase is Phase.ROLLING_BACK:
            self.rejection = "the agent was replaced before the new lanes were swapped in"

    @property
    def phase_age_s(self) -> float:
        return time.monotonic() - self.phase_since_s

    @property
    def target(self) -> Partition | None:
        return from_wire(self.switch.to_partition) if self.switch is not None else None

    def ask(self, goal: Goal) -> None:
        """The latest wish wins; it waits while a switch is under way."""
        self.goal = goal
        self.requested = goal.partition
        self.wished.appendleft(goal.partition)

    def reject(self, reason: str) -> None:
        """The switch under way cannot go on."""
        if self.phase is Phase.PREPARING:
            self.rejection = reason

    def drop_fulfilled_goal(self) -> None:
        if self.goal is not None and self.switch is None and self.goal.partition == self.partition:
            self.goal = None

    def advance(self, event: Event, reason: str) -> None:
        """Raises: JournalUnwritable (nothing has changed), IllegalTransition."""
        phase = repartition.advance(self.phase, event)
        match event:
            case Event.WISH:
                self._begin()
            case Event.PREPARED:
                self._commit()
            case Event.REJECTED:
                self._roll_back(reason)
            case Event.EFFECTIVE:
                self._take_effect()
            case Event.RETIRED:
                self._end("Done", "")
            case Event.ROLLED_BACK:
                self._end("RolledBack", self.rejection or reason)
            case Event.BASE_LOST if self.phase in (Phase.PREPARING, Phase.ROLLING_BACK):
                self._is_retried = self._is_retried or self.phase is Phase.PREPARING
                self._end("RolledBack", self.rejection or reason)
            case Event.READY if self.switch is not None:
                self.form = None  # the lanes started anew: this took as long as that did
                self._take_effect()
                self._end("Done", "")
            case _:
                pass
        _log.info(
            "phase", engine_id=self.engine_id, before=self.phase, event_name=event, after=phase, reason=reason
        )
        self.phase = phase
        self.phase_since_s = time.monotonic()

    def _begin(self) -> None:
        assert self.goal is not None
        goal = self.goal
        switch = SwitchStatus(
            decision_id=goal.decision_id,
            at_s=goal.at_s,
            from_partition=to_wire(self.partition),
            to_partition=to_wire(goal.partition),
            reason=goal.reason,
            message=goal.message,
            seconds=None,
            outcome="Switching",
        )
        self._journal.append(entry.SwitchBegun(engine_id=self.engine_id, switch=switch))
        self._current = replace(goal, attempts=goal.attempts + 1)
        self.goal, self.switch, self.last_switch = None, switch, switch
        self.rejection, self.form, self._is_retried = None, None, False

    def _commit(self) -> None:
        failpoints.reach("agent.switch.lane_attached")
        assert self.switch is not None
        self._journal.append(entry.SwapSending(engine_id=self.engine_id))
        self.partition = from_wire(self.switch.to_partition)

    def _roll_back(self, reason: str) -> None:
        assert self.switch is not None
        self._journal.append(entry.SwitchRollingBack(engine_id=self.engine_id))
        self.rejection = reason
        self.partition = from_wire(self.switch.from_partition)

    def _take_effect(self) -> None:
        assert self.switch is not None
        assert self._current is not None
        if self.switch.seconds is not None:
            return
        seconds = round(time.monotonic() - self._current.at_monotonic_s, 3)
        self._journal.append(entry.SwitchEffective(engine_id=self.engine_id, seconds=seconds))
        self.switch = msgspec.structs.replace(self.switch, seconds=seconds, form=self.form)
        self.last_switch = self.switch
        failpoints.reach("agent.switch.old_lane_stopping")

    def _end(self, outcome: str, message: str) -> None:
        """An interrupted switch is tried again unless another wish has come; a rejected one is refused."""
        assert self.switch is not None
        assert self._current is not None
        is_retried = outcome != "Done" and self._is_retried and self._current.attempts < MAX_ATTEMPTS
        ended = msgspec.structs.replace(
            self.switch,
            outcome=outcome,
            message=message or self.switch.message,
            seconds=self.switch.seconds if outcome == "Done" else None,
        )
        self._journal.append(entry.SwitchEnded(engine_id=self.engine_id, switch=ended, is_open=is_retried))
        if is_retried and self.goal is None:
            self.goal = self._current
        self.switch, self.last_switch = None, ended
        self.partition = from_wire(ended.to_partition if outcome == "Done" else ended.from_partition)
        self._on_ended(ended)


def new_goal(partition: Partition, decision_id: str, reason: str, message: str) -> Goal:
    return Goal(
        partition=partition,
        decision_id=decision_id,
        reason=reason,
        message=message,
        at_s=time.time(),
        at_monotonic_s=time.monotonic(),
    )
