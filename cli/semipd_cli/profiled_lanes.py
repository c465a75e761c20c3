"""Lanes for a measurement, from the zygote of `profiled_engine`; and what those that end leave behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from pathlib import Path

from semipd_agent.run_directory import RunDirectory
from semipd_agent.supervision.zygote_client import SHARE_ENVIRONMENT, ForkRequest, fork
from semipd_cli import run_directory
from semipd_core.engine_config import EngineConfig
from semipd_core.errors import SemipdError
from semipd_core.partition import Role
from semipd_engine.profiling.lane_link import Forked, LaneLost

ENGINE_ID = "engine-0"
WORDS_KEPT = 5  # lines of a log


class Forks:
    """Numbers the lanes; `environment`: theirs, beside the zygote's."""

    def __init__(self, directory: RunDirectory, engine: EngineConfig, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._environment = environment
        self._engine = engine
        self._numbers = itertools.count(1)

    def fork(self, role: Role, percent: int) -> Forked:
        """Raises: ForkRefused, ForkUnknown."""
        lane_id = f"{role}-{next(self._numbers)}"
        request = ForkRequest(
            lane_id=lane_id,
            role=role,
            percent=percent,
            config=str(self._directory.engine_config(ENGINE_ID)),
            env={**self._environment, SHARE_ENVIRONMENT: str(percent)},
            log=str(self._directory.log(lane_id)),
        )
        pid = asyncio.run(fork(self._engine.zygote_socket, request))
        return Forked(pid=pid, why_ended=lambda: why_ended(self._directory, lane_id))


def why_ended(directory: RunDirectory, lane_id: str) -> SemipdError:
    """What no other lane would get past either, as InvalidSpec; else the lane's last words."""
    return run_directory.read_error(directory) or LaneLost(
        last_words(directory.log(lane_id), f"{lane_id} has ended")
    )


def last_words(log: Path, head: str) -> str:
    """`head`, and below it the end of `log`, which need not be there."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join([head, *text.splitlines()[-WORDS_KEPT:]])
