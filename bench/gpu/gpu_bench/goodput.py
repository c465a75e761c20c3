"""Goodput: the largest rate at which 90 % of the requests attain the SLO, for this engine and the baselines, on common arrivals.

Run by run, in the order of `goodput_plan`, each appended to `goodput.jsonl` as it ends: a call that is cut off loses one run. The
budget is for all calls together; what it leaves unmeasured the table says. The SLO comes from single requests on this card.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_bench.goodput_plan import START_S, Row, next_run
from gpu_bench.goodput_table import spent_s, table
from gpu_bench.needs import EXIT_TIME_IS_UP, require_gpu, run_part

if TYPE_CHECKING:
    from gpu_bench.goodput_runs import GoodputRuns

BUDGET_MINUTES = 20.0
BUDGET_VARIABLE = "SEMIPD_GPU_GOODPUT_MINUTES"
SINGLES_S = 120.0  # for the requests that a workload's SLO comes from, with the start of an engine
STOP_S = 10.0  # for the last engine to end


def read_rows(path: Path) -> list[dict[str, Any]]:
    """A half-written last line is none."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def last_start_s(rows: Sequence[Row]) -> float:
    """What the start of an engine takes here, of whichever call saw it last."""
    return next((row["startSeconds"] for row in reversed(rows) if "startSeconds" in row), START_S)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="for this call")
    parser.add_argument(
        "--budget-minutes",
        type=float,
        default=float(os.environ.get(BUDGET_VARIABLE, BUDGET_MINUTES)),
        help="for all calls together; what more buys is in goodput_plan (default: %(default)s)",
    )
    arguments = parser.parse_args()
    deadline_s = time.monotonic() + arguments.seconds - STOP_S
    require_gpu()
    from gpu_bench.goodput_runs import GoodputRuns  # noqa: PLC0415  (the table is read where there is no engine)

    return asyncio.run(
        measure(arguments.out, GoodputRuns(arguments.out), deadline_s, 60 * arguments.budget_minutes)
    )


async def measure(out: Path, runs: GoodputRuns, deadline_s: float, budget_s: float) -> int:
    """Until nothing is left to measure, the budget is spent (0), or the time of this call is up (3)."""
    file = out / "goodput.jsonl"
    async with runs:
        while True:
            rows = read_rows(file)
            start_s = last_start_s(rows)
            write_table(out, rows, budget_s)
            budget_left_s = budget_s - spent_s(rows) - runs.singles_s
            left_s = min(budget_left_s, deadline_s - time.monotonic())
            if next_run(rows, budget_left_s, runs.warm, start_s) is None:
                return 0
            run = next_run(rows, left_s, runs.warm, start_s)
            if run is None:
                return EXIT_TIME_IS_UP
            if not runs.knows_slo(run.workload):
                if left_s < SINGLES_S:
                    return 0 if budget_left_s < SINGLES_S else EXIT_TIME_IS_UP
                await runs.learn_slo(run.workload)
                continue
            row = await runs.measure(run)
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
            told = {name: value for name, value in row.items() if name != "verdicts"}
            print(json.dumps(told), flush=True)


def write_table(out: Path, rows: list[dict[str, Any]], budget_s: float) -> None:
    found = table(rows) | {"budgetSeconds": budget_s}
    (out / "goodput-table.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    run_part(main)
