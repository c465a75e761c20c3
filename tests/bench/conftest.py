"""Servers whose answers are known: an OpenAI service, and an agent on its socket. Builders of what agents report."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from semipd_core.agent_config import AgentStatus, DecisionStatus, PartitionWire, ProcessStatus, SwitchStatus
from semipd_core.partition import Role
from semipd_core.telemetry import CoordinatorReport, EngineReport, LaneReport


@dataclass
class FakeOpenAI:
    """One token per `tpot_s` after `ttft_s`, nothing computed."""

    ttft_s: float = 0.03
    tpot_s: float = 0.01
    refuse_every: int = 0  # every n-th request gets a 429
    break_after: int | None = None  # tokens, then the stream ends without [DONE]
    bodies: list[dict[str, object]] = field(default_factory=list)
    url: str = ""

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if self.refuse_every and len(self.bodies) % self.refuse_every == 0:
            return JSONResponse({"error": {"message": "queue full"}}, 429, {"retry-after": "1"})
        return StreamingResponse(self.stream(body), media_type="text/event-stream")

    async def stream(self, body: dict) -> AsyncIterator[str]:
        for index in range(body["max_tokens"]):
            await asyncio.sleep(self.tpot_s if index else self.ttft_s)
            if self.break_after == index:
                return
            yield _event({"choices": [{"index": 0, "text": "a", "finish_reason": None}]})
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
        yield _event({"choices": [], "usage": usage})
        yield "data: [DONE]\n\n"

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[FakeOpenAI]:
        app = Starlette(routes=[Route("/v1/completions", self.completions, methods=["POST"])])
        config = uvicorn.Config(
            app, log_level="error", lifespan="off", ws="none", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
            task = asyncio.create_task(server._serve(sockets=[sock]))
            try:
                yield self
            finally:
                server.should_exit = True
                await task


def _event(value: dict) -> str:
    return f"data: {json.dumps(value)}\n\n"


@pytest.fixture
def fake_openai() -> FakeOpenAI:
    return FakeOpenAI()


def build_lane(role: Role, percent: int, **overrides) -> LaneReport:
    values = {
        "lane_id": f"{role}-1", "role": role, "pid": 1, "active": True, "requested_percent": percent,
        "granted_percent": percent, "batch": 1, "steps": 1, "tokens": 100, "busy_us": 1, "compute_us": 1,
    }  # fmt: skip
    return LaneReport(**(values | overrides))


def build_report(
    engine_id="engine-0", at_s=1000.0, prefill=80, decode=100, tokens=100, waiting=2
) -> EngineReport:
    coordinator = CoordinatorReport(
        waiting=waiting, prefilling=1, decoding=3, kv_blocks_total=200, kv_blocks_used=50, kv_blocks_cached=0,
        block_tokens=16, waiting_tokens=77, oldest_wait_ms=0, preemptions=0, prefix_hit_tokens=0, lane_restarts=0,
        lanes=[build_lane(Role.PREFILL, prefill, tokens=tokens), build_lane(Role.DECODE, decode)],
    )  # fmt: skip
    return EngineReport(
        engine_id=engine_id, at_s=at_s, phase="Steady", requested=(prefill, decode), granted=(prefill, decode),
        front_end=None, coordinator=coordinator,
    )  # fmt: skip


def build_switch(at_s: float, **overrides) -> SwitchStatus:
    values = {
        "decision_id": "d1", "at_s": at_s,
        "from_partition": PartitionWire(prefill_percent=80, decode_percent=40),
        "to_partition": PartitionWire(prefill_percent=60, decode_percent=100),
        "reason": "TPOTPredictedMiss", "message": "TPOT 300 of 250 ms <expected>", "seconds": 1.25, "outcome": "Done",
    }  # fmt: skip
    return SwitchStatus(**(values | overrides))


def build_status(switches=(), decisions=()) -> AgentStatus:
    return AgentStatus(
        service="chat", url="http://127.0.0.1:1/v1", ready=True, draining=False,
        agent=ProcessStatus(role="agent", pid=1), shared=[], engines=[], wish=None, decisions=list(decisions),
        switches=list(switches), attainment_permille=900,
    )  # fmt: skip


@dataclass
class FakeAgent:
    """An agent's HTTP whose one switch starts `switch_after_s` after it is first asked."""

    switch_after_s: float
    begun_unix_s: float = float("inf")

    @contextlib.asynccontextmanager
    async def serve(self, run_dir: Path) -> AsyncIterator[FakeAgent]:
        routes = [Route("/v1/status", self.status), Route("/v1/windows", self.windows)]
        config = uvicorn.Config(
            Starlette(routes=routes),
            uds=str(run_dir / "agent.sock"),
            log_level="error",
            lifespan="off",
            ws="none",
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield self
        finally:
            server.should_exit = True
            await task

    @property
    def is_switched(self) -> bool:
        return time.time() >= self.begun_unix_s + self.switch_after_s

    async def status(self, request: Request) -> Response:
        self.begun_unix_s = min(self.begun_unix_s, time.time())
        switch = build_switch(self.begun_unix_s + self.switch_after_s)
        decision = DecisionStatus(
            at_s=switch.at_s, loop="cluster", engine_id=None, partition=switch.to_partition, changed=True,
            reason=switch.reason, message=switch.message,
        )  # fmt: skip
        found = ([switch], [decision]) if self.is_switched else ([], [])
        return Response(msgspec.json.encode(build_status(*found)))

    async def windows(self, request: Request) -> Response:
        split = (60, 100) if self.is_switched else (80, 40)
        engines = [build_report(name, time.time(), *split) for name in ("engine-0", "engine-1")]
        return Response(msgspec.json.encode(engines))


@pytest.fixture
def report_of():
    return build_report


@pytest.fixture
def switch_at():
    return build_switch


@pytest.fixture
def status_with():
    return build_status


@pytest.fixture
def fake_agent():
    return FakeAgent
