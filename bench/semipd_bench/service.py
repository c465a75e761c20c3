"""A `semipd up` of one's own: start it, wait until it is ready, ask for splits, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from semipd_bench.agent_client import AgentClient, AgentRefused
from semipd_bench.load import Target
from semipd_core.agent_config import AgentConfig, AgentStatus, PartitionWire, WishWire
from semipd_core.errors import SemipdError
from semipd_core.partition import Partition

STOP_S = 60.0
POLL_S = 0.1
UP_COMMAND = (sys.executable, "-m", "semipd_cli", "up")


class ServiceEnded(SemipdError):
    """`semipd up` ended by itself; `exit_code` is its exit code. What it printed has been passed on."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(f"semipd up ended with exit code {exit_code}")


class ServiceNotReady(SemipdError):
    """`semipd up` has not become ready in the time it had; the text ends with what its agent says is wrong."""

    def __init__(self, start_s: float, problems: Sequence[str]) -> None:
        super().__init__(f"semipd up is not ready after {start_s:.0f} s: {'; '.join(problems)}")


class SplitRefused(SemipdError):
    """A split that was asked for is not granted."""


class _ModelFacts(msgspec.Struct, rename="camel"):
    vocab_size: int
    max_context_tokens: int


class _UpRecord(msgspec.Struct, rename="camel"):
    phase_seconds: dict[str, float] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service that is ready. `config` is what its agent was told."""

    run_dir: Path
    config: AgentConfig
    target: Target
    context_tokens: int
    agent: AgentClient

    async def set_split(
        self, partition: Partition, *, reason: str, message: str, pinned: bool, timeout_s: float = 60.0
    ) -> None:
        """Ask for a split in place of the one asked for last, and wait until every engine has been granted it.

        Raises: SplitRefused if that takes longer than `timeout_s`, AgentRefused if the agent says no.
        """
        caps = PartitionWire(
            prefill_percent=partition.prefill_percent, decode_percent=partition.decode_percent
        )
        before = await self._status()
        wish = WishWire(
            target=caps,
            decision_id=f"{reason}-{os.urandom(4).hex()}",
            reason=reason,
            message=message,
            pinned=pinned,
            releases=before.wish.decision_id if before is not None and before.wish is not None else None,
        )
        await self.agent.put_wish(wish)
        try:
            async with asyncio.timeout(timeout_s):
                while not _has_split(await self._status(), caps):
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise SplitRefused(f"{partition} is not granted after {timeout_s:.0f} s") from None

    async def _status(self) -> AgentStatus | None:
        try:
            return await self.agent.status()
        except (httpx.HTTPError, AgentRefused):
            return None


def _has_split(status: AgentStatus | None, caps: PartitionWire) -> bool:
    if status is None:
        return False
    return all(engine.granted == caps and engine.phase == "Steady" for engine in status.engines)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def run_service(
    file: Path,
    run_dir: Path,
    *,
    say: Callable[[str], None],
    log: Path,
    cluster_period_s: float = 1.0,
    environment: Mapping[str, str] | None = None,
    port: int | None = None,
    start_s: float | None = None,
    command: Sequence[str] = UP_COMMAND,
) -> AsyncIterator[Service]:
    """Start `semipd up -f file`, yield once it is ready, stop it at the end. What it prints goes to `log`, and to `say`
    until it is ready.

    Raises: ServiceEnded if it ends before it is ready, ServiceNotReady if that takes longer than `start_s` (None: no limit).
    """
    port = free_port() if port is None else port
    arguments = ("-f", str(file), "--run-dir", str(run_dir), "--port", str(port))
    process = await asyncio.create_subprocess_exec(
        *(*command, *arguments, "--cluster-period", str(cluster_period_s), "--keep-run-dir"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        start_new_session=True,  # Ctrl-C is for the caller, which stops the service in order
    )
    output = _Output(process, log, say)
    agent = AgentClient(run_dir)
    try:
        await _wait_until_ready(process, agent, output, start_s)
        output.is_starting = False
        yield _describe_service(run_dir, port, agent)
    finally:
        await agent.close()
        await _stop(process)
        await output.ended


class _Output:
    """Copies what the child prints, so that its pipe never fills."""

    def __init__(self, process: Process, log: Path, say: Callable[[str], None]) -> None:
        self.is_starting = True
        self._say = say
        self.ended = asyncio.create_task(self._copy(process, log))

    async def _copy(self, process: Process, log: Path) -> None:
        assert process.stdout is not None
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            async for line in process.stdout:
                file.write(line)
                file.flush()
                if self.is_starting:
                    self._say(line.decode(errors="replace").rstrip())


async def _wait_until_ready(
    process: Process, agent: AgentClient, output: _Output, start_s: float | None
) -> None:
    status: AgentStatus | None = None
    try:
        async with asyncio.timeout(start_s):
            while status is None or not status.ready:
                if process.returncode is not None:
                    await output.ended
                    raise ServiceEnded(process.returncode)
                await asyncio.sleep(POLL_S)
                with contextlib.suppress(httpx.HTTPError, AgentRefused):
                    status = await agent.status()
    except TimeoutError:
        assert start_s is not None
        raise ServiceNotReady(start_s, problems_of(status)) from None


def problems_of(status: AgentStatus | None) -> list[str]:
    """What keeps a service from being ready, as its agent says; None: it did not answer."""
    if status is None:
        return ["its agent does not answer"]
    said = [
        *(f"{fault.reason}: {fault.message}" for fault in status.faults),
        *status.problems,
        *(f"{engine.engine_id}: {engine.error}" for engine in status.engines if engine.error),
    ]
    return said or [f"{engine.engine_id}: {engine.phase}" for engine in status.engines] or ["no engine yet"]


def _describe_service(run_dir: Path, port: int, agent: AgentClient) -> Service:
    config = msgspec.json.decode((run_dir / "service.json").read_bytes(), type=AgentConfig)
    return Service(
        run_dir=run_dir,
        config=config,
        target=Target(
            url=f"http://127.0.0.1:{port}",
            model=config.served_name,
            vocabulary_tokens=read_vocabulary(run_dir),
            api_key=config.api_key,
        ),
        context_tokens=min(_facts(run_dir).max_context_tokens, config.max_context_tokens or sys.maxsize),
        agent=agent,
    )


def read_vocabulary(run_dir: Path) -> int:
    """How many token ids the served model has.

    Raises: OSError if no engine has loaded a model there.
    """
    return _facts(run_dir).vocab_size


def read_phases(run_dir: Path) -> Mapping[str, float]:
    """Seconds since the start of `semipd up`, by phase; empty where it has not said so yet."""
    try:
        return msgspec.json.decode((run_dir / "up.json").read_bytes(), type=_UpRecord).phase_seconds
    except (OSError, msgspec.MsgspecError):
        return {}


def _facts(run_dir: Path) -> _ModelFacts:
    files = sorted(run_dir.glob("engine-*/model/model.json"))
    if not files:
        raise FileNotFoundError(f"{run_dir}: no engine-*/model/model.json")
    return msgspec.json.decode(files[0].read_bytes(), type=_ModelFacts)


async def _stop(process: Process) -> None:
    """In order (SIGTERM drains); SIGKILL only if that hangs."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
