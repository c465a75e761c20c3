"""Starts lanes of one engine through the zygote, journalled first, and sees them end."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping

from semipd_agent.journal import entries as entry
from semipd_agent.processes.backoff import Backoff
from semipd_agent.processes.identity import Identity, read_identity
from semipd_agent.supervision.child import note_started
from semipd_agent.supervision.lane import Lane
from semipd_agent.supervision.lane_table import LaneTable
from semipd_agent.supervision.surroundings import Surroundings
from semipd_agent.supervision.view import LaneStage
from semipd_agent.supervision.zygote_client import (
    SHARE_ENVIRONMENT,
    ForkRefused,
    ForkRequest,
    ForkUnknown,
    SecondRole,
)
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
        self.losses: Counter[Role] = Counter()  # lanes that ended unasked

    def due(self) -> Mapping[Role, bool]:
        """Whether a lane of the role may start again, for roles whose lanes have died."""
        now_s = time.monotonic()
        return {role: backoff.is_due(now_s) for role, backoff in self._backoff.items()}

    async def fork(
        self, role: Role, percent: int, reason: str, second: tuple[Role, int] | None = None
    ) -> None:
        """`second`: the other role of the same process, and its share. Raises: JournalUnwritable: nothing was forked."""
        lane = self._begin(role, percent)
        lanes = [lane] if second is None else [lane, self._begin(*second)]
        identity = await self._ask_zygote(*lanes)
        for each in lanes:
            if identity is None or not self.watch(each, identity):
                each.is_pending = False
                self._ended(each)
                continue
            note_started(self._around.journal, each.name, identity)
            _log.info(
                "lane forked",
                engine_id=self._engine_id,
                lane_id=each.lane_id,
                lane_pid=identity.pid,
                percent=each.percent,
                reason=reason,
            )

    def _begin(self, role: Role, percent: int) -> Lane:
        lane_id = f"{role}-{secrets.token_hex(4)}"
        name = f"{self._engine_id}/{lane_id}"
        self._around.journal.append(entry.Starting(process=name, lane_role=role, percent=percent))
        self._backoff[role] = self._backoff.get(role, Backoff()).started(time.monotonic())
        return self._lanes.add(Lane(lane_id, name, role, percent, is_pending=True))

    async def _ask_zygote(self, lane: Lane, second: Lane | None = None) -> Identity | None:
        """None: no lane, or one that has ended already."""
        config = self._around.run_directory.engine_config(self._engine_id)
        share = {SHARE_ENVIRONMENT: str(lane.percent)}
        other = None
        if second is not None:  # its shares are its streams', not the process's
            share = {}
            other = SecondRole(lane_id=second.lane_id, role=second.role, percent=second.percent)
        request = ForkRequest(
            lane_id=lane.lane_id,
            role=lane.role,
            percent=lane.percent,
            config=str(config),
            env={**self._around.lane_environment, **share},
            log=str(self._around.run_directory.log(f"{self._engine_id}-{lane.role}")),
            second=other,
        )
        try:
            return read_identity(await self._around.fork(request))
        except (ForkRefused, ForkUnknown) as error:
            _log.error("no lane", engine_id=self._engine_id, role=lane.role, error=str(error))
            return None

    def watch(self, lane: Lane, identity: Identity | None) -> bool:
        """Whether the lane lives; `on_exit` is called when it ends."""
        is_alive = lane.watch(identity, lambda: self._ended(lane))
        if is_alive and (twin := self._lanes.twin_of(lane)) is not None:
            lane.twin, twin.twin = twin, lane
        return is_alive

    def _ended(self, lane: Lane) -> None:
        _log.info("lane exited", engine_id=self._engine_id, lane_id=lane.lane_id, stage=lane.stage)
        if lane.signalled is None:
            self.losses[lane.role] += lane.stage is not LaneStage.RETIRED
            backoff = self._backoff.get(lane.role, Backoff())
            self._backoff[lane.role] = backoff.died(time.monotonic())
        self._on_exit(lane)
