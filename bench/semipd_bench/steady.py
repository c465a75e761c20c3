"""`python -m semipd_bench.steady`: streamed completions at a steady rate, until SIGTERM; then the open ones are waited for.

Prints a JSON line for each request as it ends, and last `{"sent": N, "completed": N, "failed": N}`. Nothing is retried.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from semipd_bench.load import Load, Target, open_client
from semipd_bench.outcome import Outcome
from semipd_bench.trace import TraceRequest

PRINT_PERIOD_S = 0.25


def main(argv: Sequence[str] | None = None) -> int:
    """0: no request failed; 1: one did."""
    arguments = _parse(argv)
    target = Target(url=arguments.url, model=arguments.model, vocabulary_tokens=arguments.vocabulary)
    return asyncio.run(_run(arguments, target))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="semipd_bench.steady", description=__doc__)
    parser.add_argument("--url", required=True, help="without /v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--vocabulary", type=int, default=384, help="token ids that the model has")
    parser.add_argument("--rate", type=float, default=4.0, help="requests/s")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=48)
    parser.add_argument(
        "--new-connections", action="store_true", help="one for each request; else kept alive"
    )
    return parser.parse_args(argv)


async def _run(arguments: argparse.Namespace, target: Target) -> int:
    load = Load(target, seed="steady", clock=time.monotonic)
    started_s = time.time()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.stop_sending)
    printer = Printer(load, started_s)
    async with open_client(target) as client:
        if arguments.new_connections:
            client.headers["connection"] = "close"
        printing = asyncio.create_task(printer.run())
        await load.run(client, _requests(arguments))
        printing.cancel()
    printer.print_new()
    failed = sum(not outcome.is_complete for outcome in load.outcomes)
    counts = {"sent": load.sent, "completed": len(load.outcomes) - failed, "failed": failed}
    print(json.dumps(counts), flush=True)
    return 1 if failed else 0


def _requests(arguments: argparse.Namespace) -> Iterator[TraceRequest]:
    for index in itertools.count():
        yield TraceRequest(
            at_s=index / arguments.rate,
            prompt_tokens=arguments.prompt_tokens,
            output_tokens=arguments.output_tokens,
        )


class Printer:
    """Each outcome once, in order of completion."""

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


if __name__ == "__main__":
    sys.exit(main())
