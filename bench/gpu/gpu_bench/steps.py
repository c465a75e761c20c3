"""Step times of the real lanes: against the card's limits, and over SM splits, alone and together.

The measuring is `semipd profile`'s (docs/design/0011-profile.md) with a plan of its own; the raw points are a profile file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gpu_bench.needs import EXIT_TIME_IS_UP, require_gpu, run_part
from semipd_core.errors import SemipdError
from semipd_core.partition import Isolation, Partition, Role
from semipd_core.profile.format import Point, Profile, Setting, StepLoad

if TYPE_CHECKING:
    from semipd_engine.profiling.measuring import Bench, Clock

WHOLE = Partition(prefill_percent=100, decode_percent=100)
SHARES = (100, 80, 60, 40, 20)
TEARDOWN_S = 45.0  # for lanes, memory server and MPS daemon to end


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """`physical` and `target`: ms of a decode step (at most), tokens per second of prefill (at least)."""

    setting: Setting
    physical: float
    target: float


def decode_load(rows: int) -> StepLoad:
    return StepLoad(role=Role.DECODE, rows=rows, tokens=1, context_tokens=1024)


def prefill_load(tokens: int) -> StepLoad:
    return StepLoad(role=Role.PREFILL, rows=1, tokens=tokens, context_tokens=0)


def at(load: StepLoad, caps: Partition, beside: StepLoad | None = None) -> Setting:
    return Setting(
        load=load, prefill_percent=caps.prefill_percent, decode_percent=caps.decode_percent, beside=beside
    )


LIMITS = (
    Limit(setting=at(decode_load(1), WHOLE), physical=4.57, target=5.2),
    Limit(setting=at(decode_load(64), WHOLE), physical=7.23, target=8.0),
    Limit(setting=at(decode_load(256), WHOLE), physical=14.6, target=15.5),
    Limit(setting=at(prefill_load(1024), WHOLE), physical=53_600, target=45_000),
    Limit(setting=at(prefill_load(2048), WHOLE), physical=53_600, target=45_000),
)


def plan_splits() -> tuple[Setting, ...]:
    """Both phases alone at each share, then together at splits that overlap, and at disjoint ones."""
    decode, prefill = decode_load(64), prefill_load(2048)
    alone = [
        at(load, Partition(prefill_percent=share, decode_percent=share))
        for share in SHARES
        for load in (decode, prefill)
    ]
    caps = [(share, 100) for share in SHARES] + [(share, 100 - share) for share in SHARES if share < 100]
    together = [
        at(load, Partition(prefill_percent=p, decode_percent=d), beside)
        for p, d in caps
        for load, beside in ((decode, prefill), (prefill, decode))
    ]
    return (*alone, *together)


def compare(points: Sequence[Point]) -> list[dict[str, Any]]:
    """One row per limit, the missing ones too."""
    found = {point.setting: point for point in points}
    return [_row(limit, found.get(limit.setting)) for limit in LIMITS]


def _row(limit: Limit, point: Point | None) -> dict[str, Any]:
    load = limit.setting.load
    is_decode = load.role is Role.DECODE
    row: dict[str, Any] = {
        "measure": str(load), "unit": "ms" if is_decode else "tokens/s", "limit": limit.physical, "target": limit.target,
    }  # fmt: skip
    if point is None:
        return {**row, "found": None, "meets": None}
    value = point.wall_us / 1000 if is_decode else load.total_tokens / point.wall_us * 1e6
    meets = value <= limit.target if is_decode else value >= limit.target
    return {**row, "found": round(value, 3), "meets": meets}


def interference(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Per split: ms of each phase together, and over its lone time on the whole device."""
    lone = {
        point.setting.load: point.wall_us
        for point in points
        if point.setting.beside is None and point.setting.caps == WHOLE
    }
    rows: dict[Partition, dict[str, Any]] = {}
    for point in points:
        if point.setting.beside is None:
            continue
        load, caps = point.setting.load, point.setting.caps
        row = rows.setdefault(
            caps, {"prefillPercent": caps.prefill_percent, "decodePercent": caps.decode_percent}
        )
        row[f"{load.role}Ms"] = point.wall_us / 1000
        row[f"{load.role}OverLone"] = round(point.wall_us / lone[load], 3) if load in lone else None
    return list(rows.values())


