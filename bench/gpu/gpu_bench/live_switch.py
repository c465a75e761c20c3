"""What a live switch costs the requests in flight on this card: `semipd bench switch`'s measurement, for both isolations."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from gpu_bench.needs import EXIT_TIME_IS_UP, Needs, require_gpu, run_part

GAP_RATIO_MAX = 1.1  # worst switching p99 over the worse steady p99
LEAST_S = 240.0
RATE_PER_S = 8.0
SAMPLE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Two splits, percent of prefill and decode, between which an isolation switches."""

    isolation: str
    splits: tuple[tuple[int, int], tuple[int, int]]


CASES: Mapping[str, Case] = {
    "MPS": Case(isolation="MPS", splits=((80, 100), (40, 100))),
    "GreenContext": Case(isolation="GreenContext", splits=((80, 20), (40, 60))),
    "MPS, both shares": Case(isolation="MPS", splits=((80, 40), (40, 100))),
}


class MemoryWatch:
    """The memory in use on the device by phase, by NVML: what a switch holds twice is seen nowhere else."""

    def __init__(self, used_bytes: Callable[[], int]) -> None:
        self._used_bytes = used_bytes
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._phase = ""
        self.samples: list[tuple[str, int]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def enter(self, phase: str) -> None:
        self._phase = phase

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.samples.append((self._phase, self._used_bytes()))


def held_twice_bytes(samples: Sequence[tuple[str, int]]) -> int | None:
    """The most in use while switching over the median while steady; None without samples of both. By phase."""
    steady, switching = ([used for of, used in samples if of == phase] for phase in ("steady", "switching"))
    return max(switching) - sorted(steady)[len(steady) // 2] if steady and switching else None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    require_gpu()
    file = arguments.out / "switch.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    deadline_s = time.monotonic() + arguments.seconds
    for name in left_of(found):
        if deadline_s - time.monotonic() < LEAST_S:
            return EXIT_TIME_IS_UP
        found[name] = attempt(partial(measure, arguments.out, CASES[name]))
        file.write_text(json.dumps(found, indent=1))
        print(json.dumps(found[name]), flush=True)
    return 1 if left_of(found) else 0


def left_of(found: Mapping[str, Any]) -> list[str]:
    """Cases without a measurement; those that failed in an earlier call come last."""
    left = [name for name in CASES if "failed" in found.get(name, {"failed": ""})]
    return sorted(left, key=lambda name: name in found)


def attempt(measuring: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found; else `failed`, so that one case that does not serve here ends no other."""
    try:
        return measuring()
    except Needs:
        raise
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}


def measure(out: Path, case: Case) -> dict[str, Any]:
    """Raises: Needs."""
    import pynvml  # noqa: PLC0415

    from gpu_bench import engine  # noqa: PLC0415
    from semipd_bench.switch import SwitchRun  # noqa: PLC0415
    from semipd_core.partition import Isolation, Partition  # noqa: PLC0415

    first, second = (Partition(prefill_percent=p, decode_percent=d) for p, d in case.splits)
    mode = engine.Mode(name=case.isolation, isolation=Isolation(case.isolation), initial=first)
    engine.require_engine(engine.write_service(out / "switch.yaml", out, mode))
    model = engine.model_directory(out)
    directory = Path(f"/tmp/semipd-switch-{os.getuid()}")  # noqa: S108  (short: unix sockets lie in it)
    directory.mkdir(mode=0o700, exist_ok=True)
    nvml: Any = pynvml  # untyped
    nvml.nvmlInit()
    device = nvml.nvmlDeviceGetHandleByIndex(0)
    with MemoryWatch(lambda: int(nvml.nvmlDeviceGetMemoryInfo(device).used)) as memory:
        run = SwitchRun(
            model_uri=f"file://{model}",
            directory=directory,
            splits=(first, second),
            each_way=10,
            restarts_each_way=1,
            rate_per_s=RATE_PER_S,
            steady_s=10.0,
            say=print,
            enter=memory.enter,
            start_s=engine.START_LIMIT_S,
            write_file=lambda path, split: engine.write_service(
                path, model, dataclasses.replace(mode, initial=split)
            ),
        )
        result = asyncio.run(run.measure_switches())
    worst_steady_ms = max(result.steady_p99_ms)
    return {
        **dataclasses.asdict(result),
        "gapRatio": result.switching_p99_ms / worst_steady_ms,
        "meets": result.switching_p99_ms <= GAP_RATIO_MAX * worst_steady_ms,
        "heldTwiceBytes": held_twice_bytes(memory.samples),
    }


if __name__ == "__main__":
    run_part(main)
