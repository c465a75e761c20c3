"""`python -m semipd_bench.steady`: streamed completions at a steady rate, until SIGTERM; then the open ones are waited for.

Prints a JSON line for each request as it ends, and last `{"sent": N, "completed": N, "failed": N}`. Nothing is retried.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
import sys
import time
from collections.abc import Iterator, Sequence

from semipd_bench.load import Load, Target, open_client
from semipd_bench.printed_load import run_printed
from semipd_bench.trace import TraceRequest


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
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.stop_sending)
    async with open_client(target) as client:
        if arguments.new_connections:
            client.headers["connection"] = "close"
        return await run_printed(load, client, _requests(arguments))


def _requests(arguments: argparse.Namespace) -> Iterator[TraceRequest]:
    for index in itertools.count():
        yield TraceRequest(
            at_s=index / arguments.rate,
            prompt_tokens=arguments.prompt_tokens,
            output_tokens=arguments.output_tokens,
        )


if __name__ == "__main__":
    sys.exit(main())
