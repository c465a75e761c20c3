"""The operator as a process of its own: start it, ask it, kill it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from dataclasses import dataclass
from pathlib import Path

import httpx

from semipd_bench.scale.processes import Usage, read_usage
from semipd_core.errors import SemipdError

NAMESPACE = "default"
STOP_S = 20.0
_PREFIX = "semipd_operator_"
_FIGURES = (  # all series would be a tenth of the operator's work while it is measured
    *("leads", "services", "queue_length", "turns", "writes", "rounds", "round_seconds"),
    *("services_looked_at", "engines_reporting"),
)


class OperatorEnded(SemipdError):
    """The operator ended by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorFigures:
    """What the operator says of itself in `/metrics`."""

    leads: bool
    services: int
    queue_length: int
    turns: int
    writes: int
    rounds: int
    round_s: float  # the last one
    services_looked_at: int  # by the cluster loop, since the start
    engines_reporting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorProcess:
    process: Process
    log: Path
    url: str
    client: httpx.AsyncClient

    @property
    def usage(self) -> Usage:
        """Raises: OperatorEnded."""
        try:
            return read_usage(self.process.pid)
        except (OSError, KeyError):
            raise OperatorEnded(f"the operator has ended:\n{self.tail()}") from None

    async def figures(self) -> OperatorFigures | None:
        """None: it does not answer yet. Raises: OperatorEnded."""
        if self.process.returncode is not None:
            raise OperatorEnded(f"the operator has ended:\n{self.tail()}")
        try:
            names = {"name[]": [_PREFIX + name for name in _FIGURES]}
            answer = await self.client.get(f"{self.url}/metrics", params=names, timeout=10.0)
        except httpx.HTTPError:
            return None
        return parse_figures(answer.text)

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


def parse_figures(text: str) -> OperatorFigures:
    """Raises: KeyError if one is missing."""
    values: dict[str, float] = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith(_PREFIX):
            values[name.removeprefix(_PREFIX)] = float(value)
    return OperatorFigures(
        leads=values["leads"] == 1,
        services=int(values["services"]),
        queue_length=int(values["queue_length"]),
        turns=int(values["turns"]),
        writes=int(values["writes"]),
        rounds=int(values["rounds"]),
        round_s=values["round_seconds"],
        services_looked_at=int(values["services_looked_at"]),
        engines_reporting=int(values["engines_reporting"]),
    )


async def start_operator(
    kubeconfig: Path, log: Path, *, identity: str, round_s: float, agent_port: int, health_port: int
) -> OperatorProcess:
    environment = {
        **os.environ,
        "KUBECONFIG": str(kubeconfig),
        "SEMIPD_OPERATOR_ENGINE_IMAGE": "semipd/engine:scale",
        "SEMIPD_OPERATOR_NAMESPACE": NAMESPACE,
        "SEMIPD_OPERATOR_IDENTITY": identity,
        "SEMIPD_OPERATOR_ROUND_SECONDS": str(round_s),
        "SEMIPD_OPERATOR_AGENT_PORT": str(agent_port),
        "SEMIPD_OPERATOR_HEALTH_PORT": str(health_port),
    }
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "semipd_operator"),
            stdin=DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the benchmark, which stops it
        )
    client = httpx.AsyncClient(trust_env=False)
    return OperatorProcess(process=process, log=log, url=f"http://127.0.0.1:{health_port}", client=client)


async def stop_operator(operator: OperatorProcess, *, kill: bool = False) -> None:
    await operator.client.aclose()
    process = operator.process
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.kill() if kill else process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
