"""One run of the goodput plan: a service in one mode, one workload at one rate, verdicts by the client's clock.

The engine stays up from run to run: a static split is pinned on the service whose split moves otherwise, and let go of after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from gpu_bench.engine import (
    NO_SLO,
    SETTINGS,
    START_LIMIT_S,
    Mode,
    model_directory,
    require_engine,
    write_service,
)
from gpu_bench.goodput_plan import CHUNK_BUDGETS, DRAIN_S, MODES, SETTLE_S, STATIC_SPLITS, Run
from gpu_bench.slo_rule import FACTORS, targets
from gpu_bench.verdicts import describe
from gpu_bench.workloads import arrivals, workloads
from semipd_bench.agent_client import AgentRefused
from semipd_bench.load import Load, open_client
from semipd_bench.outcome import Outcome, tpots_ms, ttfts_ms
from semipd_bench.service import Service, ServiceEnded, ServiceNotReady, SplitRefused, run_service
from semipd_bench.trace import Trace, bundled_trace, read_trace
from semipd_core.errors import SemipdError
from semipd_core.partition import Isolation, Partition
from semipd_core.telemetry import SloTargets

SEED = "run-1"
SINGLE_REQUESTS = 20
SINGLE_ENGINES = ("None", "Unified 2048")  # the second where the first does not serve


def _split(prefill_percent: int, decode_percent: int) -> Partition:
    return Partition(prefill_percent=prefill_percent, decode_percent=decode_percent)


ENGINES = {
    "MPS": Mode(name="MPS", isolation=Isolation.MPS, initial=_split(80, 100), moves=True),
    "GreenContext": Mode(
        name="GreenContext", isolation=Isolation.GREEN_CONTEXT, initial=_split(70, 30), moves=True
    ),
    "None": Mode(name="None", isolation=Isolation.NONE),
    **{
        f"Unified {budget}": Mode(
            name=f"Unified {budget}",
            isolation=Isolation.UNIFIED,
            settings={"SEMIPD_MIXED_BUDGET_TOKENS": str(budget)},
        )
        for budget in CHUNK_BUDGETS
    },
}
PINNED = {f"MPS ({p}, {d})": _split(p, d) for p, d in ((100, 100), (80, 100), *STATIC_SPLITS)}


class NoSlo(SemipdError):
    """Nothing here answers single requests, without which there is no SLO to judge by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warm:
    """An engine that runs, and whose targets it was told."""

    engine: str
    scene: str
    service: Service
    stack: contextlib.AsyncExitStack


