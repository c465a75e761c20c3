"""All agents of the fleet in one process: `python -m semipd_bench.scale.agents SERVICES PODS PORT`, orders by standard input.

Each line in is an `Order`, each line out a `Tally`. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import logging
import sys

import msgspec
from lightkube import AsyncClient

from semipd_bench.scale.agent_server import AgentServer, Conduct
from semipd_bench.scale.agent_writers import AgentWriters
from semipd_bench.scale.fleet import Fleet, PodName
from semipd_bench.scale.traffic import HEAVY, STEADY, EngineTraffic
from semipd_shell import log


class Order(msgspec.Struct, omit_defaults=True):
    """What changes; the answer comes when it has."""

    heavy_services: list[int] = []
    steady_services: list[int] = []
    conduct: Conduct | None = None  # of every second agent


class Tally(msgspec.Struct):
    """Since the start."""

    served: int
    status_writes: int


class Agents:
    def __init__(self, fleet: Fleet, port: int, client: AsyncClient) -> None:
        self._fleet = fleet
        self._traffic = {pod: EngineTraffic("engine-0", seed) for seed, pod in enumerate(fleet.pod_names())}
        self.server = AgentServer(fleet, self._traffic, port)
        self.writers = AgentWriters(client, self._traffic)

    async def obey(self, order: Order) -> None:
        for load, services in ((HEAVY, order.heavy_services), (STEADY, order.steady_services)):
            for service in services:
                for replica in range(self._fleet.pods_per_service):
                    self._traffic[PodName(service, replica)].load = load
        if order.conduct is not None:
            for pod in self._fleet.pod_names():
                if self._fleet.number_of(pod) % 2:
                    await self.server.set_conduct(pod, order.conduct)

    @property
    def tally(self) -> Tally:
        return Tally(served=self.server.served, status_writes=self.writers.writes)


async def serve(fleet: Fleet, port: int) -> None:
    agents = Agents(fleet, port, AsyncClient())
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    async with agents.server.running():
        writing = asyncio.create_task(agents.writers.run())
        _say(agents.tally)
        while line := await orders.readline():
            await agents.obey(msgspec.json.decode(line, type=Order))
            _say(agents.tally)
        writing.cancel()


def _say(tally: Tally) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(tally) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    log.configure("agents")
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    services, pods, port = map(int, sys.argv[1:])
    asyncio.run(serve(Fleet(services=services, pods_per_service=pods), port))
