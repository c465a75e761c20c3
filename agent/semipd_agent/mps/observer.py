"""What is there: the daemon's answers, the GPU's state, and how long each has been so."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence

from semipd_agent.mps import processes
from semipd_agent.mps.control import MpsControl, NoAnswer, NoDaemon
from semipd_agent.mps.preflight import GpuSharing, Refusal, refuse
from semipd_agent.mps.replies import MpsError, NoSuchServer, ServerStatus
from semipd_agent.mps.view import LaneClient, MpsView, ServerView
from semipd_agent.processes.backoff import Backoff
from semipd_agent.processes.identity import read_identity
from semipd_agent.supervision.child import Child
from semipd_core.errors import DeviceError


class MpsObserver:
    """`servers` and `error` are of the last look; `binary` is the control program."""

    def __init__(
        self,
        control: MpsControl,
        binary: str,
        pipe_directory: str,
        sharing: Callable[[], list[GpuSharing]],
    ) -> None:
        self.servers: tuple[ServerView, ...] = ()
        self.error: str | None = None
        self._control = control
        self._binary = binary
        self._pipes = pipe_directory
        self._sharing = sharing
        self._has_answered = False
        self._answered_s = time.monotonic()
        self._since_s: dict[tuple[int, ServerStatus, bool], float] = {}
        self._server_backoff = Backoff()
        self._is_server_due = False

    def daemon_started(self, now_s: float) -> None:
        self._has_answered, self._answered_s = False, now_s
        self._since_s.clear()

    def server_starts(self, now_s: float) -> None:
        self._server_backoff = self._server_backoff.started(now_s)
        self._is_server_due = True

    async def observe(
        self, child: Child, lanes: Sequence[LaneClient], *, is_ending: bool, is_quit_sent: bool
    ) -> MpsView:
        lanes = tuple(lane for lane in lanes if read_identity(lane.pid) is not None)
        refusal: Refusal | None = None
        self.error = None
        if child.is_alive:
            orphan_pids = await self._ask(lanes, is_quit_sent=is_quit_sent)
        else:
            self.servers = ()
            found = await asyncio.to_thread(processes.find, self._pipes)
            orphan_pids = tuple(facts.identity.pid for facts in found.servers)
            if not is_ending and not lanes:
                refusal = await asyncio.to_thread(self._refuse, found.foreign_server_pids)
        now_s = time.monotonic()
        return MpsView(
            daemon=child.view(),
            daemon_failures=child.backoff.failures,
            server_failures=self._server_backoff.failures,
            has_answered=self._has_answered,
            silent_s=now_s - self._answered_s if child.is_alive and not is_quit_sent else 0.0,
            servers=self.servers,
            orphan_pids=orphan_pids,
            server_due=self._server_backoff.is_due(now_s),
            lanes=lanes,
            refusal=refusal,
            is_ending=is_ending,
            is_quit_sent=is_quit_sent,
        )

    async def _ask(self, lanes: Sequence[LaneClient], *, is_quit_sent: bool) -> tuple[int, ...]:
        """The daemon's servers are left in `servers`; servers that it does not list are returned."""
        if is_quit_sent:
            return ()
        try:
            found = () if self.servers else (await asyncio.to_thread(processes.find, self._pipes)).servers
            pids = await self._control.server_pids()
            views = [await self._server(pid, has_lanes=bool(lanes)) for pid in pids]
        except MpsError as error:
            self.error = str(error)
            if not isinstance(error, (NoAnswer, NoDaemon)):
                self._answered_s = (
                    time.monotonic()
                )  # it speaks, if not as expected: no reason to end what runs
            return ()
        self.servers = tuple(view for view in views if view is not None)
        self._has_answered, self._answered_s = True, time.monotonic()
        self._count_failures()
        return tuple(facts.identity.pid for facts in found if facts.identity.pid not in pids)

    async def _server(self, pid: int, *, has_lanes: bool) -> ServerView | None:
        """None: it has ended meanwhile."""
        try:
            status = await self._control.server_status(pid)
            is_told = status is not ServerStatus.INITIALIZING  # before that the list is empty whoever waits
            clients = await self._control.client_pids(pid) if is_told else None
        except NoSuchServer:
            return None
        now_s = time.monotonic()
        since_s = self._since_s.setdefault((pid, status, has_lanes), now_s)
        for key in [key for key in self._since_s if key[0] == pid and key != (pid, status, has_lanes)]:
            del self._since_s[key]
        return ServerView(pid=pid, status=status, status_age_s=now_s - since_s, client_pids=clients)

    def _count_failures(self) -> None:
        """A server that was asked for and is gone has failed; one that became active is forgiven."""
        if any(server.status is ServerStatus.ACTIVE for server in self.servers):
            self._server_backoff, self._is_server_due = Backoff(), True
        elif not self.servers and self._is_server_due:
            self._server_backoff, self._is_server_due = self._server_backoff.died(time.monotonic()), False

    def _refuse(self, foreign_server_pids: Sequence[int]) -> Refusal | None:
        missing = [name for name in (self._binary, processes.SERVER) if shutil.which(name) is None]
        if missing:
            message = f"PATH: got no {' and no '.join(missing)}, allowed: the programs of the GPU's driver"
            return Refusal(reason="NoBinary", message=message)
        try:
            gpus = self._sharing()
        except DeviceError as error:
            return Refusal(reason="NoDriver", message=str(error))
        return refuse(gpus, foreign_server_pids, self._pipes)
