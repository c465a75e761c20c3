"""Starts lanes of one engine through the zygote, journalled first, and sees them end."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping

from semipd_agent.journal import entries as entry
from semipd_agent.processes.backoff import Backoff
from semipd_agent.processes.identity import Identity, read_identity
from semipd_agent.supervision.child import note_started
from semipd_agent.supervision.lane import Lane
from semipd_agent.supervision.lane_table import LaneTable
from semipd_agent.supervision.surroundings import Surroundings
from semipd_agent.supervision.zygote_client import SHARE_ENVIRONMENT, ForkRefused, ForkRequest, ForkUnknown
from semipd_core.partition import Role
from semipd_shell import log

_log = log.logger(__name__)


class LaneStarter:
    """`on_exit` gets every lane that ended, or never began."""

    def __init__(
        self,
        engine_id: str,
        surroundings: Surroundings,
        lanes: LaneTable,
        on_exit: Callable[[Lane], None],
    ) -> None:
        self._engine_id = engine_id
        self._around = surroundings
        self._lanes = lanes
        self._on_exit = on_exit
        self._backoff: dict[Role, Backoff] = {}

    def due(self) -> Mapping[Role, bool]:
        """Whether a lane of the role may start again, for roles whose lanes have died."""
        now_s = time.monotonic()
        return {role: backoff.is_due(now_s) for role, backoff in self._backoff.items()}

    async def fork(self, role: Role, percent: int, reason: str) -> None:
        """Raises: JournalUnwritable: nothing was forked."""
        lane_id = f"{role}-{secrets.token_hex(4)}"
        name = f"{self._engine_id}/{lane_id}"
        self._around.journal.append(entry.Starting(process=name, lane_role=role, percent=percent))
        lane = self._lanes.add(Lane(lane_id, name, role, percent, is_pending=True))
        self._backoff[role] = self._backoff.get(role, Backoff()).started(time.monotonic())
        identity = await self._ask_zygote(lane)
        if identity is None or not self.watch(lane, identity):
            lane.is_pending = False
            self._ended(lane)
            return
        note_started(self._around.journal, name, identity)
        _log.info(
            "lane forked",
            engine_id=self._engine_id,
            lane_id=lane_id,
            lane_pid=identity.pid,
            percent=percent,
            reason=reason,
        )

    async def _ask_zygote(self, lane: Lane) -> Identity | None:
        """None: no lane, or one that has ended already."""
        config = self._around.run_directory.engine_config(self._engine_id)
        request = ForkRequest(
            lane_id=lane.lane_id,
            role=lane.role,
            percent=lane.percent,
            config=str(config),
            env={SHARE_ENVIRONMENT: str(lane.percent)},
            log=str(self._around.run_directory.log(f"{self._engine_id}-{lane.role}")),
        )
        try:
            return read_identity(await self._around.fork(request))
        except (ForkRefused, ForkUnknown) as error:
            _log.error("no lane", engine_id=self._engine_id, role=lane.role, error=str(error))
            return None

    def watch(self, lane: Lane, identity: Identity | None) -> bool:
        """Whether the lane lives; `on_exit` is called when it ends."""
        return lane.watch(identity, lambda: self._ended(lane))

    def _ended(self, lane: Lane) -> None:
        _log.info("lane exited", engine_id=self._engine_id, lane_id=lane.lane_id, stage=lane.stage)
        if lane.signalled is None:
            backoff = self._backoff.get(lane.role, Backoff())
            self._backoff[lane.role] = backoff.died(time.monotonic())
        self._on_exit(lane)
