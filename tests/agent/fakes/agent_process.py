"""The agent as a user sees it: a process, its HTTP, its files, and what lives beside it."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from agent_with_fakes import COMMANDS

from semipd_agent.processes.identity import read_identity, scan
from semipd_core.agent_config import (
    AgentConfig,
    AgentStatus,
    EngineStatus,
    KubernetesSettings,
    PartitionSettings,
    StandbySettings,
)
from semipd_core.partition import Isolation
from semipd_core.telemetry import SloTargets

DEADLINE_S = 60.0
NO_STANDBYS = StandbySettings()
PR_SET_CHILD_SUBREAPER = 36
_agent_pids: set[int] = set()
PROGRAM = str(Path(__file__).with_name("agent_with_fakes.py"))


def agent_config(
    engines: int = 1,
    drain_timeout_seconds: int = 10,
    kubernetes: KubernetesSettings | None = None,
    device: str = "CPU",
    standby: StandbySettings = NO_STANDBYS,
    **partition: object,
) -> AgentConfig:
    settings: dict[str, object] = {
        "mode": "Static",
        "policy": "Static",
        "isolation": Isolation.MPS,
        "initial_prefill_percent": 80,
        "initial_decode_percent": 100,
        "prefill_min_percent": 10,
        "prefill_max_percent": 100,
        "decode_min_percent": 10,
        "decode_max_percent": 100,
        "cooldown_seconds": 30,
    }
    return AgentConfig(
        service="chat",
        engines=engines,
        device=device,
        host="127.0.0.1",
        port=8000,
        model_uri="file:///nowhere",
        served_name="fake",
        dtype="FP32",
        max_context_tokens=256,
        kv_bytes=None,
        block_tokens=16,
        max_rows=8,
        prefill_budget_tokens=64,
        mixed_budget_tokens=32,
        prefill_policy="SPF",
        spf_aging_tokens_per_s=15.0,
        spf_max_wait_s=10.0,
        run_ahead=2,
        prefix_cache=True,
        api_key=None,
        max_queued_requests=16,
        drain_timeout_seconds=drain_timeout_seconds,
        slo=SloTargets(ttft_percentile=90, ttft_ms=2000, tpot_percentile=90, tpot_ms=250),
        partition=PartitionSettings(**{**settings, **partition}),  # type: ignore[arg-type]
        kubernetes=kubernetes,
        standby=standby,
    )


@dataclass(frozen=True, slots=True)
class Answer:
    status_code: int
    content: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.content)


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a unix socket; a failed connect leaves nothing open."""

    def __init__(self, path: str) -> None:
        super().__init__("agent", timeout=5)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@contextlib.contextmanager
def subreaper() -> Iterator[None]:
    """As `semipd up` is one: what a dead agent leaves behind becomes a child of this process."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        _reap()
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


class AgentProcess:
    def __init__(
        self,
        directory: Path,
        faults: dict[str, object] | None = None,
        environment: dict[str, str] | None = None,
        **settings: object,
    ) -> None:
        self.directory = directory
        self.environment = environment or {}
        (directory / "service.json").write_bytes(msgspec.json.encode(agent_config(**settings)))  # type: ignore[arg-type]
        self.set_faults(**(faults or {}))
        self._process: subprocess.Popen[bytes] | None = None
        self.socket_path = str(directory / "agent.sock")

    def set_faults(self, **faults: object) -> None:
        (self.directory / "faults.json").write_bytes(msgspec.json.encode(faults))

    # --- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        with (self.directory / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, PROGRAM, "--run-dir", str(self.directory)],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )
        _agent_pids.add(self._process.pid)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self, timeout_s: float = DEADLINE_S) -> int:
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout_s)

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        assert self._process is not None
        return self._process.wait(timeout_s)

    def keep_alive(self) -> None:
        """What init does: start a dead agent again."""
        if not self.is_alive:
            self.start()

    # --- what it says -------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        """Raises: OSError, http.client.HTTPException while nobody answers."""
        connection = UnixConnection(self.socket_path)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else msgspec.json.encode(body))
            answer = connection.getresponse()
            return Answer(answer.status, answer.read())

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def post(self, path: str) -> Answer:
        return self.ask("POST", path)

    def wish(self, prefill: int, decode: int = 100, *, query: str = "", **fields: object) -> Answer:
        body = {
            "target": {"prefillPercent": prefill, "decodePercent": decode},
            "decisionId": f"wish-{prefill}-{decode}",
            **fields,
        }
        return self.ask("PUT", f"/v1/wish{query}", body)

    def status(self) -> AgentStatus:
        return msgspec.json.decode(self.get("/v1/status").content, type=AgentStatus)

    def engine(self, number: int = 0) -> EngineStatus:
        return self.status().engines[number]

    def granted(self, number: int = 0) -> tuple[int, int] | None:
        granted = self.engine(number).granted
        return None if granted is None else (granted.prefill_percent, granted.decode_percent)

    def pids(self, number: int = 0) -> dict[str, int]:
        """By role; lanes that stand by are left out."""
        return {process.role: process.pid for process in self.engine(number).processes if not process.standby}

    def standbys(self) -> dict[tuple[str, int | None], int]:
        """Pids of warm lanes, by role and share."""
        return {
            (process.role, process.requested_percent): process.pid
            for process in self.engine().processes
            if process.standby
        }

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = DEADLINE_S) -> None:
        """Raises: AssertionError with the agent's log."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            try:
                if condition():
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.05)
        raise AssertionError(f"not within {timeout_s} s: {what}\n{self.log()}")

    def until_ready(self) -> None:
        self.until(lambda: self.get("/readyz").status_code == 200, "ready")

    def until_steady(self, prefill: int, decode: int = 100, number: int = 0) -> None:
        def is_steady() -> bool:
            engine = self.engine(number)
            return engine.phase == "Steady" and self.granted(number) == (prefill, decode)

        self.until(is_steady, f"steady at ({prefill}, {decode})")

    def log(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}"
            for path in [self.directory / "agent.log", *sorted((self.directory / "logs").glob("*.log"))]
        )

    # --- what lives beside it -----------------------------------------------------------------------------------

    def living(self) -> list[int]:
        """Processes of the run directory, the agent apart."""
        _reap()
        return [facts.identity.pid for facts in scan(COMMANDS.all, str(self.directory))]

    def sockets(self) -> list[Path]:
        return list(self.directory.rglob("*.sock"))

    def assert_nothing_left(self) -> None:
        self.until(lambda: not self.living(), "no process left")
        assert not self.is_alive
        assert self.sockets() == []

    def clear_away(self) -> None:
        if self.is_alive:
            self.kill()
        for pid in self.living():
            if read_identity(pid) is not None:
                os.kill(pid, signal.SIGKILL)
        self.until(lambda: not self.living(), "cleared away")


def _reap() -> None:
    """Orphans that have ended; agents themselves are waited for by their Popen."""
    for entry in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        if int(entry) in _agent_pids or read_identity(int(entry)) is not None:
            continue
        with contextlib.suppress(ChildProcessError):
            os.waitpid(int(entry), os.WNOHANG)
