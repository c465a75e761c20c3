"""`semipd simulate`: what a trace would feel like under each split, by a device's profile and without the device."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from semipd_agent import configure
from semipd_bench.lanes_model import Predicted, simulate
from semipd_bench.outcome import percentile
from semipd_bench.profiled_machine import machine_of
from semipd_bench.trace import Limits, read_trace, scale
from semipd_cli.arguments import factor
from semipd_cli.profile_subject import load_profile
from semipd_cli.service_config import build_agent_config
from semipd_cli.service_file import read_service
from semipd_cli.settings import read_settings
from semipd_core.agent_config import AgentConfig
from semipd_core.api.fields import Device
from semipd_core.cluster.state import bounds_of
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Isolation, Partition
from semipd_core.policies.splits import legal_splits
from semipd_core.profile.format import Profile
from semipd_core.telemetry import SloTargets

STEP_PERCENT = 20  # between caps that are tried
DEVICES = {"CPU": Device.CPU, "CUDA": Device.CUDA}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """One split; latencies at the SLO's percentiles."""

    split: Partition
    attained: int
    requests: int
    ttft_ms: float
    tpot_ms: float | None  # None: every answer has one token


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("simulate", help="try splits on a profile, without a device")
    parser.add_argument("-f", "--file", required=True, metavar="FILE", help="a SemiPDService in YAML")
    parser.add_argument("--profile", required=True, metavar="FILE", help="of `semipd profile`")
    parser.add_argument("--trace", required=True, metavar="FILE", help="as for `semipd replay`")
    for flag, what in (("--length-factor", "all lengths"), ("--rate-factor", "the number of requests")):
        parser.add_argument(
            flag, type=factor(flag), default=1.0, metavar="FACTOR", help=f"scales {what} (default: 1)"
        )


def run(args: argparse.Namespace) -> int:
    """0: a split attains the SLO's percentile. 1: none does. Raises: InvalidSpec, OSError."""
    profile = load_profile(args.profile)
    config = build_agent_config(
        read_service(args.file), read_settings(), present=device_of(profile, args.profile),
        host="127.0.0.1", port=8000,
    )  # fmt: skip
    machine = machine_of(profile, config, args.profile)
    trace = scale(
        read_trace(Path(args.trace)),
        length_factor=args.length_factor,
        rate_factor=args.rate_factor,
        limits=Limits(context_tokens=config.max_context_tokens),
    )
    if not trace.requests:
        raise InvalidSpec("--rate-factor", args.rate_factor, "one that leaves at least one request")
    outlooks = [judge(split, simulate(machine, split, trace), config.slo) for split in splits_of(config)]
    best = max(outlooks, key=lambda each: (each.attained, -each.ttft_ms))
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"{profile.subject.device_name}: {len(trace.requests)} requests of {trace.name}, simulated")
    console.print(_table(outlooks, best, config))
    percent = max(config.slo.ttft_percentile, config.slo.tpot_percentile)
    return 0 if 100 * best.attained >= percent * best.requests else 1


def device_of(profile: Profile, given: str) -> Device:
    """Raises: InvalidSpec."""
    kind = profile.subject.device_kind
    if kind not in DEVICES:
        raise InvalidSpec("--profile", f"{given} (of a {kind})", f"one of a {' or '.join(DEVICES)}")
    return DEVICES[kind]


def splits_of(config: AgentConfig) -> Sequence[Partition]:
    """The legal ones of the service on a grid, and where it starts. Raises: InvalidSpec."""
    partition = config.partition
    if (
        partition.isolation is Isolation.UNIFIED
    ):  # one lane with mixed steps: another machine than the two lanes simulated
        raise InvalidSpec("spec.partition.isolation", "Unified", "one with two lanes, for a simulation")
    legal = legal_splits(partition.isolation, bounds_of(partition), step_percent=STEP_PERCENT)
    return sorted(
        {*legal, configure.initial_partition(config)},
        key=lambda each: (each.prefill_percent, each.decode_percent),
    )


def judge(split: Partition, predicted: Sequence[Predicted], slo: SloTargets) -> Outlook:
    tpots = [each.tpot_ms for each in predicted if each.tpot_ms is not None]
    return Outlook(
        split=split,
        attained=sum(
            each.ttft_ms <= slo.ttft_ms and (each.tpot_ms is None or each.tpot_ms <= slo.tpot_ms)
            for each in predicted
        ),
        requests=len(predicted),
        ttft_ms=percentile([each.ttft_ms for each in predicted], slo.ttft_percentile),
        tpot_ms=percentile(tpots, slo.tpot_percentile) if tpots else None,
    )


def _table(outlooks: Sequence[Outlook], best: Outlook, config: AgentConfig) -> Table:
    slo, initial = config.slo, configure.initial_partition(config)
    table = Table()
    for name in (
        "prefill, decode", "attained", f"TTFT p{slo.ttft_percentile} of {slo.ttft_ms} ms",
        f"TPOT p{slo.tpot_percentile} of {slo.tpot_ms} ms", "",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for each in outlooks:
        notes = [
            word for word, holds in (("best", each is best), ("initial", each.split == initial)) if holds
        ]
        table.add_row(
            str(each.split), f"{100 * each.attained / each.requests:.1f} %", f"{each.ttft_ms:.0f}",
            "–" if each.tpot_ms is None else f"{each.tpot_ms:.1f}", ", ".join(notes),
        )  # fmt: skip
    return table
