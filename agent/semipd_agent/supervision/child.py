"""A process's place under supervision: who fills it, and when it may be filled again. Starts are journalled first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals

from semipd_agent.journal import entries as entry
from semipd_agent.journal.file import Journal
from semipd_agent.processes import process
from semipd_agent.processes.backoff import Backoff
from semipd_agent.processes.identity import Identity
from semipd_agent.processes.process import Process
from semipd_agent.supervision.view import ChildView
from semipd_shell import log

_log = log.logger(__name__)


@dataclass(slots=True, eq=False)
class Child:
    """`name` is the journal's; `on_change` is called after each death."""

    name: str
    journal: Journal
    on_change: Callable[[], None]
    process: Process | None = None
    backoff: Backoff = field(default_factory=Backoff)
    starts: int = 0
    signalled: Signals | None = None
    signalled_s: float = 0.0

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.is_alive

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.process.is_alive else None

    @property
    def restarts(self) -> int:
        return max(0, self.starts - 1)

    def view(self) -> ChildView:
        now_s = time.monotonic()
        return ChildView(
            is_alive=self.is_alive,
            is_due=self.backoff.is_due(now_s),
            signalled=self.signalled,
            signalled_age_s=now_s - self.signalled_s,
        )

    def start(
        self,
        command: Sequence[str],
        *,
        log_path: Path,
        directory: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Raises: JournalUnwritable (nothing was started), OSError."""
        self.journal.append(entry.Starting(process=self.name))
        started = process.start(
            command, log_path=log_path, directory=directory, on_exit=self._ended, environment=environment
        )
        self._fill(started)
        note_started(self.journal, self.name, started.identity)
        _log.info("process started", process_name=self.name, process_pid=started.pid)

    def adopt(self, identity: Identity) -> bool:
        """Whether the process still lives and is the one meant."""
        adopted = process.adopt(identity, self._ended)
        if adopted is None:
            return False
        self._fill(adopted)
        _log.info("process adopted", process_name=self.name, process_pid=adopted.pid)
        return True

    def _fill(self, filled: Process) -> None:
        self.process = filled
        self.signalled = None
        self.starts += 1
        self.backoff = self.backoff.started(time.monotonic())

    def send_signal(self, number: Signals) -> None:
        if self.process is not None:
            self.signalled, self.signalled_s = number, time.monotonic()
            self.process.send_signal(number)

    def _ended(self) -> None:
        assert self.process is not None
        _log.info(
            "process exited",
            process_name=self.name,
            process_pid=self.process.pid,
            exit_code=self.process.exit_code,
        )
        self.backoff = self.backoff.died(time.monotonic())
        self.journal.note(entry.Exited(process=self.name))
        self.on_change()


def note_started(journal: Journal, name: str, identity: Identity) -> None:
    journal.note(
        entry.Started(
            process=name, pid=identity.pid, start_ticks=identity.start_ticks, boot_id=identity.boot_id
        )
    )