class GoodputRuns:
    """Use as a context manager, which stops the engine at the end.

    Raises: Needs, at once, where this engine cannot serve on this device.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        require_engine(write_service(out / "goodput.yaml", out, ENGINES["None"]))
        self._model = model_directory(out)
        self._workloads = workloads(read_trace(bundled_trace()))
        self._warm: Warm | None = None
        self._file = out / "single.json"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    @property
    def warm(self) -> tuple[str, str] | None:
        return None if self._warm is None else (self._warm.engine, self._warm.scene)

    def knows_slo(self, workload: str) -> bool:
        return workload in self._singles()

    @property
    def singles_s(self) -> float:
        """Spent on the single requests that the SLOs come from."""
        return float(sum(single["spentSeconds"] for single in self._singles().values()))

    async def measure(self, run: Run) -> dict[str, Any]:
        """The run's row, with why it is `refused` (this machine cannot) or `uncounted` (it says nothing). Its SLO is known."""
        began_s = time.monotonic()
        slos = self._slos(run.workload)
        row: dict[str, Any] = {
            "slo": run.slo, "workload": run.workload, "mode": run.mode, "ratePerS": run.rate_per_s,
            "seconds": run.seconds, "requests": 0, "ttftTargetMs": slos[run.slo].ttft_ms,
            "tpotTargetMs": slos[run.slo].tpot_ms,
        }  # fmt: skip
        try:
            row |= await self._prepare(run, slos[run.slo])
            trace = self._arrivals(run)
            outcomes, cut_s = await self._load(run, trace)
            judged = {run.slo: slos[run.slo]} if MODES[run.mode].moves else slos
            row |= describe(outcomes, len(trace.requests), judged, cut_s)
        except (ServiceEnded, ServiceNotReady) as error:
            row |= {"refused": str(error), "refusedEngine": run.engine}
        except (SplitRefused, AgentRefused) as error:
            await self._stop()  # another try begins anew
            row |= {"refused": str(error)}
        except httpx.HTTPError as error:
            await self._stop()
            row |= {"uncounted": f"{type(error).__name__}: {error}"}
        return row | {"spentSeconds": round(time.monotonic() - began_s, 1)}

    async def _prepare(self, run: Run, slo: SloTargets) -> dict[str, Any]:
        """The engine of `run`, at its split. Raises: ServiceEnded, ServiceNotReady, SplitRefused, AgentRefused."""
        told: dict[str, Any] = {}
        was_warm = not run.needs_start(self.warm) and await self._is_alive()
        if not was_warm:
            began_s = time.monotonic()
            name = f"goodput-{run.engine}-{run.slo}-{run.workload}-{time.time_ns() // 10**9}".replace(
                " ", "_"
            )
            told = {"log": await self._start(run, slo, name)}
            told["startSeconds"] = round(time.monotonic() - began_s, 1)
        assert self._warm is not None
        mode, pin = ENGINES[run.engine], PINNED.get(run.mode)
        if pin is not None:
            await self._warm.service.set_split(pin, reason="Benchmark", message=run.mode, pinned=True)
        elif mode.moves and was_warm:
            await self._warm.service.set_split(
                mode.initial, reason="Benchmark", message=run.mode, pinned=False
            )
            await asyncio.sleep(SETTLE_S)
        return told

    def _arrivals(self, run: Run) -> Trace:
        draw, seed = self._workloads[run.workload], f"{run.workload}-{SEED}"
        return arrivals(draw, rate_per_s=run.rate_per_s, seed=seed, run_s=run.seconds)

    async def _load(self, run: Run, trace: Trace) -> tuple[list[Outcome], float]:
        """The outcomes, and when what was open was cut: seconds of the load's clock."""
        assert self._warm is not None
        target = self._warm.service.target
        async with open_client(target) as client:
            load = Load(target, seed=f"{run.workload}-{SEED}", clock=time.monotonic)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(run.seconds + DRAIN_S[run.seconds]):
                    await load.run(client, trace.requests)
            cut_s = load.now_s
        return load.outcomes, cut_s

    async def _start(self, run: Run, slo: SloTargets, name: str) -> str:
        """Its log's name, relative to the results."""
        await self._stop()
        mode, log = ENGINES[run.engine], self._out / "logs" / f"{name}.log"
        stack = contextlib.AsyncExitStack()
        service = await stack.enter_async_context(self._service(mode, slo, log))
        self._warm = Warm(engine=run.engine, scene=run.scene, service=service, stack=stack)
        return str(log.relative_to(self._out))

    async def _stop(self) -> None:
        warm, self._warm = self._warm, None
        if warm is not None:
            await warm.stack.aclose()

    async def _is_alive(self) -> bool:
        assert self._warm is not None
        try:
            return (await self._warm.service.agent.status()).ready
        except (httpx.HTTPError, AgentRefused):
            return False

    def _slos(self, workload: str) -> dict[str, SloTargets]:
        single = self._singles()[workload]
        return {
            name: targets(single["ttftsMs"], single["tpotsMs"], factor) for name, factor in FACTORS.items()
        }

    def _singles(self) -> dict[str, Any]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}

    async def learn_slo(self, workload: str) -> None:
        """One request after the other, of the workload's lengths: once for all calls. Raises: NoSlo."""
        began_s = time.monotonic()
        await self._stop()
        problems = []
        for engine in SINGLE_ENGINES:
            try:
                outcomes = await self._send_singles(workload, engine)
            except (ServiceEnded, ServiceNotReady, httpx.HTTPError) as error:
                problems.append(f"{engine}: {error}")
                continue
            failed = [outcome.error for outcome in outcomes if outcome.error is not None]
            if failed:
                problems.append(
                    f"{engine}: {len(failed)} of {len(outcomes)} requests failed, first: {failed[0]}"
                )
                continue
            single = {
                "engine": engine, "ttftsMs": ttfts_ms(outcomes), "tpotsMs": tpots_ms(outcomes),
                "spentSeconds": round(time.monotonic() - began_s, 1),
            }  # fmt: skip
            self._file.write_text(json.dumps(self._singles() | {workload: single}, indent=1))
            return
        raise NoSlo(f"no SLO for {workload}: {'; '.join(problems)}")

    async def _send_singles(self, workload: str, engine: str) -> list[Outcome]:
        """SINGLE_REQUESTS outcomes. Raises: ServiceEnded, ServiceNotReady."""
        seed = f"{workload}-single"
        trace = arrivals(self._workloads[workload], rate_per_s=1.0, seed=seed, run_s=600.0)
        log = self._out / "logs" / f"single-{workload}-{engine}.log".replace(" ", "_")
        async with (
            self._service(ENGINES[engine], NO_SLO, log) as service,
            open_client(service.target) as client,
        ):
            load = Load(service.target, seed=seed, clock=time.monotonic)
            for index, request in enumerate(trace.requests[: SINGLE_REQUESTS + 1]):
                await load.send(client, index, request)
        return load.outcomes[1:]  # the first meets cold caches

    @contextlib.asynccontextmanager
    async def _service(self, mode: Mode, slo: SloTargets, log: Path) -> AsyncIterator[Service]:
        directory = Path(f"/tmp/semipd-gpu-{os.getuid()}")  # noqa: S108  (short: unix sockets lie in it)
        async with run_service(
            write_service(self._out / "goodput.yaml", self._model, mode, slo),
            directory,
            say=_nothing,
            log=log,
            environment={**SETTINGS, **(mode.settings or {})},
            start_s=START_LIMIT_S,
        ) as service:
            yield service


def _nothing(line: str) -> None:
    """It is in the log."""