PLANS: Mapping[str, Sequence[Setting]] = {
    "limits": [limit.setting for limit in LIMITS],
    "splits": plan_splits(),
}
TABLES = {"limits": compare, "splits": interference}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", choices=tuple(PLANS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    require_gpu()
    return measure(arguments.table, arguments.out, time.monotonic() + arguments.seconds)


def measure(table: str, out: Path, deadline_s: float) -> int:
    from gpu_bench import engine  # noqa: PLC0415  (the tables are read where there is no engine)
    from semipd_agent.commands import Commands  # noqa: PLC0415
    from semipd_cli.profile import begin, write  # noqa: PLC0415
    from semipd_cli.profiled_engine import open_bench  # noqa: PLC0415
    from semipd_engine.profiling.measuring import Clock  # noqa: PLC0415
    from semipd_engine.profiling.timing import Sampling  # noqa: PLC0415

    isolation = Isolation.NONE if table == "limits" else Isolation.MPS
    mode = engine.Mode(name=table, isolation=isolation)
    engine.require_engine(
        engine.write_service(out / f"steps-{table}.yaml", out, mode)
    )  # before 16 GB are written
    file = engine.write_service(out / f"steps-{table}.yaml", engine.model_directory(out), mode)
    config = engine.require_engine(file)
    sampling = Sampling(min_steps=10, max_steps=200, seconds=1.0, warm_up_s=0.5)
    points_file, failed_file = out / f"steps-{table}.json", out / f"steps-{table}-failed.json"
    failed: dict[str, str] = json.loads(failed_file.read_text()) if failed_file.exists() else {}

    def keep(profile: Profile) -> None:
        write(points_file, profile)
        (out / f"steps-{table}-table.json").write_text(json.dumps(TABLES[table](profile.points), indent=1))

    with open_bench(config, sampling, Commands()) as bench:
        profile = begin(points_file, config, bench, sampling)
        clock = Clock(deadline_s=deadline_s - TEARDOWN_S, point_s=3.0)
        profile = measure_settings(bench, profile, PLANS[table], clock, keep, failed)
        failed_file.write_text(json.dumps(failed, indent=1))
    return exit_code(PLANS[table], profile, failed)


def measure_settings(
    bench: Bench,
    profile: Profile,
    plan: Sequence[Setting],
    clock: Clock,
    keep: Callable[[Profile], None],
    failed: dict[str, str],
) -> Profile:
    """What can be measured in the time; `failed` gets why a setting was not, and loses it once it is. Those in it come last.

    A share that is not granted leaves the lanes as they are; after any other failure of a lane another process must go on.
    """
    from semipd_engine.profiling.lane_bench import NotGranted  # noqa: PLC0415
    from semipd_engine.profiling.measuring import measure_all  # noqa: PLC0415

    left = sorted(plan, key=lambda setting: str(setting) in failed)
    noting = _Noting(bench)
    latest = profile

    def note(each: Profile) -> None:
        nonlocal latest
        latest = msgspec.structs.replace(each, planned=len(plan))
        failed.pop(str(each.points[-1].setting), None)
        keep(latest)

    while True:
        try:
            measure_all(noting, latest, left, clock, note, print, failures_max=1)
            return latest
        except SemipdError as error:
            assert noting.setting is not None
            print(f"{noting.setting}: {error}", flush=True)
            failed[str(noting.setting)] = str(error)
            left.remove(noting.setting)
            if not isinstance(error, NotGranted):
                return latest


class _Noting:
    """A bench that tells which setting it was asked for last."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.setting: Setting | None = None

    def measure(self, setting: Setting) -> Point:
        self.setting = setting
        return self._bench.measure(setting)


def exit_code(plan: Sequence[Setting], profile: Profile, failed: Mapping[str, str]) -> int:
    """1 where only settings that failed are left."""
    measured = {point.setting for point in profile.points}
    left = [str(setting) for setting in plan if setting not in measured]
    if all(setting in failed for setting in left):
        return 1 if left else 0
    return EXIT_TIME_IS_UP


if __name__ == "__main__":
    run_part(main)
