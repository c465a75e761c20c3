"""Keeps one agent running, and reaps every process that outlives its parent.

As a child subreaper this process becomes the parent of what a dead agent leaves behind, so that nothing is lost from sight
until the next agent has adopted it. Source: PR_SET_CHILD_SUBREAPER(2const).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from semipd_core.errors import DeviceError, SemipdError

_PR_SET_CHILD_SUBREAPER = 36
_MAX_SILENT_DEATHS = 5
_RESTART_DELAY_S = 0.5  # below the 2 s that the design promises, above a busy loop
_KILL_AFTER_S = 3.0
_POLL_S = 0.05


class AgentFailed(SemipdError):
    """The agent ends again and again before it answers."""


class AfterExit(StrEnum):
    FINISHED = "Finished"  # it was told to drain and stop
    REFUSED = "Refused"  # the user must change something
    RESTART = "Restart"
    GIVE_UP = "GiveUp"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitDecision:
    step: AfterExit
    delay_s: float
    message: str


def after_exit(exit_code: int, silent_deaths: int) -> ExitDecision:
    """What follows when the agent has ended.

    exit_code: negative for a signal. silent_deaths: ends in a row, this one included, without an answer over HTTP before.
    """
    how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    if exit_code == 0:
        return ExitDecision(step=AfterExit.FINISHED, delay_s=0.0, message="the agent has stopped")
    if exit_code == 2:
        return ExitDecision(step=AfterExit.REFUSED, delay_s=0.0, message="the agent refuses its input")
    if silent_deaths >= _MAX_SILENT_DEATHS:
        message = f"the agent ended {silent_deaths} times before it answered, the last time with {how}"
        return ExitDecision(step=AfterExit.GIVE_UP, delay_s=0.0, message=message)
    delay_s = 0.0 if silent_deaths <= 1 else _RESTART_DELAY_S
    return ExitDecision(
        step=AfterExit.RESTART, delay_s=delay_s, message=f"the agent ended with {how}; it starts again"
    )


def become_subreaper() -> None:
    """Raises: DeviceError where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise DeviceError(f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(ctypes.get_errno())}")


class AgentKeeper:
    """One agent at a time. `reap` must be called on SIGCHLD, from the event loop's thread."""

    def __init__(self, command: Sequence[str], log_path: Path) -> None:
        self._command = list(command)
        self._log_path = log_path
        self._pid: int | None = None
        self._exit_code = 0
        self._exited = asyncio.Event()
        self._silent_deaths = 0
        self.lives = 0  # agents started so far
        self.has_answered = False  # any of them

    @property
    def is_running(self) -> bool:
        return self._pid is not None

    def start(self) -> None:
        """In a session of its own: a Ctrl-C on the terminal is for `semipd up` alone. Raises: OSError."""
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._exited.clear()
        self.lives += 1
        self._pid = os.posix_spawn(
            self._command[0],
            self._command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self._log_path), append, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
        )

    def answered(self) -> None:
        """The agent has answered: its next end is no failure to start."""
        self._silent_deaths = 0
        self.has_answered = True

    def send(self, number: signal.Signals) -> None:
        """Nothing happens if the agent has ended: its pid is not reused before `reap` has seen it."""
        if self._pid is not None:
            os.kill(self._pid, number)

    def reap(self) -> None:
        """Collect every child that has ended, orphans included."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._pid = None
                self._exit_code = os.waitstatus_to_exitcode(status)
                self._silent_deaths += 1
                self._exited.set()

    async def keep(self, say: Callable[[str], None]) -> AfterExit:
        """Restart the agent until it finishes or refuses its input. Cancelled, it can be called again.

        Raises: AgentFailed, OSError.
        """
        while True:
            await self._exited.wait()
            decision = after_exit(self._exit_code, self._silent_deaths)
            if decision.step is AfterExit.GIVE_UP:
                raise AgentFailed(f"{decision.message}\n{tail(self._log_path)}")
            if decision.step is not AfterExit.RESTART:
                return decision.step
            say(decision.message)
            await asyncio.sleep(decision.delay_s)
            self.start()

    async def end_children(self) -> None:
        """End all children, and theirs as they come over: SIGTERM first, SIGKILL after _KILL_AFTER_S."""
        asked_s: dict[int, float] = {}
        while children := list(children_of(os.getpid())):
            now_s = time.monotonic()
            for pid in children:
                number = (
                    signal.SIGKILL
                    if now_s - asked_s.setdefault(pid, now_s) > _KILL_AFTER_S
                    else signal.SIGTERM
                )
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            await asyncio.sleep(_POLL_S)
            self.reap()


def children_of(parent: int) -> Iterator[int]:
    """Living children, by /proc. Source: proc_pid_stat(5), fields 3 (state) and 4 (ppid)."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text(errors="replace")
        except OSError:
            continue
        state, ppid = stat.rpartition(")")[2].split()[:2]
        if int(ppid) == parent and state not in "ZXx":
            yield int(entry.name)


def tail(log_path: Path, lines: int = 15) -> str:
    """The last lines of a log, or a word about why there are none."""
    if not log_path.is_file():
        return "(its log is not a file here)"
    try:
        return "\n".join(log_path.read_text(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(no log: {error.strerror})"
