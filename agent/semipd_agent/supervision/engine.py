"""Supervises one engine: builds its view, asks `plan.decide`, applies the answer, until there is nothing to do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from signal import SIGKILL, Signals

import msgspec

from semipd_agent.journal import entries as entry
from semipd_agent.journal.file import JournalUnwritable
from semipd_agent.journal.recovery import JournalledEngine
from semipd_agent.processes.identity import Identity, read_identity
from semipd_agent.supervision import actions, plan
from semipd_agent.supervision.child import Child
from semipd_agent.supervision.lane import Lane
from semipd_agent.supervision.lane_starter import LaneStarter
from semipd_agent.supervision.lane_table import LaneTable
from semipd_agent.supervision.link import CoordinatorLink
from semipd_agent.supervision.problem_file import ProblemFile
from semipd_agent.supervision.shares import Shares
from semipd_agent.supervision.standby_watch import StandbyWatch
from semipd_agent.supervision.surroundings import Sockets, Surroundings
from semipd_agent.supervision.view import EngineView
from semipd_core import messages
from semipd_core.agent_config import SwitchStatus
from semipd_core.engine_config import EngineConfig, SpecError
from semipd_core.partition import Band, Partition, Role
from semipd_core.repartition import Event, Phase
from semipd_shell import failpoints, log

BUSY_TICK_S = 0.05
STEADY_TICK_S = 0.5
JOURNAL_RETRY_S = 1.0
ROLES = ("memory", "coordinator", "frontend")

_log = log.logger(__name__)


class EngineSupervisor:
    def __init__(
        self,
        config: EngineConfig,
        initial: Partition,
        resumed: JournalledEngine,
        surroundings: Surroundings,
        on_switch_ended: Callable[[SwitchStatus], None],
    ) -> None:
        self.config = config
        self.engine_id = config.engine_id
        self._around = surroundings
        self._journal = surroundings.journal
        self._wake = asyncio.Event()
        self.children = {
            role: Child(f"{self.engine_id}/{role}", self._journal, self._on_change) for role in ROLES
        }
        self.link = CoordinatorLink(config.coordinator_socket, self._on_message, self._wake.set)
        self._on_switch_ended = on_switch_ended
        self.shares = Shares(self.engine_id, self._journal, initial, resumed, self._switch_ended)
        self.standbys = StandbyWatch(
            surroundings.standby,
            lambda: surroundings.free_bytes(config.gpu),
            surroundings.free_bytes_read_s,
        )
        self.lanes = LaneTable(self.engine_id)
        self._starter = LaneStarter(self.engine_id, surroundings, self.lanes, self._on_lane_exit)
        self._caps: Partition | None = None
        self._caps_band: Band | None = None
        self.band: Band | None = None  # of the wish in force, where steps may choose inside it
        self._sockets = Sockets(
            memory=Path(config.memory_socket),
            coordinator=Path(config.coordinator_socket),
            front=Path(config.front_socket),
        )
        self.error: SpecError | None = None
        self.memory_problem: str | None = None
        self.lane_problem = ProblemFile(Path(config.lane_problem_file))  # why lanes find too little memory
        self.is_draining = False
        self.is_ending = False
        self.problem: str | None = None

    # --- observe ------------------------------------------------------------------------------------------------

    def view(self) -> EngineView:
        memory, coordinator = self.children["memory"], self.children["coordinator"]
        memory_ready = memory.is_alive and self._sockets.memory.exists()
        if memory_ready:
            self.memory_problem = None
        return EngineView(
            phase=self.shares.phase,
            phase_age_s=self.shares.phase_age_s,
            isolation=self.config.isolation,
            partition=self.shares.partition,
            goal=self.shares.goal.partition if self.shares.goal else None,
            target=self.shares.target,
            rejection=self.shares.rejection,
            caps=self._caps,
            band=self.band,
            caps_band=self._caps_band,
            memory=memory.view(),
            memory_ready=memory_ready,
            coordinator=coordinator.view(),
            coordinator_listening=coordinator.is_alive and self._sockets.coordinator.exists(),
            connected=self.link.is_connected,
            front_end=self.children["frontend"].view(),
            lanes=tuple(lane.view(self.shares.phase_since_s) for lane in self.lanes),
            zygote_ready=self._around.is_zygote_ready() and self._around.lanes_may_start(),
            lane_due=self._starter.due(),
            lanes_must_end=self._around.why_lanes_must_end(),
            start_hold=self._around.why_no_start(),
            switch_hold=self._around.why_no_switch(),
            engine_must_end=self._around.why_engine_must_end(),
            error=f"{self.error.path}: got {self.error.given}" if self.error else None,
            is_draining=self.is_draining,
            is_ending=self.is_ending,
            standby=self.standbys.facts(self.shares.wished),
        )

    def _on_change(self) -> None:
        self._read_error()
        self._read_memory_problem()
        self.lane_problem.read()
        self._wake.set()

    def _read_memory_problem(self) -> None:
        """Why the memory server ended, where it is started again."""
        try:
            said = Path(self.config.memory_problem_file).read_text(errors="replace")
        except OSError:
            return
        self.memory_problem = f"{self.engine_id}: no memory server: {said}"

    def _read_error(self) -> None:
        """A process that found its input wrong has left a `SpecError`."""
        path = Path(self.config.error_file)
        try:
            self.error = msgspec.json.decode(path.read_bytes(), type=SpecError)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            self.error = SpecError(path=path.name, given=str(error), allowed="a SpecError")

    def _on_message(self, message: messages.AnyMessage) -> None:
        for identity_pid, lane_id in self.lanes.note(message):
            self._watch_stranger(identity_pid, lane_id)
        self._wake.set()

    def _watch_stranger(self, pid: int, lane_id: str) -> None:
        """A lane that no fork reply told of: it is ended, and the coordinator hears of it."""
        lane = self.lanes.add_stranger(lane_id)
        lane.watch(read_identity(pid), self._on_change)

    @property
    def lane_losses(self) -> Mapping[Role, int]:
        return self._starter.losses

    def wake(self) -> None:
        self._wake.set()

    # --- decide and apply ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until everything has ended after `is_ending` was set."""
        self._read_error()
        self._read_memory_problem()
        self.lane_problem.read()
        while not (self.is_ending and self._is_empty()):
            self._wake.clear()
            try:
                await self._settle()
                self.problem = None
            except (JournalUnwritable, OSError) as error:
                self._say_problem(str(error))
                await asyncio.sleep(JOURNAL_RETRY_S)
                continue
            await self._rest()
        await self.link.close()
        for path in (self._sockets.of(role) for role in ROLES):
            path.unlink(missing_ok=True)

    def _is_empty(self) -> bool:
        alive = any(child.is_alive for child in self.children.values())
        return not alive and not any(lane.is_alive for lane in self.lanes)

    def _say_problem(self, problem: str) -> None:
        if problem != self.problem:
            _log.error("action not taken", engine_id=self.engine_id, problem=problem)
        self.problem = problem

    async def _rest(self) -> None:
        is_steady = self.shares.phase in (Phase.STEADY, Phase.FAILED) and not self.is_ending
        try:
            await asyncio.wait_for(self._wake.wait(), STEADY_TICK_S if is_steady else BUSY_TICK_S)
        except TimeoutError:
            return

    async def _settle(self) -> None:
        while True:
            self.shares.drop_fulfilled_goal()
            view = self.view()
            if view.is_whole:
                self.lane_problem.clear()
            action = plan.decide(view)
            if action is None or isinstance(action, actions.Wait):
                return
            if not await self._apply(action):
                return

    async def _apply(self, action: actions.Action) -> bool:
        """Whether to decide again at once. Raises: JournalUnwritable, OSError: the action was not taken."""
        match action:
            case actions.Start(process=role):
                self._start(role)
            case actions.End(process=name, signal=number):
                _log.info(
                    "end",
                    engine_id=self.engine_id,
                    process_name=name,
                    signal=number.name,
                    reason=action.reason,
                )
                await self._signal(name, number)
            case actions.Connect():
                self._caps = None
                return await self.link.connect()
            case actions.Fork(role=role, percent=percent):
                await self._starter.fork(role, percent, action.reason, self._second(role))
                if self.shares.phase is Phase.PREPARING:
                    failpoints.reach("agent.switch.lane_started")
            case actions.SendSwap(lane_id=lane_id, keeps_old=keeps_old):
                self.lanes[lane_id].is_swap_sent = True
                sent = await self.link.send(messages.Swap(lane_id=lane_id, keeps_old=keeps_old))
                failpoints.reach("agent.switch.swap_sent")
                return sent
            case actions.SendCaps(partition=partition, band=band):
                return await self._send_caps(partition, band)
            case actions.ConfirmExit(lane_id=lane_id):
                await self._confirm_exit(lane_id)
            case actions.Advance(event=Event.PREPARED):
                view = self.view()
                self.shares.advance(Event.PREPARED, action.reason)
                self.shares.form = self.standbys.note_prepared(view)
            case actions.Advance(event=event):
                self.shares.advance(event, action.reason)
            case _:
                raise AssertionError(action)
        return True

    async def _signal(self, name: str, number: Signals) -> None:
        ended = self.children.get(name) or self.lanes[name]
        if number is SIGKILL and isinstance(ended, Lane):
            for pid in ended.pids:
                await self._around.before_kill(pid)
        ended.send_signal(number)

    def _start(self, role: str) -> None:
        self._sockets.of(role).unlink(missing_ok=True)
        self.children[role].start(
            self._around.commands.of_engine(role, self._around.run_directory.engine_config(self.engine_id)),
            log_path=self._around.run_directory.log(f"{self.engine_id}-{role}"),
            directory=self._around.run_directory.path,
            environment={**os.environ, **self._around.child_environment},
        )

    async def _send_caps(self, partition: Partition, band: Band | None) -> bool:
        self._caps, self._caps_band = partition, band
        return await self.link.send(
            messages.SetCaps(
                prefill_percent=partition.prefill_percent,
                decode_percent=partition.decode_percent,
                band=band,
            )
        )

    def _second(self, role: Role) -> tuple[Role, int] | None:
        """The other role of a process that has both, and its share."""
        if not self.config.duplex_lane:
            return None
        (other,) = (each for each in self.config.isolation.roles if each is not role)
        return other, self.shares.partition.percent(other)

    def _on_lane_exit(self, lane: Lane) -> None:
        """A new lane's death ends the switch that it was forked for; one that stood by before is made up for."""
        if lane.signalled is not None:
            self.standbys.note_exit(lane.private_bytes)
        target = self.shares.target
        is_new = lane.forked_s > self.shares.phase_since_s
        if target is not None and is_new and lane.percent == target.percent(lane.role):
            self.shares.reject(f"lane {lane.lane_id} exited before it was swapped in")
        self._on_change()

    def _switch_ended(self, switch: SwitchStatus) -> None:
        self.standbys.note_ended(switch)
        self._on_switch_ended(switch)

    async def _confirm_exit(self, lane_id: str) -> None:
        if self.link.is_connected:
            await self.link.send(messages.LaneExited(lane_id=lane_id))
        lane = self.lanes.remove(lane_id)
        self._journal.note(entry.Exited(process=lane.name))

    # --- adoption -----------------------------------------------------------------------------------------------

    def adopt_lane(self, lane_id: str, role: Role, percent: int, identity: Identity | None) -> None:
        """A lane of the journal, alive or not: if not, the coordinator is told once it is connected."""
        lane = self.lanes.add(Lane(lane_id, f"{self.engine_id}/{lane_id}", role, percent))
        if self._starter.watch(lane, identity):
            _log.info("lane adopted", engine_id=self.engine_id, lane_id=lane_id, lane_pid=lane.pid)
