"""`semipd demo`: serve a service file, say hello, replay a trace that shifts, report, and judge the run."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rich.console import Console

from semipd_bench.calibrate import Bounds, Scaling, plan_scaling
from semipd_bench.chat import send_message
from semipd_bench.live import LiveTable
from semipd_bench.load import Target
from semipd_bench.measure import measure_machine
from semipd_bench.replay import Replay, prepare_replay, run_replay
from semipd_bench.report import write_report
from semipd_bench.service import Service, ServiceEnded, read_phases, run_service
from semipd_bench.summary import Setup, quarters_permille, summarise
from semipd_bench.trace import Limits, Trace, bundled_trace, read_trace
from semipd_bench.verdict import Condition, judge_replay
from semipd_cli.arguments import seconds
from semipd_cli.device import detect_device
from semipd_cli.interruption import end_on_signals
from semipd_cli.service_config import build_agent_config
from semipd_cli.service_file import read_service
from semipd_cli.settings import read_settings
from semipd_core.agent_config import PartitionSettings
from semipd_core.errors import InvalidSpec, SemipdError
from semipd_core.partition import Isolation, Partition
from semipd_core.telemetry import SloTargets

CLUSTER_PERIOD_S = 1.0
QUESTION = "In one sentence: what is a graphics processor good at?"
ANSWER_TOKENS = 48
INTERRUPTED = 130


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("demo", help="serve, replay a trace and report")
    parser.add_argument("-f", "--file", required=True, metavar="FILE", help="a SemiPDService in YAML")
    parser.add_argument(
        "--seconds",
        type=seconds("--seconds", 8.0, 120.0),
        metavar="SECONDS",
        help="replay this much around the trace's joint (default: all of it)",
    )
    parser.add_argument("--out", default="out", metavar="DIR", help="for the report (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """0: all conditions hold. 1: one fails. 2: bad input. 130: interrupted.

    Raises: InvalidSpec, SemipdError, OSError.
    """
    started_s = time.monotonic()
    config = build_agent_config(
        read_service(args.file), read_settings(), present=detect_device(), host="127.0.0.1", port=8000
    )
    trace = around_joint(read_trace(bundled_trace()), args.seconds)
    demo = Demo(
        file=Path(args.file),
        out=Path(args.out),
        trace=trace,
        slo=config.slo,
        started_s=started_s,
        console=Console(soft_wrap=True, highlight=False, markup=False),
        install_seconds=_installation_seconds(os.environ.get("SEMIPD_INSTALL_SECONDS")),
    )
    return asyncio.run(demo.run())


def around_joint(trace: Trace, duration_s: float | None) -> Trace:
    """The middle of the trace, half of `duration_s` on either side of its joint."""
    if duration_s is None or duration_s >= trace.duration_s:
        return trace
    start_s = trace.middle_s - duration_s / 2
    part = trace.between(start_s, start_s + duration_s)
    return Trace(name=trace.name, requests=part.requests, duration_s=duration_s, joint_s=duration_s / 2)


def _installation_seconds(text: str | None) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidSpec("SEMIPD_INSTALL_SECONDS", text, "a number of seconds") from None


@dataclass(slots=True, eq=False)
class Demo:
    """One run. What it has found so far is in its fields, so that an interrupted run still makes a report."""

    file: Path
    out: Path
    trace: Trace
    slo: SloTargets
    started_s: float
    console: Console
    install_seconds: float | None
    clock: Callable[[], float] = time.monotonic
    replay: Replay = field(init=False)
    scaling: Scaling | None = None
    load_seconds: float | None = None
    ready_seconds: float | None = None
    first_token_seconds: float | None = None
    calibration_seconds: float | None = None

    def __post_init__(self) -> None:
        nowhere = Target(url="", model="", vocabulary_tokens=0)
        self.replay = prepare_replay(nowhere, self.trace, self.slo, seed="demo")

    async def run(self) -> int:
        end_on_signals()
        interrupted = False
        try:
            await self._perform()
        except asyncio.CancelledError:
            interrupted = True
            self._say("interrupted: the service is stopped, the report is written")
        except ServiceEnded as error:
            return error.exit_code if error.exit_code == 2 else 1
        except (SemipdError, OSError, httpx.HTTPError):
            self._write(self._judge())
            raise
        conditions = self._judge()
        self._write(conditions)
        if interrupted:
            return INTERRUPTED
        for condition in conditions:
            self._say(f"{'holds' if condition.holds else 'FAILS'}: {condition.name} ({condition.found})")
        return 0 if all(condition.holds for condition in conditions) else 1

    async def _perform(self) -> None:
        with tempfile.TemporaryDirectory(prefix="semipd-demo-") as directory, self._logs_of(Path(directory)):
            async with run_service(
                self.file,
                Path(directory) / "run",
                say=self._say,
                log=self.out / "up.log",
                cluster_period_s=CLUSTER_PERIOD_S,
            ) as service:
                await self._say_hello(service)
                await self._calibrate(service)
                await self._replay(service)

    @contextlib.contextmanager
    def _logs_of(self, directory: Path) -> Iterator[None]:
        """Keep the processes' logs beside the report."""
        try:
            yield
        finally:
            logs = directory / "run" / "logs"
            if logs.exists():
                shutil.copytree(logs, self.out / "logs", dirs_exist_ok=True)

    async def _say_hello(self, service: Service) -> None:
        self.ready_seconds = self._elapsed_s()
        self._say(f"ready at {service.target.url}/v1, {self.ready_seconds:.1f} s after the start")
        self._say(f"> {QUESTION}")
        answer = await send_message(
            service.target, QUESTION, max_tokens=ANSWER_TOKENS, say=self._say_piece, clock=self.clock
        )
        self.first_token_seconds = answer.first_token_at_s - self.started_s
        self._say(f"\nfirst token {self.first_token_seconds:.1f} s after the start")
        phases = read_phases(service.run_dir)
        if "model loaded" in phases and "agent answers" in phases:
            self.load_seconds = phases["model loaded"] - phases["agent answers"]

    async def _calibrate(self, service: Service) -> None:
        """Measure with both lanes uncapped and the loops held, plan, then hand the split back to the loops."""
        began_s = self.clock()
        config, bounds = service.config, _bounds(service.config.partition)
        is_split = config.partition.isolation is not Isolation.UNIFIED
        if is_split:
            uncapped = Partition(
                prefill_percent=bounds.prefill_max_percent, decode_percent=bounds.decode_max_percent
            )
            message = "both lanes uncapped while the machine is measured"
            await service.set_split(uncapped, reason="Calibrating", message=message, pinned=True)
        self._say("calibrating ...")
        machine = await measure_machine(
            service.target,
            engines=config.engines,
            chunk_tokens=config.prefill_budget_tokens,
            max_rows=config.max_rows,
            say=self._say,
        )
        limits = Limits(context_tokens=service.context_tokens)
        self.scaling = await asyncio.to_thread(plan_scaling, machine, self.trace, self.slo, bounds, limits)
        if is_split:
            await service.set_split(
                self.scaling.start, reason="Calibrated", message=self.scaling.message, pinned=False
            )
        self.calibration_seconds = self.clock() - began_s
        self._say(
            f"calibrated in {self.calibration_seconds:.1f} s: lengths × {self.scaling.length_factor:g}, requests × "
            f"{self.scaling.rate_factor:g} ({self.scaling.requests} requests); {self.scaling.message}"
        )

    async def _replay(self, service: Service) -> None:
        assert self.scaling is not None
        scaled = self.scaling.apply(self.trace)
        self.replay = prepare_replay(service.target, scaled, self.slo, seed=f"demo-{os.getpid()}")
        with LiveTable(self.console) as table:
            await run_replay(self.replay, service.target, service.agent, show=table.show)

    def _judge(self) -> list[Condition]:
        joint_s = self.replay.trace.middle_s
        return judge_replay(
            failed=self.replay.failed,
            unsent=self.replay.unsent,
            switches=self.replay.timeline.switches,
            joint_unix_s=self.replay.timeline.started_unix_s + joint_s,
            quarters_permille=quarters_permille(self.replay),
        )

    def _write(self, conditions: list[Condition]) -> None:
        setup = Setup(
            install_seconds=self.install_seconds,
            load_seconds=self.load_seconds,
            ready_seconds=self.ready_seconds,
            first_token_seconds=self.first_token_seconds,
            calibration_seconds=self.calibration_seconds,
        )
        summary = summarise(self.replay, setup=setup, scaling=self.scaling, conditions=conditions)
        page, numbers = write_report(self.out, self.replay, summary)
        self._say(f"report: {page} and {numbers}")

    def _elapsed_s(self) -> float:
        return self.clock() - self.started_s

    def _say(self, line: str) -> None:
        self.console.print(line)

    def _say_piece(self, piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()


def _bounds(settings: PartitionSettings) -> Bounds:
    return Bounds(
        prefill_min_percent=settings.prefill_min_percent,
        prefill_max_percent=settings.prefill_max_percent,
        decode_min_percent=settings.decode_min_percent,
        decode_max_percent=settings.decode_max_percent,
    )
