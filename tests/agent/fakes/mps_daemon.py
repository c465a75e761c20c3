"""A control daemon for a test, the fake or the real one, with servers that only sleep; and what lives in its pipe directory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from semipd_agent.mps import processes
from semipd_agent.mps.control import MpsControl

FAKES = Path(__file__).parents[2] / "fixtures" / "fake_mps"
FAKE = (sys.executable, "-S", str(FAKES / processes.CONTROL))
REAL_VARIABLE = "SEMIPD_MPS_CONTROL"  # the binary, where it is not on PATH
DEADLINE_S = 90.0


def real_command() -> tuple[str, ...] | None:
    import mps_package  # not of the agents that import this module

    found = os.environ.get(REAL_VARIABLE) or shutil.which(processes.CONTROL) or mps_package.find_unpacked()
    return (str(found),) if found else None


def path_with_sleeping_server() -> str:
    return f"{FAKES}:{os.environ['PATH']}"


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.02)


class MpsDaemon:
    def __init__(self, directory: Path, command: tuple[str, ...] = FAKE) -> None:
        self.command = command
        self.pipes = directory / "pipe"
        self.logs = directory / "log"
        self.pipes.mkdir(parents=True)
        self.logs.mkdir()
        self.environment = {
            **os.environ,
            "PATH": path_with_sleeping_server(),
            "CUDA_MPS_PIPE_DIRECTORY": str(self.pipes),
            "CUDA_MPS_LOG_DIRECTORY": str(self.logs),
        }
        self.output = self.logs / "control.out"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [*self.command, "-f"], env=self.environment, stdout=output, stderr=output
            )
        until(lambda: self.ask("get_default_active_thread_percentage"), "the daemon answers")

    def script(self, **changes: object) -> None:
        script = self.pipes / "script.json"
        old = json.loads(script.read_text()) if script.exists() else {}
        script.with_suffix(".new").write_text(json.dumps({**old, **changes}))
        script.with_suffix(".new").rename(script)

    def fault(self) -> None:
        (self.pipes / "fault").touch()

    def add_client(self, pid: int) -> None:
        (self.pipes / "clients").mkdir(exist_ok=True)
        (self.pipes / "clients" / str(pid)).touch()

    @property
    def terminated(self) -> set[int]:
        """Clients whose work was ended."""
        return {int(path.name) for path in (self.pipes / "terminated").glob("*")}

    def ask(self, sent: str) -> str:
        done = subprocess.run(
            self.command,
            input=f"{sent}\n",
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )
        return done.stdout

    def start_server(self) -> int:
        self.ask(f"start_server -uid {os.getuid()}")
        until(lambda: self.ask("get_server_list").strip(), "a server is listed")
        return int(self.ask("get_server_list"))

    def control(self, deadline_s: float = DEADLINE_S) -> MpsControl:
        return MpsControl(self.command, self.environment, deadline_s)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def clear_away(self) -> None:
        self.kill()
        clear_away(self.pipes)


def clear_away(pipes: Path) -> None:
    """Every daemon and server of that pipe directory."""
    found = processes.find(str(pipes))
    for facts in (*found.daemons, *found.servers):
        os.kill(facts.identity.pid, signal.SIGKILL)


def living_servers(pipes: Path) -> set[int]:
    return {facts.identity.pid for facts in processes.find(str(pipes)).servers}
