"""Starts programs that end with the process that started them, however that one ends."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from semipd_cluster.errors import ClusterError

PACKAGES = Path(__file__).parent.parent
POLL_S = 0.05
TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Process:
    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def is_running(self) -> bool:
        return self.popen.poll() is None

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


@contextlib.contextmanager
def running(
    name: str, command: Sequence[str], logs: Path, *, stdin: int = subprocess.DEVNULL
) -> Iterator[Process]:
    """Kills the program at the end: nothing it holds is to be kept.

    The kernel kills it too when the calling thread ends, so a killed test run leaves no program behind.
    """
    log = logs / f"{name}.log"
    with log.open("ab") as output:
        popen = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only the caller, which ends its programs in order
        )
    try:
        yield Process(name, popen, log)
    finally:
        popen.kill()
        popen.wait()
        if popen.stdin is not None:
            popen.stdin.close()


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package, also where only `sys.path` knows of it."""
    return ["env", f"PYTHONPATH={PACKAGES}", sys.executable, "-m", module, *arguments]


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float, *processes: Process) -> None:
    """Raises: ClusterError when the time is over, or when one of the processes ends first."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        for process in processes:
            if not process.is_running:
                raise ClusterError(f"{process.name} ended before {what}:\n{process.tail()}")
        if time.monotonic() > deadline_s:
            tails = "".join(f"\n{process.log}:\n{process.tail()}" for process in processes)
            raise ClusterError(f"not within {timeout_s:.0f} s: {what}{tails}")
        time.sleep(POLL_S)
