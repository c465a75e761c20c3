"""The processes that all engines of an agent share: the zygote, and the proxy where there are several engines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM

import msgspec

from semipd_agent.journal.file import Journal, JournalUnwritable
from semipd_agent.supervision.actions import KILL_AFTER_S
from semipd_agent.supervision.child import Child
from semipd_core.engine_config import SpecError
from semipd_shell import log

TICK_S = 0.25

_log = log.logger(__name__)


class SharedProcess:
    """Kept alive until `end`. `socket` (zygote) says when it is ready; `error_file` why it must not be restarted."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        journal: Journal,
        *,
        log_path: Path,
        directory: Path,
        on_change: Callable[[], None],
        socket: Path | None = None,
        error_file: Path | None = None,
    ) -> None:
        self.name = name
        self.child = Child(name, journal, self._changed)
        self.command = tuple(command)
        self.error: SpecError | None = None
        self.problem: str | None = None
        self._log_path = log_path
        self._directory = directory
        self._on_change = on_change
        self._socket = socket
        self._error_file = error_file
        self._wake = asyncio.Event()
        self._is_ending = False
        self._is_hurried = False

    @property
    def is_ready(self) -> bool:
        return self.child.is_alive and (self._socket is None or self._socket.exists())

    async def run(self) -> None:
        """Until `end` was called and the process is gone."""
        was_ready = False
        self._read_error()
        while not (self._is_ending and not self.child.is_alive):
            self._wake.clear()
            if self._is_ending:
                self._push_out()
            elif not self.child.is_alive and self.error is None:
                self._start()
            if self.is_ready is not was_ready:
                was_ready = self.is_ready
                self._on_change()
            await _wait(self._wake, TICK_S)
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)

    def _start(self) -> None:
        if not self.child.backoff.is_due(time.monotonic()):
            return
        try:
            if self._socket is not None:
                self._socket.unlink(missing_ok=True)
            self.child.start(self.command, log_path=self._log_path, directory=self._directory)
            self.problem = None
        except (JournalUnwritable, OSError) as error:
            if self.problem is None:
                _log.error("process not started", process_name=self.name, problem=str(error))
            self.problem = f"{self.name}: {error}"

    def ask_to_end(self) -> None:
        """SIGTERM: the proxy finishes its open requests first. It is not started again."""
        self._is_ending = True
        if self.child.signalled is None:
            self.child.send_signal(SIGTERM)
        self._wake.set()

    def _push_out(self) -> None:
        view = self.child.view()
        if self._is_hurried and view.signalled is not SIGKILL and view.signalled_age_s > KILL_AFTER_S:
            self.child.send_signal(SIGKILL)

    def hurry(self) -> None:
        """No more time for open requests: SIGKILL follows SIGTERM after KILL_AFTER_S."""
        self.ask_to_end()
        self._is_hurried = True

    def _changed(self) -> None:
        self._read_error()
        self._wake.set()
        self._on_change()

    def _read_error(self) -> None:
        if self._error_file is None:
            return
        try:
            self.error = msgspec.json.decode(self._error_file.read_bytes(), type=SpecError)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError) as error:
            self.error = SpecError(path=self._error_file.name, given=str(error), allowed="a SpecError")


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return
