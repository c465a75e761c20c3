"""A load whose outcomes are printed as they come, for who reads a pod's log: a JSON object for each request, last the counts."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from typing import Any

import httpx

from semipd_bench.load import Load
from semipd_bench.outcome import Outcome
from semipd_bench.trace import TraceRequest

PRINT_PERIOD_S = 0.25


async def run_printed(load: Load, client: httpx.AsyncClient, requests: Iterable[TraceRequest]) -> int:
    """Send all `requests`. 0: none failed; 1: one did."""
    load.restart_clock()
    printer = Printer(load, started_s=time.time())
    printing = asyncio.create_task(printer.run())
    await load.run(client, requests)
    printing.cancel()
    printer.print_new()
    failed = sum(not outcome.is_complete for outcome in load.outcomes)
    counts = {"sent": load.sent, "completed": len(load.outcomes) - failed, "failed": failed}
    print(json.dumps(counts), flush=True)
    return 1 if failed else 0


class Printer:
    """Each outcome once, in order of completion. `started_s`: unix time."""

    def __init__(self, load: Load, started_s: float) -> None:
        self._load, self._started_s = load, started_s
        self._printed = 0

    async def run(self) -> None:
        while True:
            self.print_new()
            await asyncio.sleep(PRINT_PERIOD_S)

    def print_new(self) -> None:
        new = self._load.outcomes[self._printed :]
        self._printed += len(new)
        for outcome in new:
            print(json.dumps(describe(outcome, self._started_s)), flush=True)


def describe(outcome: Outcome, started_s: float) -> dict[str, Any]:
    """`sentS` is unix time."""
    return {
        "index": outcome.index,
        "sentS": round(started_s + outcome.sent_s, 3),
        "status": outcome.status,
        "outputTokens": outcome.output_tokens,
        "ttftMs": None if outcome.ttft_ms is None else round(outcome.ttft_ms, 1),
        "tpotMs": None if outcome.tpot_ms is None else round(outcome.tpot_ms, 1),
        "error": outcome.error,
    }
