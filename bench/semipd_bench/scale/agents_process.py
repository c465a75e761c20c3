"""The process that plays all agents, as the benchmark holds it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from semipd_bench.scale.agents import Order, Tally
from semipd_bench.scale.fleet import Fleet
from semipd_core.errors import SemipdError

STOP_S = 20.0


class AgentsEnded(SemipdError):
    """The simulated agents ended by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentsProcess:
    process: Process
    log: Path

    async def obey(self, order: Order) -> Tally:
        """Raises: AgentsEnded."""
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(order) + b"\n")
        return await self.tally()

    async def tally(self) -> Tally:
        """The answer to an order, or to the start. Raises: AgentsEnded."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise AgentsEnded(f"the simulated agents have ended; their log is {self.log}")
        return msgspec.json.decode(line, type=Tally)


@contextlib.asynccontextmanager
async def running_agents(
    kubeconfig: Path, fleet: Fleet, port: int, log: Path
) -> AsyncIterator[AgentsProcess]:
    """Raises: AgentsEnded."""
    module = (sys.executable, "-m", "semipd_bench.scale.agents")
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *(*module, str(fleet.services), str(fleet.pods_per_service), str(port)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            start_new_session=True,
        )
    agents = AgentsProcess(process=process, log=log)
    try:
        await agents.tally()
        yield agents
    finally:
        await _stop(process)


async def _stop(process: Process) -> None:
    """Its standard input ends, and so does it."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
