"""`semipd replay`: a recorded trace against a running service, with a live table and a report."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
from pathlib import Path

import httpx
import msgspec
from rich.console import Console

from semipd_agent.run_directory import RunDirectory
from semipd_bench.agent_client import AgentClient
from semipd_bench.live import LiveTable
from semipd_bench.load import Target
from semipd_bench.replay import Replay, prepare_replay, run_replay
from semipd_bench.report import write_report
from semipd_bench.service import read_vocabulary
from semipd_bench.summary import Setup, summarise
from semipd_bench.trace import Limits, read_trace, scale
from semipd_cli import run_directory
from semipd_cli.arguments import factor, integer
from semipd_core.agent_config import AgentConfig
from semipd_core.errors import InvalidSpec, NotReadyYet
from semipd_core.telemetry import SloTargets

# For a service that is known by its URL alone.
ELSEWHERE = SloTargets(ttft_percentile=90, ttft_ms=2000, tpot_percentile=90, tpot_ms=250)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("replay", help="replay a trace of requests against a service")
    parser.add_argument(
        "--trace", required=True, metavar="FILE", help="Azure CSV, or Mooncake JSONL (name ends in .jsonl)"
    )
    for flag, what in (("--length-factor", "all lengths"), ("--rate-factor", "the number of requests")):
        parser.add_argument(
            flag,
            type=factor(flag),
            default=1.0,
            metavar="FACTOR",
            help=f"scales {what} (default: %(default)s)",
        )
    parser.add_argument("--run-dir", metavar="DIR", help="of the service (default: the only one that runs)")
    parser.add_argument("--url", help="any OpenAI service, in place of one of ours; without /v1")
    parser.add_argument("--model", help="with --url: the model's name")
    parser.add_argument(
        "--vocabulary",
        type=integer("--vocabulary", 2, 10_000_000),
        default=32_000,
        help="with --url: token ids that the model has (default: %(default)s)",
    )
    parser.add_argument("--out", default="out", metavar="DIR", help="for the report (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """0: no request failed. 1: one did. 130: interrupted. Raises: InvalidSpec, SemipdError, OSError."""
    trace = read_trace(Path(args.trace))
    if args.url is not None and args.model is None:
        raise InvalidSpec("--model", "nothing", "the model's name, with --url")
    directory = None if args.url is not None else run_directory.find(args.run_dir)
    limits = Limits()
    if directory is None:
        target, slo = (
            Target(url=args.url.rstrip("/"), model=args.model, vocabulary_tokens=args.vocabulary),
            ELSEWHERE,
        )
    else:
        target, slo, limits = _ours(directory)
    scaled = scale(trace, length_factor=args.length_factor, rate_factor=args.rate_factor, limits=limits)
    if not scaled.requests:
        raise InvalidSpec("--rate-factor", args.rate_factor, "one that leaves at least one request")
    state = prepare_replay(target, scaled, slo, seed=f"replay-{os.getpid()}")
    run_dir = None if directory is None else directory.path
    return asyncio.run(_replay(state, target, run_dir, Path(args.out)))


def _ours(directory: RunDirectory) -> tuple[Target, SloTargets, Limits]:
    record = run_directory.read_record(directory)
    try:
        config = msgspec.json.decode(directory.service_config.read_bytes(), type=AgentConfig)
        vocabulary_tokens = read_vocabulary(directory.path)
    except (OSError, msgspec.MsgspecError) as error:
        raise NotReadyYet(
            f"the service in {directory.path} has not loaded its model: {error}", 5.0
        ) from error
    if record is None:
        raise InvalidSpec("--run-dir", str(directory.path), "the run directory of a running service")
    target = Target(
        url=record.url.removesuffix("/v1"),
        model=config.served_name,
        vocabulary_tokens=vocabulary_tokens,
        api_key=config.api_key,
    )
    return target, config.slo, Limits(context_tokens=config.max_context_tokens or 2048)


async def _replay(state: Replay, target: Target, run_dir: Path | None, out: Path) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    agent = None if run_dir is None else AgentClient(run_dir)
    interrupted = False
    try:
        if agent is not None:
            with contextlib.suppress(httpx.HTTPError):
                await agent.status()
        with LiveTable(console) as table:
            await run_replay(state, target, agent, show=table.show)
    except asyncio.CancelledError:
        interrupted = True
    finally:
        if agent is not None:
            await agent.close()
    summary = summarise(state, setup=Setup(), scaling=None, conditions=[])
    page, numbers = write_report(out, state, summary)
    requests = summary["requests"]
    console.print(
        f"{requests['completed']} of {requests['sent']} requests completed; report: {page} and {numbers}"
    )
    if interrupted:
        return 130
    return 0 if not state.failed else 1
