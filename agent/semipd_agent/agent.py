"""The agent: engines, what they share, wishes, and the end of it all. Wires parts; each decides for itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from semipd_agent import configure
from semipd_agent.adopter import adopt_processes
from semipd_agent.commands import Commands
from semipd_agent.decisions import DecisionLog
from semipd_agent.device.watch import GpuDevice, GpuUsers, GpuWatch
from semipd_agent.device_gate import DeviceGate
from semipd_agent.drain import wait_for_open_requests
from semipd_agent.faults import find_faults, of_lanes
from semipd_agent.journal import entries as entry
from semipd_agent.journal.file import Journal
from semipd_agent.journal.recovery import SWITCHES_KEPT, JournalledEngine
from semipd_agent.mps.controller import MpsController
from semipd_agent.mps.view import LaneClient
from semipd_agent.observer import EngineObserver
from semipd_agent.processes.identity import Identity, scan
from semipd_agent.run_directory import RunDirectory
from semipd_agent.strays import end_strays
from semipd_agent.supervision.engine import EngineSupervisor
from semipd_agent.supervision.shared import SharedProcess
from semipd_agent.supervision.shares import from_wire, new_goal
from semipd_agent.supervision.surroundings import Surroundings
from semipd_agent.supervision.zygote_client import ForkRequest, ForkUnknown, fork
from semipd_agent.wishes.source import FileWishSource, HttpWishSource, WishRefused
from semipd_core.agent_config import (
    AgentConfig,
    DecisionStatus,
    FaultStatus,
    IsolationStatus,
    SwitchStatus,
    WishWire,
)
from semipd_core.engine_config import EngineConfig
from semipd_core.errors import InvalidSpec
from semipd_core.node.loop import NodeConfig
from semipd_shell import log

_log = log.logger(__name__)


class Agent:
    """`config` has the isolation in force. `journal` holds what the agent before this one left.

    `mps`: where lanes are MPS clients. `gpus`: None without any. `isolation`: how the one in force was chosen.
    """

    def __init__(
        self,
        config: AgentConfig,
        engines: Sequence[EngineConfig],
        run_directory: RunDirectory,
        journal: Journal,
        commands: Commands,
        mps: MpsController | None = None,
        gpus: GpuDevice | None = None,
        isolation: IsolationStatus | None = None,
    ) -> None:
        self.config = config
        self.isolation = isolation
        self.journal = journal
        self.run_directory = run_directory
        self.commands = commands
        self.started_s = time.time()
        self.decisions = DecisionLog()
        self.switches: list[SwitchStatus] = [switch for _, switch in journal.state.switches]
        self.wish: WishWire | None = None
        self.wish_problem: str | None = None
        self.http_wishes = HttpWishSource()
        self.is_draining = False
        self._hurry = asyncio.Event()
        self._drained = asyncio.Event()
        self._fork_lock = asyncio.Lock()
        self.zygote = SharedProcess(
            "zygote",
            commands.of_zygote(run_directory),
            journal,
            log_path=run_directory.log("zygote"),
            directory=run_directory.path,
            on_change=self._wake_engines,
            socket=run_directory.zygote_socket,
        )
        self.proxy = self._build_proxy() if len(engines) > 1 else None
        self.mps = mps
        if mps is not None:
            mps.serve(self._mps_lanes, self._wake_engines)
        self.gpus = self._build_gpus(gpus) if gpus is not None else None
        self._gate = DeviceGate(mps=self.mps, gpus=self.gpus)
        self.observers = {engine.engine_id: self._build_observer(engine) for engine in engines}

    def _build_proxy(self) -> SharedProcess:
        return SharedProcess(
            "proxy",
            self.commands.of_proxy(self.run_directory),
            self.journal,
            log_path=self.run_directory.log("proxy"),
            directory=self.run_directory.path,
            on_change=self._wake_engines,
            error_file=self.run_directory.proxy_error,
        )

    def _build_gpus(self, device: GpuDevice) -> GpuWatch:
        return GpuWatch(device, expected=device.expected, users=self._gpu_users, on_change=self._wake_engines)

    def _gpu_users(self) -> GpuUsers:
        supervisors = [observer.supervisor for observer in self.observers.values()]
        lanes = [lane.pid for supervisor in supervisors for lane in supervisor.lanes]
        memory_servers = [supervisor.children["memory"].pid for supervisor in supervisors]
        return GpuUsers(lanes=_living(lanes), memory_servers=_living(memory_servers))

    def _mps_lanes(self) -> list[LaneClient]:
        lanes = [lane for observer in self.observers.values() for lane in observer.supervisor.lanes]
        return [
            LaneClient(
                pid=lane.pid,
                lane_id=lane.lane_id,
                percent=lane.percent,
                granted_percent=lane.granted_percent if lane.view().is_usable else None,
            )
            for lane in lanes
            if lane.pid is not None
        ]

    def _build_observer(self, engine: EngineConfig) -> EngineObserver:
        resumed = self.journal.state.engines.get(engine.engine_id, JournalledEngine())
        supervisor = EngineSupervisor(
            engine,
            configure.initial_partition(self.config),
            resumed,
            Surroundings(
                run_directory=self.run_directory,
                commands=self.commands,
                journal=self.journal,
                fork=self._fork,
                is_zygote_ready=lambda: self.zygote.is_ready,
                standby=self.config.standby,
                **self._gate.surroundings(self.run_directory),
            ),
            self._switch_ended,
        )
        observer = EngineObserver(supervisor, NodeConfig.of(self.config), self.decisions.add)
        if resumed.wish is not None:
            observer.follow(resumed.wish)
            self.wish = resumed.wish
        return observer

    @property
    def shared(self) -> list[SharedProcess | MpsController]:
        optional = (self.proxy, self.mps)
        return [self.zygote, *(process for process in optional if process is not None)]

    @property
    def is_ready(self) -> bool:
        """Every engine was ready once and one is now, behind a proxy that lives; never while draining, nor on an ill GPU."""
        observers = self.observers.values()
        has_started = all(observer.has_been_ready for observer in observers)
        is_serving = any(observer.is_ready for observer in observers)
        has_proxy = self.proxy is None or self.proxy.is_ready
        is_kept_away = self.is_draining or self._gate.is_cordoned
        return has_started and is_serving and has_proxy and not is_kept_away

    @property
    def problems(self) -> list[str]:
        """What the agent could not do and tries again."""
        found = [self.journal.problem, self.wish_problem, *(shared.problem for shared in self.shared)]
        for observer in self.observers.values():
            supervisor = observer.supervisor
            found += [supervisor.problem, supervisor.memory_problem]
            if (said := supervisor.lane_problem.said) is not None:
                found.append(of_lanes(supervisor.engine_id, said).message)
        found += [self.gpus.problem] if self.gpus is not None else []
        return sorted({problem for problem in found if problem})

    @property
    def faults(self) -> list[FaultStatus]:
        """What is wrong with the GPUs and what runs on them, the gravest first."""
        supervisors = [observer.supervisor for observer in self.observers.values()]
        return find_faults(
            self.gpus.verdict if self.gpus is not None else None,
            self.mps.verdict if self.mps is not None else None,
            {each.engine_id: each.error for each in supervisors if each.error is not None},
            {each.engine_id: said for each in supervisors if (said := each.lane_problem.said) is not None},
        )

    def _wake_engines(self) -> None:
        for observer in self.observers.values():
            observer.supervisor.wake()

    def _switch_ended(self, switch: SwitchStatus) -> None:
        self.switches = [*self.switches, switch][-SWITCHES_KEPT:]

    # --- wishes -------------------------------------------------------------------------------------------------

    def take(self, wish: WishWire, engine_id: str | None) -> Sequence[str]:
        """Raises: InvalidSpec (unknown engine), WishRefused (also by a pin), JournalUnwritable."""
        if engine_id is not None and engine_id not in self.observers:
            raise InvalidSpec("engine", engine_id, "one of " + ", ".join(self.observers))
        isolation = self.config.partition.isolation
        if self.config.partition.has_fallen_back and not wish.pinned:
            wish = configure.runnable_wish(isolation, wish)
        if not configure.moves_shares(isolation) and from_wire(wish.target) != configure.WHOLE_DEVICE:
            raise WishRefused(
                f"isolation {isolation} keeps no shares apart: nothing but (100, 100) is possible"
            )
        if self.is_draining:
            raise WishRefused("the service drains")
        taken = [engine_id] if engine_id is not None else list(self.observers)
        self._respect_pins(wish, taken)
        self.journal.append(entry.WishTaken(wish=wish, engine_ids=taken))
        for name in taken:
            self._ask(self.observers[name], wish)
        self.wish = wish
        self._note_wish(wish, engine_id, taken)
        return taken

    def _respect_pins(self, wish: WishWire, engine_ids: Sequence[str]) -> None:
        for name in engine_ids:
            held = self.observers[name].wish
            if held is None or not held.pinned or wish.pinned or wish.releases == held.decision_id:
                continue
            raise WishRefused(
                f"{name} is pinned to {held.target}: a pinned wish, or one that releases {held.decision_id!r}"
            )

    @staticmethod
    def _ask(observer: EngineObserver, wish: WishWire) -> None:
        observer.follow(wish)
        goal = new_goal(from_wire(wish.target), wish.decision_id, wish.reason, wish.message)
        observer.supervisor.shares.ask(goal)
        observer.supervisor.wake()

    def _note_wish(self, wish: WishWire, engine_id: str | None, taken: Sequence[str]) -> None:
        target = from_wire(wish.target)
        changed = any(self.observers[name].supervisor.shares.partition != target for name in taken)
        _log.info("wish", target=str(target), engines=taken, decision_id=wish.decision_id, reason=wish.reason)
        is_manual = wish.pinned or wish.reason == "Manual"
        self.decisions.add(
            DecisionStatus(
                at_s=time.time(),
                loop="manual" if is_manual else "cluster",
                engine_id=engine_id,
                partition=wish.target,
                changed=changed,
                reason=wish.reason,
                message=wish.message,
            )
        )

    def _set_wish_problem(self, problem: str | None) -> None:
        self.wish_problem = problem

    # --- lanes --------------------------------------------------------------------------------------------------

    async def _fork(self, request: ForkRequest) -> int:
        """One at a time: a lane that an unanswered request left behind is found by being unknown."""
        async with self._fork_lock:
            try:
                return await fork(str(self.run_directory.zygote_socket), request)
            except ForkUnknown:
                await end_strays(self._unknown_processes(), self._gate.before_kill)
                raise

    def _unknown_processes(self) -> list[Identity]:
        known = {child.child.pid for child in self.shared}
        lanes = set()
        for observer in self.observers.values():
            known |= {child.pid for child in observer.supervisor.children.values()}
            lanes |= {lane.pid for lane in observer.supervisor.lanes}
        found = scan(self.commands.all, str(self.run_directory.path))
        return [
            facts.identity
            for facts in found
            if facts.identity.pid not in known | lanes and facts.group not in lanes
        ]

    # --- life ---------------------------------------------------------------------------------------------------

    async def run(self, companions: Sequence[Coroutine[Any, Any, None]] = ()) -> None:
        """Until drained and everything has ended. `companions` run beside it, until cancelled."""
        supervisors_by_id = {name: observer.supervisor for name, observer in self.observers.items()}
        await adopt_processes(
            self.journal,
            self.run_directory,
            self.commands,
            supervisors_by_id,
            self.shared,
            self._gate.before_kill,
        )
        supervisors = [asyncio.create_task(shared.run()) for shared in self.shared]
        engines = [asyncio.create_task(observer.supervisor.run()) for observer in self.observers.values()]
        sources = (FileWishSource(self.run_directory.wish_file, self._set_wish_problem), self.http_wishes)
        background = [asyncio.create_task(source.run(self)) for source in sources]
        background += [asyncio.create_task(observer.run()) for observer in self.observers.values()]
        background += [asyncio.create_task(companion) for companion in companions]
        background += [asyncio.create_task(self.gpus.run())] if self.gpus is not None else []
        tasks = {*engines, *supervisors, *background}
        drained = asyncio.create_task(self._drained.wait())
        await asyncio.wait({*tasks, drained}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()  # a defect: raise it, the data plane lives on and the next agent adopts it
        await wait_for_open_requests(
            list(self.observers.values()),
            self.proxy,
            self.config.drain_timeout_seconds,
            self._hurry,
            self.config.drain_lag_s,
        )
        for observer in self.observers.values():
            observer.supervisor.is_ending = True
            observer.supervisor.wake()
        await asyncio.gather(*engines)
        for shared in self.shared:
            shared.hurry()
        await asyncio.gather(*supervisors)
        await self._close(background)

    async def _close(self, background: Sequence[asyncio.Task[None]]) -> None:
        for task in background:
            task.cancel()
        await asyncio.wait(background)
        for observer in self.observers.values():
            await observer.front_end.close()
        self.journal.remove()

    # --- drain --------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Not ready from here on; `run` ends once open requests are done or the drain timeout is over."""
        self.is_draining = True
        for observer in self.observers.values():
            observer.supervisor.is_draining = True
            observer.supervisor.wake()
        self._drained.set()

    def hurry(self) -> None:
        """Drain without waiting for open requests."""
        self.drain()
        self._hurry.set()


def _living(pids: Iterable[int | None]) -> frozenset[int]:
    return frozenset(pid for pid in pids if pid is not None)
