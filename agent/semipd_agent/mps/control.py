"""A client of the MPS control daemon: one command, one process of the front end, one reply, each with a deadline.

The front end joins the replies of several commands without a mark between them, so each command gets its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from signal import SIGKILL

from semipd_agent.mps import replies
from semipd_agent.mps.replies import MpsError, ServerStatus, UnknownCommand

ANSWER_DEADLINE_S = 5.0
NO_DAEMON = "Cannot find MPS control daemon process"


class NoDaemon(MpsError):
    """Nobody listens in the pipe directory."""


class NoAnswer(MpsError):
    """The daemon did not answer within the deadline."""


class NoBinary(MpsError):
    """`nvidia-cuda-mps-control` cannot be run."""


class MpsControl:
    """`environment` holds at least CUDA_MPS_PIPE_DIRECTORY. Every method raises MpsError."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        deadline_s: float = ANSWER_DEADLINE_S,
    ) -> None:
        self._command = tuple(command)
        self._environment = dict(environment)
        self._deadline_s = deadline_s

    async def ask(self, sent: str, deadline_s: float | None = None) -> str:
        """The reply without its last newline. Raises: NoDaemon, NoAnswer, NoBinary."""
        deadline_s = self._deadline_s if deadline_s is None else deadline_s
        try:
            front_end = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment,
            )
        except OSError as error:
            given = f"{self._command[-1]}: {error.strerror}"
            raise NoBinary(sent, given, "nvidia-cuda-mps-control of the GPU's driver on PATH") from error
        try:
            output, errors = await asyncio.wait_for(
                front_end.communicate(f"{sent}\n".encode("ascii")), deadline_s
            )
        except (TimeoutError, asyncio.CancelledError) as error:
            with contextlib.suppress(ProcessLookupError):
                front_end.send_signal(SIGKILL)
            await front_end.wait()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise NoAnswer(sent, "nothing", f"a reply within {deadline_s:g} s") from None
        text = errors.decode("utf-8", "replace").strip()
        if text.startswith(NO_DAEMON):
            raise NoDaemon(sent, text, "a control daemon in CUDA_MPS_PIPE_DIRECTORY")
        return output.decode("utf-8", "replace").strip("\n")

    async def server_pids(self) -> tuple[int, ...]:
        sent = "get_server_list"
        return replies.parse_pids(sent, await self.ask(sent))

    async def start_server(self, uid: int) -> None:
        """An empty reply promises nothing: a server without a driver exits at once, and only the log says so."""
        sent = f"start_server -uid {uid}"
        replies.parse_nothing(sent, await self.ask(sent))

    async def server_status(self, pid: int) -> ServerStatus:
        """Before 550 there is no such command: a server that tells its percentage counts as active, and FAULT is not told."""
        sent = f"get_server_status {pid}"
        try:
            return replies.parse_status(sent, await self.ask(sent))
        except UnknownCommand:
            is_told = await self.active_thread_percentage(pid) is not None
            return ServerStatus.ACTIVE if is_told else ServerStatus.INITIALIZING

    async def client_pids(self, server_pid: int) -> tuple[int, ...]:
        sent = f"get_client_list {server_pid}"
        return replies.parse_pids(sent, await self.ask(sent))

    async def terminate_client(self, server_pid: int, client_pid: int) -> bool:
        """Ends the client's GPU work, so that it can be killed; False: refused."""
        sent = f"terminate_client {server_pid} {client_pid}"
        return replies.parse_terminated(sent, await self.ask(sent))

    async def shutdown_server(self, pid: int, *, is_forced: bool = False) -> None:
        """Without force the server ends after its last client."""
        sent = f"shutdown_server {pid}" + (" -f" if is_forced else "")
        replies.parse_nothing(sent, await self.ask(sent))

    async def active_thread_percentage(self, server_pid: int) -> float | None:
        """The default of later clients; None: the server is busy or still starting."""
        sent = f"get_active_thread_percentage {server_pid}"
        return replies.parse_percentage(sent, await self.ask(sent))

    async def set_active_thread_percentage(self, server_pid: int, percent: float) -> float | None:
        """Read back: a refused value leaves the old one and says so in the log alone."""
        sent = f"set_active_thread_percentage {server_pid} {percent:g}"
        return _granted(sent, percent, replies.parse_percentage(sent, await self.ask(sent)))

    async def default_active_thread_percentage(self) -> float:
        sent = "get_default_active_thread_percentage"
        return _told(sent, replies.parse_percentage(sent, await self.ask(sent)))

    async def set_default_active_thread_percentage(self, percent: float) -> float:
        """Of servers that start later. Read back: a refused value leaves the old one."""
        sent = f"set_default_active_thread_percentage {percent:g}"
        granted = _granted(sent, percent, replies.parse_percentage(sent, await self.ask(sent)))
        return _told(sent, granted)

    async def quit(self, timeout_s: int, deadline_s: float) -> None:
        """The daemon forces its servers after `timeout_s`; it has been seen to hang then: NoAnswer after `deadline_s`."""
        sent = f"quit -t {timeout_s}"
        reply = await self.ask(sent, deadline_s)
        replies.parse_nothing(sent, reply)


def _granted(sent: str, percent: float, granted: float | None) -> float | None:
    if granted is not None and abs(granted - percent) > 0.05:  # one decimal is printed
        raise MpsError(sent, f"{granted:g}", f"{percent:g} granted, a percentage in (0.0, 100.0]")
    return granted


def _told(sent: str, percent: float | None) -> float:
    if percent is None:
        raise replies.UnexpectedReply(sent, "", "a percentage in (0.0, 100.0]")
    return percent
