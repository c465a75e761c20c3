"""Parts are run in order of value, once each, each with a limit; what could not run is never counted as passed."""

from __future__ import annotations

import ctypes.util
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from gpu_bench.bundle import PYTHON_FILE
from gpu_bench.parts import PARTS, Part, State, choose, next_part, seconds_for
from gpu_bench.runner import end_services, main

from semipd_agent.processes.identity import read_identity
from semipd_agent.run_directory import RunDirectory
from semipd_cli.run_directory import UpRecord, write_record

ROOT = Path(__file__).parents[2]


def part(name: str, script: str, *, limit_s: float = 60.0, least_s: float = 0.0) -> Part:
    return Part(
        name=name,
        answers=f"what {name} says",
        command=("-c", script, "{out}", "{seconds}"),
        limit_s=limit_s,
        least_s=least_s,
    )


def run_here(out: Path, parts: Sequence[Part]) -> int:
    """Without a bundle: this environment has everything."""
    return main(["--out", str(out), "--bundle", str(out / "none")], parts)


THREE = (part("a", "", least_s=10), part("b", "", least_s=100), part("c", "", least_s=20))


@pytest.mark.parametrize(
    ("states", "tried", "left_s", "chosen"),
    [
        pytest.param({}, set(), 500.0, "a", id="the most valuable first"),
        pytest.param({"a": State.DONE}, set(), 500.0, "b", id="not what is done"),
        pytest.param({"a": State.FAILED}, set(), 500.0, "b", id="what never ran before what failed"),
        pytest.param({"a": State.NEEDS, "b": State.UNFINISHED}, set(), 500.0, "c", id="and before all else"),
        pytest.param(
            {"a": State.NEEDS, "b": State.UNFINISHED, "c": State.DONE},
            set(),
            500.0,
            "b",
            id="then what was cut off",
        ),
        pytest.param(
            {"a": State.NEEDS, "b": State.FAILED, "c": State.DONE},
            set(),
            500.0,
            "a",
            id="what needed something again",
        ),
        pytest.param({"a": State.NEEDS}, {"b", "c"}, 500.0, "a", id="last"),
        pytest.param({"a": State.FAILED}, {"a"}, 500.0, "b", id="but once in a call"),
        pytest.param({"a": State.DONE}, set(), 50.0, "c", id="what fits, where the next does not"),
        pytest.param({}, set(), 12.0, None, id="none in too little time"),
        pytest.param(dict.fromkeys("abc", State.DONE), set(), 500.0, None, id="none when all are done"),
    ],
)
def test_the_next_part_is(states, tried, left_s, chosen):
    found = next_part(THREE, states, tried, left_s)
    assert (found.name if found else None) == chosen


def test_a_part_gets_its_limit_or_what_is_left():
    assert seconds_for(THREE[0], 500.0) == 60.0
    assert seconds_for(THREE[0], 30.0) == 25.0


def test_every_part_stays_under_ten_minutes_and_has_a_name_of_its_own():
    assert all(each.least_s < each.limit_s <= 540 for each in PARTS)
    assert len({each.name for each in PARTS}) == len(PARTS)


def test_a_part_that_does_not_exist_is_refused_with_those_that_do(tmp_path, capsys):
    with pytest.raises(
        ValueError,
        match="allowed: facts, probe, memory, green, kernels, executor, steps, interference, goodput, switch",
    ):
        choose(PARTS, "speed")
    assert main(["--out", str(tmp_path), "--part", "speed"]) == 2
    assert "--part: got 'speed', allowed: facts" in capsys.readouterr().err


SAYS_NEEDS = "print('some log'); print('needs an NVIDIA GPU'); raise SystemExit(2)"
COUNTS = "import sys,pathlib; f=pathlib.Path(sys.argv[1])/'runs'; f.write_text(f.read_text()+'x' if f.exists() else 'x')"


def test_each_part_ends_in_its_state_and_keeps_the_log_of_each_attempt(tmp_path, capsys):
    parts = (
        part("good", COUNTS),
        part("bad", "raise RuntimeError('no such kernel')"),
        part("absent", SAYS_NEEDS),
        part("long", "raise SystemExit(3)"),
    )
    assert run_here(tmp_path, parts) == 3
    assert run_here(tmp_path, parts) == 3
    results = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert {name: each["state"] for name, each in results.items()} == {
        "good": "done", "bad": "failed", "absent": "needs", "long": "unfinished",
    }  # fmt: skip
    assert results["absent"]["reason"] == "needs an NVIDIA GPU"
    assert results["bad"]["reason"].endswith("RuntimeError: no such kernel")
    assert (tmp_path / "runs").read_text() == "x"
    assert [len(each["attempts"]) for each in results.values()] == [1, 2, 2, 2]
    for attempt in results["bad"]["attempts"]:
        assert "no such kernel" in (tmp_path / attempt["log"]).read_text()
    assert "absent: needs (needs an NVIDIA GPU)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("scripts", "exit_code"),
    [
        pytest.param(["", ""], 0, id="all done"),
        pytest.param(["", SAYS_NEEDS], 2, id="one needs something"),
        pytest.param(["raise SystemExit(3)", ""], 3, id="time is up"),
        pytest.param(
            ["raise SystemExit(3)", "raise SystemExit(1)"], 3, id="another call may go on beside a failure"
        ),
        pytest.param(["raise SystemExit(1)", SAYS_NEEDS], 1, id="a failure says more than a need"),
    ],
)
def test_the_exit_code_says_whether_to_call_again(scripts, exit_code, tmp_path):
    parts = tuple(part(name, script) for name, script in zip("ab", scripts, strict=True))
    assert run_here(tmp_path, parts) == exit_code


