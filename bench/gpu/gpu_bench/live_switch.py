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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from gpu_bench.needs import EXIT_TIME_IS_UP, Needs, require_gpu, run_part

ISOLATIONS = ("MPS", "GreenContext")
GAP_RATIO_MAX = 1.1  # worst switching p99 over the worse steady p99
LEAST_S = 240.0
RATE_PER_S = 8.0
SAMPLE_S = 0.1


class MemoryWatch:
    """The most memory in use on the device, by NVML: what a switch holds twice is seen nowhere else."""

    def __init__(self, used_bytes: Callable[[], int]) -> None:
        self._used_bytes = used_bytes
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.samples: list[int] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.samples.append(self._used_bytes())


def held_twice_bytes(samples: list[int]) -> int | None:
    """The most over the median, which is the steady state; None without samples."""
    return max(samples) - sorted(samples)[len(samples) // 2] if samples else None


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    require_gpu()
    file = arguments.out / "switch.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    deadline_s = time.monotonic() + arguments.seconds
    for isolation in left_of(found):
        if deadline_s - time.monotonic() < LEAST_S:
            return EXIT_TIME_IS_UP
        found[isolation] = attempt(lambda of=isolation: measure(arguments.out, of))
        file.write_text(json.dumps(found, indent=1))
        print(json.dumps(found[isolation]), flush=True)
    return 1 if left_of(found) else 0


def left_of(found: Mapping[str, Any]) -> list[str]:
    """Isolations without a measurement; those that failed in an earlier call come last."""
    left = [name for name in ISOLATIONS if "failed" in found.get(name, {"failed": ""})]
    return sorted(left, key=lambda name: name in found)


def attempt(measuring: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found; else `failed`, so that one isolation that does not serve here ends no other."""
    try:
        return measuring()
    except Needs:
        raise
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}


def measure(out: Path, isolation: str) -> dict[str, Any]:
    """Raises: Needs."""
    import pynvml  # noqa: PLC0415

    from gpu_bench import engine  # noqa: PLC0415
    from semipd_bench.switch import SwitchRun  # noqa: PLC0415
    from semipd_core.partition import Isolation, Partition  # noqa: PLC0415

    splits = (
        Partition(prefill_percent=80, decode_percent=100 if isolation == "MPS" else 20),
        Partition(prefill_percent=40, decode_percent=100 if isolation == "MPS" else 60),
    )
    mode = engine.Mode(name=isolation, isolation=Isolation(isolation), initial=splits[0])
    engine.require_engine(engine.write_service(out / "switch.yaml", out, mode))
    model = engine.model_directory(out)
    directory = Path(f"/tmp/semipd-switch-{os.getuid()}")  # noqa: S108  (short: unix sockets lie in it)
    directory.mkdir(mode=0o700, exist_ok=True)
    nvml: Any = pynvml  # untyped
    nvml.nvmlInit()
    device = nvml.nvmlDeviceGetHandleByIndex(0)
    run = SwitchRun(
        model_uri=f"file://{model}",
        directory=directory,
        splits=splits,
        each_way=10,
        restarts_each_way=1,
        rate_per_s=RATE_PER_S,
        steady_s=10.0,
        say=print,
        start_s=engine.START_LIMIT_S,
        write_file=lambda path, split: engine.write_service(
            path, model, dataclasses.replace(mode, initial=split)
        ),
    )
    with MemoryWatch(lambda: int(nvml.nvmlDeviceGetMemoryInfo(device).used)) as memory:
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
