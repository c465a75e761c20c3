"""Runs the parts that are not done, each in a process of its own with a limit; run it again to go on.

    bench/gpu/run --out DIR [--list] [--part NAME] [--again] [--budget-seconds 540]

Exit codes: 3 the time was up before all chosen parts were run and through: run it again. Else 0 all are done, 1 one has failed, 2
one needs something that is not here or an argument is wrong. Only what the machine and `bench/gpu/bundle` have is imported.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpu_bench.bundle import require_same_python
from gpu_bench.parts import NO_MODULE, PARTS, Part, State, choose, next_part, seconds_for
from gpu_bench.results import Results

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("core", "engine", "agent", "operator", "cli", "bench", "bench/gpu")
GRACE_S = 25.0  # of its limit, for a part that is told to end to stop the service that it has started
LATE_S = 5.0  # beyond the seconds that it was told, until it is told to end
DRIVER_PROGRAMS = "/usr/local/nvidia/bin"  # where containers find the MPS daemon, on no PATH
RUN_DIRS = tuple(Path(f"/tmp/semipd-{use}-{os.getuid()}") for use in ("gpu", "switch"))  # noqa: S108  (of the parts' services)
EXITS = {
    State.UNFINISHED: 3,
    State.NOT_RUN: 3,
    State.FAILED: 1,
    State.NEEDS: 2,
}  # the first that any part is in


def main(argv: Sequence[str] | None = None, parts: Sequence[Part] = PARTS) -> int:
    arguments = _parse(argv)
    try:
        chosen = choose(parts, arguments.part)
        out = arguments.out.resolve()
        results = Results(out)
        require_same_python(arguments.bundle)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if not arguments.list:
        out.mkdir(parents=True, exist_ok=True)
        deadline_s = time.monotonic() + arguments.budget_seconds
        run_parts(chosen, results, out, arguments.bundle, deadline_s, again=arguments.again)
    for part in chosen:
        print(results.describe(part))
    states = [results.states().get(part.name, State.NOT_RUN) for part in chosen]
    return 0 if arguments.list else next((EXITS[state] for state in EXITS if state in states), 0)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/gpu/run", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of results; parts done in it are not repeated"
    )
    parser.add_argument("--list", action="store_true", help="say what is done and what is not, run nothing")
    parser.add_argument("--part", metavar="NAME", help="this part alone")
    parser.add_argument(
        "--again", action="store_true", help="run parts that are done too: a larger budget goes on from there"
    )
    parser.add_argument(
        "--budget-seconds", type=float, default=540.0, help="for this call (default: %(default)s)"
    )
    parser.add_argument(
        "--bundle", type=Path, default=ROOT / "out" / "bundle", help="folder that bench/gpu/bundle has filled"
    )
    return parser.parse_args(argv)


def run_parts(
    parts: Sequence[Part], results: Results, out: Path, bundle: Path, deadline_s: float, *, again: bool
) -> None:
    tried: set[str] = set()
    states = {} if again else results.states()  # of this call's own parts `tried` knows
    while (part := next_part(parts, states, tried, deadline_s - time.monotonic())) is not None:
        tried.add(part.name)
        end_services(RUN_DIRS, _environment(bundle))
        seconds = seconds_for(part, deadline_s - time.monotonic())
        print(f"{part.name}: at most {seconds:.0f} s", flush=True)
        _attempt(part, results, out, bundle, seconds)
        print(results.describe(part), flush=True)


def _attempt(part: Part, results: Results, out: Path, bundle: Path, seconds: float) -> None:
    log = results.next_log(part)
    began_s, date = time.monotonic(), dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    told_s = max(1.0, seconds - GRACE_S - LATE_S)  # it should end by itself
    command = [
        sys.executable, *(word.format(out=out, seconds=f"{told_s:.0f}") for word in part.command)
    ]  # fmt: skip
    with log.open("wb") as output:
        exit_code = _run(command, output.fileno(), _environment(bundle), seconds)
    last_line = _last_line(log)
    state = State.of_exit(exit_code, last_line)
    attempt = {
        "date": date, "seconds": round(time.monotonic() - began_s, 1), "exitCode": exit_code,
        "log": str(log.relative_to(out)), "command": command[1:],
    }  # fmt: skip
    results.note(part, state, _reason(state, exit_code, last_line, seconds), attempt)


def _run(command: list[str], output: int, environment: dict[str, str], seconds: float) -> int | None:
    """Its exit code; None if it had to be ended, with all that it had started. Takes `seconds` at most."""
    grace_s = min(GRACE_S, seconds / 2)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT, env=environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait(seconds - grace_s)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
        return None
    finally:
        _signal(process, signal.SIGKILL)  # whatever is left of its session
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def end_services(directories: Sequence[Path], environment: Mapping[str, str]) -> None:
    """End what a part that was killed has left serving: the next one could not claim its run directory. Only this user's."""
    for record in [file for each in directories for file in (*each.glob("up.json"), *each.glob("*/up.json"))]:
        if record.lstat().st_uid != os.getuid():
            continue
        command = [sys.executable, "-m", "semipd_cli", "down", "--run-dir", str(record.parent)]
        for _ in range(2):  # a second request hurries what still drains
            with contextlib.suppress(subprocess.TimeoutExpired):
                if not subprocess.run(
                    command, env=environment, cwd=ROOT, timeout=GRACE_S, check=False
                ).returncode:
                    break


def _environment(bundle: Path) -> dict[str, str]:
    """The source tree, then the bundle; what the machine has comes after them."""
    paths = [*(str(ROOT / source) for source in SOURCES), str(bundle)]
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *([inherited] if inherited else [])]),
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), DRIVER_PROGRAMS]),
    }


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:400] if lines else "no output"


def _reason(state: State, exit_code: int | None, last_line: str, seconds: float) -> str:
    if state in (State.DONE, State.UNFINISHED):
        return ""
    if exit_code is None:
        return f"ended at its limit of {seconds:.0f} s"
    if last_line.startswith(NO_MODULE):
        return f"needs what bench/gpu/bundle brings ({last_line})"
    return last_line if state is State.NEEDS else f"exit code {exit_code}: {last_line}"


if __name__ == "__main__":
    sys.exit(main())
