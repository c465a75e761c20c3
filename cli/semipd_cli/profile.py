"""`semipd profile`: measure what a step takes on this device with this model, point by point, most valuable first."""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path

import msgspec

from semipd_agent.commands import Commands
from semipd_cli.arguments import seconds
from semipd_cli.device import detect_device
from semipd_cli.profile_subject import describe_software, subject_of
from semipd_cli.profiled_engine import open_bench, refuse_shareless
from semipd_cli.service_config import build_agent_config
from semipd_cli.service_file import read_service
from semipd_cli.settings import read_settings
from semipd_core.agent_config import AgentConfig
from semipd_core.errors import InvalidSpec
from semipd_core.profile.format import (
    VERSION,
    Profile,
    Subject,
    decode_profile,
    difference,
)
from semipd_core.profile.plan import Limits, plan_measurements
from semipd_engine.profiling.lane_bench import LaneBench
from semipd_engine.profiling.measuring import Clock, describe_method, measure_all
from semipd_engine.profiling.timing import Sampling
from semipd_shell.files import write_atomically

FLAG = "--out"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("profile", help="measure step times on this device, for the policies")
    parser.add_argument("-f", "--file", required=True, metavar="FILE", help="a SemiPDService in YAML")
    parser.add_argument(
        "--out",
        default="profile.json",
        metavar="FILE",
        help="goes on where an earlier run stopped (default: %(default)s)",
    )
    parser.add_argument(
        "--budget-seconds",
        type=seconds("--budget-seconds", 5.0, 3600.0),
        default=280.0,
        metavar="SECONDS",
        help="for loading and measuring; run again to go on (default: %(default)s)",
    )
    parser.add_argument(
        "--point-seconds",
        type=seconds("--point-seconds", 0.02, 60.0),
        default=1.0,
        metavar="SECONDS",
        help="of measured steps per point (default: %(default)s)",
    )


def run(args: argparse.Namespace, commands: Commands | None = None) -> int:
    """Raises: InvalidSpec, SemipdError, OSError."""
    began_s = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the engine ends with the command
    service = read_service(args.file)
    config = build_agent_config(
        service, read_settings(), present=detect_device(), host="127.0.0.1", port=8000
    )
    refuse_shareless(config)
    sampling = Sampling(seconds=args.point_seconds, warm_up_s=min(0.3, args.point_seconds))
    out = Path(args.out)
    _refuse_foreign(out)
    with open_bench(config, sampling, commands or Commands()) as bench:
        profile = begin(out, config, bench, sampling)
        plan = plan_measurements(limits_of(bench))
        clock = Clock(deadline_s=began_s + args.budget_seconds, point_s=2 * args.point_seconds)
        profile = measure_all(bench, profile, plan, clock, lambda each: write(out, each), print)
    print(summary(profile, out))
    return 0 if profile.fits is not None else 1


def limits_of(bench: LaneBench) -> Limits:
    config, manifest = bench.config, bench.manifest
    return Limits(
        chunk_tokens=config.prefill_budget_tokens,
        max_rows=config.max_rows,
        max_context_tokens=manifest.max_context_tokens,
        kv_tokens=(manifest.num_blocks - 1) * manifest.block_tokens,
    )


def begin(out: Path, config: AgentConfig, bench: LaneBench, sampling: Sampling) -> Profile:
    """What is on disk, if it is of this subject; else an empty profile. Raises: InvalidSpec."""
    subject = subject_of(config, bench.manifest.model)
    found = _found(out)
    if found is not None:
        _require_same(found, subject, config, out)
        return found
    return Profile(
        version=VERSION,
        subject=subject,
        takes_turns=config.device == "CPU",
        isolation=config.partition.isolation.value,
        date="",
        software=describe_software(),
        method=describe_method(sampling),
    )


def _require_same(found: Profile, subject: Subject, config: AgentConfig, out: Path) -> None:
    other = difference(found.subject, subject)
    if other is None and found.isolation != config.partition.isolation:
        other = f"isolation {found.isolation!r}, here {config.partition.isolation.value!r}"
    if other is not None:
        raise InvalidSpec(
            FLAG, str(out), f"a new file, or a profile of this device and model; it is of {other}"
        )


def _found(out: Path) -> Profile | None:
    return decode_profile(out.read_bytes(), FLAG, str(out)) if out.exists() else None


def _refuse_foreign(out: Path) -> None:
    """Before a model is loaded for nothing. Raises: InvalidSpec."""
    if not out.absolute().parent.is_dir():
        raise InvalidSpec(FLAG, str(out), "a file in a directory that exists")
    _found(out)


def write(out: Path, profile: Profile) -> None:
    """Whole or not at all: a run that is killed leaves the points before."""
    write_atomically(out, msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n")


def summary(profile: Profile, out: Path) -> str:
    """What was found, in words."""
    head = f"{out}: {len(profile.points)} of {profile.planned} points"
    if profile.fits is None:
        return f"{head}, too few for a fit; run again to go on"
    lines = [head]
    for name, unit, cost in (
        ("prefill", "token", profile.fits.prefill),
        ("decode", "row", profile.fits.decode),
    ):
        lines.append(
            f"{name}: {cost.base_us / 1000:.2f} ms + {cost.per_token_us:.1f} us per {unit}, "
            f"error {cost.relative_error:.0%}, slower by {cost.curve.bandwidth_slowdown:.0%} beside the other"
        )
    return "\n".join(lines)
