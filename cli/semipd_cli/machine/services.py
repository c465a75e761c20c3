"""Asks the agents of the services that run here. Nothing fails for one that does not answer."""

from __future__ import annotations

import asyncio

import msgspec

from semipd_agent.run_directory import RunDirectory
from semipd_cli import run_directory
from semipd_cli.agent_client import AgentClient
from semipd_cli.machine.service_facts import ServiceFacts, activity, read_xids
from semipd_core.errors import NotReadyYet

PAUSE_S = 2.0  # between two reports of an engine: agents make one each second


def observe() -> list[ServiceFacts]:
    """Of this user's services."""
    return asyncio.run(_ask_all())


async def _ask_all() -> list[ServiceFacts]:
    return await asyncio.gather(*(_ask(directory) for directory in run_directory.living()))


async def _ask(directory: RunDirectory) -> ServiceFacts:
    record = run_directory.read_record(directory)
    name = record.service if record is not None else directory.path.name
    try:
        async with AgentClient(str(directory.agent_socket)) as client:
            before = await client.windows()
            await asyncio.sleep(PAUSE_S)
            lanes = activity(before, await client.windows())
            return ServiceFacts(service=name, xids=read_xids(await client.metrics()), lanes=lanes)
    except (NotReadyYet, msgspec.MsgspecError, ValueError) as error:
        return ServiceFacts(service=name, problem=str(error))
