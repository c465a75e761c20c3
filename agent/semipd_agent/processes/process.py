"""One process under supervision: started or adopted, watched and signalled by its pidfd, never by a bare pid.

Source: pidfd_open(2): a pidfd polls readable once its process has ended, a child or not.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from semipd_agent.processes.identity import Identity, outlives, read_identity

GROUP_POLL_S = 0.02


class Process:
    """Calls `on_exit` once, from the event loop, after the process has ended. It is reaped first if it is a child.

    `with_group`: the process has ended once nobody lives in the process group that it leads, if it leads one.
    """

    def __init__(
        self,
        identity: Identity,
        on_exit: Callable[[], None],
        child: subprocess.Popen[bytes] | None = None,
        *,
        with_group: bool = False,
    ) -> None:
        self.identity = identity
        self.exit_code: int | None = None  # None: alive, or no child of this agent
        self._child = child
        self._on_exit = on_exit
        self._with_group = with_group
        self._pidfd: int | None = os.pidfd_open(identity.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    @property
    def pid(self) -> int:
        return self.identity.pid

    @property
    def is_alive(self) -> bool:
        return self._pidfd is not None

    def send_signal(self, number: signal.Signals) -> None:
        """Signal exactly this process; nothing happens if it has ended."""
        if self._pidfd is None:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def _ended(self) -> None:
        if self._pidfd is None:
            return
        if self._with_group and outlives(self.identity):
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._pidfd)
            loop.call_later(GROUP_POLL_S, self._ended)
            return
        self.release()
        if self._child is not None:
            self.exit_code = self._child.wait()
        self._on_exit()

    def release(self) -> None:
        """Stop watching."""
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None


def start(
    command: Sequence[str],
    *,
    log_path: Path,
    directory: Path,
    on_exit: Callable[[], None],
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start `command` in a session of its own (a Ctrl-C on the terminal is not for it), its output appended to `log_path`.

    `environment` is the whole of it; None: this process's.

    Raises: OSError.
    """
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            env=environment,
            start_new_session=True,
        )
    # Nobody else waits for this child, so its pid is not reused before `_ended`.
    identity = read_identity(child.pid) or Identity(pid=child.pid, start_ticks=0, boot_id="")
    return Process(identity, on_exit, child)


def adopt(identity: Identity, on_exit: Callable[[], None], *, with_group: bool = False) -> Process | None:
    """Watch a process that somebody else started; None if it has ended or its pid belongs to another now."""
    try:
        process = Process(identity, on_exit, with_group=with_group)
    except ProcessLookupError:
        return None
    if (
        read_identity(identity.pid) != identity
    ):  # asked after the pidfd was opened, so that no reuse slips between
        process.release()
        return None
    return process
