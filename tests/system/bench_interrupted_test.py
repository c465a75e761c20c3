"""A benchmark that is told to end leaves no service behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PATIENCE_S = 90.0


def processes_of(directory: Path) -> list[int]:
    """Those that were told of a file below `directory`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) in arguments:
            found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.1)


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGTERM], id="SIGTERM"),
        pytest.param([signal.SIGHUP], id="its terminal is gone"),
        pytest.param([signal.SIGINT, signal.SIGINT], id="Ctrl-C, and once more while it ends"),
    ],
)
def test_a_benchmark_that_is_told_to_end_ends_its_service(
    signals: list[signal.Signals], tiny_llama_dir: Path, tmp_path: Path
) -> None:
    services = Path(tempfile.mkdtemp(prefix="bench-"))  # short: sockets are made below
    command = [sys.executable, "-m", "semipd_cli", "bench", "switch", "--model", f"file://{tiny_llama_dir}"]
    command += ["--results", str(tmp_path / "results")]
    with (tmp_path / "bench.log").open("wb") as log:
        bench = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(services)})
    try:
        wait_until(
            lambda: len(processes_of(services)) > 2 or bench.poll() is not None, "semipd up has started"
        )
        assert bench.poll() is None, (tmp_path / "bench.log").read_text()
        for number in signals:
            bench.send_signal(number)
        assert bench.wait(PATIENCE_S) == 130
        wait_until(lambda: not processes_of(services), "nothing is left")
        services.rmdir()  # it is empty
    finally:
        bench.kill()
        for pid in processes_of(services):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(services, ignore_errors=True)
