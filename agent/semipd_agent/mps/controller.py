"""Supervises the pod's MPS control daemon: observes, asks `plan.decide`, takes the step, twice a second or slower."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from signal import SIGKILL, SIGTERM

from semipd_agent.journal.file import Journal, JournalUnwritable
from semipd_agent.mps import plan, processes
from semipd_agent.mps.control import MpsControl
from semipd_agent.mps.daemon_log import DaemonLog
from semipd_agent.mps.environment import daemon_environment
from semipd_agent.mps.observer import MpsObserver
from semipd_agent.mps.plan import Step, Verdict
from semipd_agent.mps.preflight import GpuSharing
from semipd_agent.mps.replies import MpsError
from semipd_agent.mps.view import LaneClient, MpsState, MpsView
from semipd_agent.run_directory import RunDirectory
from semipd_agent.strays import end_strays
from semipd_agent.supervision.child import Child
from semipd_core.errors import DeviceError
from semipd_shell import log

ACTIVE_TICK_S = 2.0
TICK_S = 0.5
QUIT_TIMEOUT_S = 2  # until the daemon forces its servers
TERMINATE_DEADLINE_S = 2.0
HEALTHY = (MpsState.STARTING, MpsState.ACTIVE, MpsState.STOPPED)
SETTLED = (MpsState.ACTIVE, MpsState.REFUSED, MpsState.GIVEN_UP)

_log = log.logger(__name__)


class MpsController:
    """`verdict` says whether lanes may start and whether they must end; `on_change` hears of each new one.

    `sharing` is what NVML says of the GPUs (raises DeviceError). Without `serve` there are no lanes, and nobody hears.
    """

    name = "mps"

    def __init__(
        self,
        command: Sequence[str],
        journal: Journal,
        run_directory: RunDirectory,
        *,
        sharing: Callable[[], list[GpuSharing]],
    ) -> None:
        self.child = Child(self.name, journal, self._wake_up)
        self.verdict = Verdict(state=MpsState.ABSENT, reason="the agent starts")
        self.faults = 0
        self.has_error: str | None = None
        self._command = (*command, processes.FOREGROUND)
        self._run_directory = run_directory
        self._sharing = sharing
        self._lanes: Callable[[], list[LaneClient]] = list
        self._on_change: Callable[[], None] = _nobody_hears
        self._wake = asyncio.Event()
        self._pipes = str(run_directory.mps_pipes)
        self._logs = str(run_directory.mps_logs)
        environment = daemon_environment(os.environ, self._pipes, self._logs, ())
        self.control = MpsControl(command, environment)
        self._log_file = DaemonLog(run_directory.mps_logs / "control.out")
        self._observer = MpsObserver(self.control, command[0], self._pipes, sharing)
        self._is_ending = False
        self._is_quit_sent = False

    @property
    def is_ready(self) -> bool:
        return self.verdict.lanes_allowed

    @property
    def problem(self) -> str | None:
        """What keeps lanes from their shares, and why; None while all is well or on its way."""
        error = self._observer.error or self.has_error
        if self.verdict.state in HEALTHY and error is None:
            return None
        return f"MPS {self.verdict.state}: {self.verdict.reason}" + (f" ({error})" if error else "")

    @property
    def why_lanes_must_end(self) -> str | None:
        return self.verdict.reason if self.verdict.lanes_must_end else None

    @property
    def client_count(self) -> int:
        return sum(len(server.client_pids or ()) for server in self._observer.servers)

    def serve(self, lanes: Callable[[], list[LaneClient]], on_change: Callable[[], None]) -> None:
        """`lanes` lists the living lanes."""
        self._lanes, self._on_change = lanes, on_change

    async def settle(self, deadline_s: float) -> Verdict:
        """Until lanes may start or it is known why not, or the deadline. `run` goes on from there."""
        self._make_directories()
        until_s = time.monotonic() + deadline_s
        while not await self._turn():
            if self.verdict.state in SETTLED or time.monotonic() > until_s:
                break
            await self._rest()
        return self.verdict

    async def run(self) -> None:
        """Until `hurry` was called and daemon and servers have ended."""
        self._make_directories()
        while not await self._turn():
            await self._rest()

    def _make_directories(self) -> None:
        directory = self._run_directory
        for path in (directory.mps_pipes, directory.mps_logs, directory.no_mps_pipes):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def _turn(self) -> bool:
        """One look, one step. Whether all is over."""
        self._wake.clear()
        view = await self._observer.observe(
            self.child,
            self._lanes(),
            is_ending=self._is_ending,
            is_quit_sent=self._is_quit_sent,
        )
        self._read_log()
        self._note(plan.decide(view))
        if self._is_over(view):
            return True
        await self._take(self.verdict.step, view)
        return False

    def _is_over(self, view: MpsView) -> bool:
        return view.is_ending and not view.daemon.is_alive and not view.orphan_pids

    def _note(self, verdict: Verdict) -> None:
        if verdict.state is MpsState.GIVEN_UP and (why := self._log_file.why_server_ended()):
            verdict = plan.because(verdict, why)
        is_new = verdict != self.verdict
        if verdict.state is MpsState.FAULT and self.verdict.state is not MpsState.FAULT:
            self.faults += 1
        if (verdict.state, verdict.reason) != (self.verdict.state, self.verdict.reason):
            _log.info("mps", state=verdict.state, reason=verdict.reason)
        self.verdict = verdict
        if is_new:
            self._on_change()

    def _read_log(self) -> None:
        try:
            lines = self._log_file.read()
        except OSError as error:
            lines = [f"its log cannot be read: {error.strerror}"]
        for line in lines:
            _log.info("mps control daemon", said=line)

    async def _take(self, step: Step, view: MpsView) -> None:
        try:
            await self._apply(step, view)
            self.has_error = None
        except (MpsError, JournalUnwritable, OSError) as error:
            self.has_error = str(error)
            _log.error("mps step failed", step=step, error=str(error))

    async def _apply(self, step: Step, view: MpsView) -> None:
        match step:
            case Step.WAIT:
                return
            case Step.START_DAEMON:
                await self._start_daemon()
            case Step.START_SERVER:
                self._observer.server_starts(time.monotonic())
                await self.control.start_server(os.getuid())
            case Step.SHUT_DOWN_SERVERS:
                for server in view.servers:
                    await self.control.shutdown_server(server.pid, is_forced=True)
            case Step.END_SERVERS:
                await end_strays([facts.identity for facts in processes.find(self._pipes).servers])
            case Step.QUIT:
                self._is_quit_sent = True
                await self.control.quit(QUIT_TIMEOUT_S, plan.QUIT_DEADLINE_S)
            case Step.TERMINATE_DAEMON:
                self.child.send_signal(SIGTERM)
            case Step.KILL_DAEMON:
                self.child.send_signal(SIGKILL)

    async def _start_daemon(self) -> None:
        try:
            gpus = await asyncio.to_thread(self._sharing)
        except DeviceError as error:
            raise OSError(str(error)) from error
        uuids = [gpu.uuid for gpu in gpus]
        self.child.start(
            self._command,
            log_path=self._log_file.path,
            directory=self._run_directory.path,
            environment=daemon_environment(os.environ, self._pipes, self._logs, uuids),
        )
        self._observer.daemon_started(time.monotonic())

    async def _rest(self) -> None:
        """Not by `wait_for`, which up to Python 3.11 may lose a cancellation that meets its timeout (cpython #86296)."""
        tick_s = ACTIVE_TICK_S if self.verdict.state is MpsState.ACTIVE else TICK_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(tick_s):
                await self._wake.wait()

    async def terminate_client(self, pid: int) -> None:
        """Before a lane is killed: end its work on the GPU, if the daemon still can."""
        for server_pid in await self._server_pids():
            try:
                ended = await asyncio.wait_for(
                    self.control.terminate_client(server_pid, pid), TERMINATE_DEADLINE_S
                )
                _log.info("mps client terminated", lane_pid=pid, mps_server_pid=server_pid, ended=ended)
            except (MpsError, TimeoutError) as error:
                _log.warning("mps client not terminated", lane_pid=pid, error=str(error))

    async def _server_pids(self) -> list[int]:
        """By the last look; before the first one, while the agent adopts, by the daemon's word now."""
        if self._observer.servers:
            return [server.pid for server in self._observer.servers]
        try:
            return list(await asyncio.wait_for(self.control.server_pids(), TERMINATE_DEADLINE_S))
        except (MpsError, TimeoutError):
            return []

    def _wake_up(self) -> None:
        self._wake.set()

    def hurry(self) -> None:
        """Stop daemon and servers: the lanes have ended."""
        self._is_ending = True
        self._wake.set()


def _nobody_hears() -> None:
    pass