def test_a_part_that_found_no_time_asks_for_another_call_whatever_failed(tmp_path):
    parts = (part("bad", "raise SystemExit(1)"), part("long", "", least_s=1e6))
    assert run_here(tmp_path, parts) == 3


def test_a_part_beyond_its_limit_is_ended_with_all_that_it_started(tmp_path):
    child = "import time; time.sleep(600)"
    script = (
        "import subprocess,sys,time,pathlib;"
        f"p=subprocess.Popen([sys.executable,'-c','{child}']);"
        "pathlib.Path(sys.argv[1],'pid').write_text(str(p.pid)); time.sleep(600)"
    )
    assert run_here(tmp_path, (part("endless", script, limit_s=6.0),)) == 1
    assert "ended at its limit" in (tmp_path / "results.json").read_text()
    if (tmp_path / "pid").exists():  # a slow machine may not have come so far
        stat = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
        while runs(stat):  # it has been signalled, and may not have been scheduled since
            time.sleep(0.01)


def runs(stat: Path) -> bool:
    try:
        return " Z " not in stat.read_text()
    except OSError:
        return False


def test_a_part_told_to_end_stops_what_it_has_started(tmp_path):
    ended = tmp_path / "ended"
    script = f"""
import asyncio, pathlib
from gpu_bench.needs import run_part
async def serve():
    try:
        print("serves", flush=True)
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        pathlib.Path({str(ended)!r}).touch()
run_part(lambda: asyncio.run(serve()))
"""
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        process.stdout.readline()
        process.terminate()
    assert ended.exists()


def test_a_service_that_a_killed_part_has_left_is_ended(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as left:
        identity = read_identity(left.pid)
        record = UpRecord(
            pid=identity.pid,
            start_ticks=identity.start_ticks,
            boot_id=identity.boot_id,
            url="",
            service="gpu",
        )
        (tmp_path / "run").mkdir()
        write_record(RunDirectory(tmp_path / "run"), record)
        try:
            reaper = threading.Thread(target=left.wait)  # else it stays, as a process that has ended
            reaper.start()
            end_services(
                [tmp_path, tmp_path / "none"], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            )
        finally:
            left.kill()
            reaper.join()
    assert left.returncode == -signal.SIGTERM


def test_a_part_finds_the_programs_of_the_driver(tmp_path):
    script = "import os; assert os.environ['PATH'].split(os.pathsep)[-1] == '/usr/local/nvidia/bin'"
    assert run_here(tmp_path, (part("finds", script),)) == 0


def test_listing_runs_nothing(tmp_path, capsys):
    assert (
        main(["--out", str(tmp_path / "new"), "--list", "--bundle", str(tmp_path)], (part("good", COUNTS),))
        == 0
    )
    assert capsys.readouterr().out == "good: not run - what good says\n"
    assert not (tmp_path / "new").exists()


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "results.json").write_text('{"half')
    assert run_here(tmp_path, (part("good", COUNTS),)) == 2
    assert "take an empty folder" in capsys.readouterr().err


def test_a_module_that_is_absent_is_a_need(tmp_path):
    assert run_here(tmp_path, (part("lone", "import no_such_module"),)) == 2
    reason = json.loads((tmp_path / "results.json").read_text())["parts"]["lone"]["reason"]
    assert (
        reason == "needs what bench/gpu/bundle brings (ModuleNotFoundError: No module named 'no_such_module')"
    )


def test_a_bundle_for_another_python_is_refused(tmp_path, capsys):
    (tmp_path / PYTHON_FILE).write_text("2.7")
    assert main(["--out", str(tmp_path), "--bundle", str(tmp_path)], (part("good", COUNTS),)) == 2
    assert "for Python 2.7, allowed: one for 3." in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [each.name for each in PARTS if each.name not in {"kernels", "executor"}])
def test_on_a_machine_without_a_gpu_every_part_says_what_it_needs(name, tmp_path):
    """`kernels` and `executor` import torch to find out; tests of their own say of them what this says of the others."""
    if ctypes.util.find_library("cuda"):
        pytest.skip("this machine has a GPU's driver")
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "bench/gpu/run"),
            "--out",
            str(tmp_path),
            "--part",
            name,
            "--bundle",
            str(tmp_path),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads((tmp_path / "results.json").read_text())["parts"][name]
    assert (done.returncode, found["state"]) == (2, "needs"), done.stdout
    assert "needs an NVIDIA GPU" in found["reason"]


def test_attempts_have_logs_of_their_own(tmp_path):
    parts = (part("bad", "import os; print(os.getpid()); raise SystemExit(1)"),)
    for _ in range(3):
        run_here(tmp_path, parts)
    logs = sorted((tmp_path / "logs").iterdir())
    assert [log.name for log in logs] == ["bad-1.log", "bad-2.log", "bad-3.log"]
    assert all(a.read_text() != b.read_text() for a, b in itertools.combinations(logs, 2))
