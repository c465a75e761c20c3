"""The other ranks of a lane, as its first rank has them: told every plan and every turn, and of one life with it.

They are forked before the first rank has any thread. The kernel kills them when it dies, whatever it dies of; and it ends
itself when one of them does, so that a lane is alive or dead as a whole and nobody else needs to know of ranks. With them the
lane is a process group: whoever waits for its end waits until the group is empty.

Source: PR_SET_PDEATHSIG(2const); the signal comes with the end of the thread that forked, which is the first rank's main one.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from semipd_core import messages
from semipd_core.errors import SemipdError
from semipd_shell.channel import Channel

END_WITHIN_S = 5.0  # from Stop to SIGKILL
EXIT_FAILED = 70
_PR_SET_PDEATHSIG = 1


class RankLost(SemipdError):
    """A rank has died: the lane cannot go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A follower's ends: plans come on the channel, a byte on the gate opens each turn."""

    rank: int
    channel: Channel
    gate_fd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    rank: int
    pid: int
    pidfd: int
    channel: Channel
    gate_fd: int

    def close(self) -> None:
        self.channel.close()
        os.close(self.gate_fd)
        os.close(self.pidfd)


class Followers:
    """Ranks 1, 2, …; none where a lane has one rank."""

    def __init__(self) -> None:
        self._members: list[_Member] = []
        self._ending = False

    def __len__(self) -> int:
        return len(self._members)

    @classmethod
    def fork(cls, num_ranks: int, run: Callable[[Seat], int]) -> Followers:
        """Each follower runs `run`, whose value is its exit code. The caller must have one thread only."""
        followers = cls()
        if num_ranks > 1:
            os.setpgid(0, 0)
        for rank in range(1, num_ranks):
            followers._fork(rank, run)
        return followers

    def _fork(self, rank: int, run: Callable[[Seat], int]) -> None:
        ours, theirs = socket.socketpair()
        gate_fd, opener_fd = os.pipe()
        leader_pid, pid = os.getpid(), os.fork()
        if pid == 0:
            ours.close()
            os.close(opener_fd)
            for member in self._members:
                member.close()
            _live(leader_pid, run, Seat(rank=rank, channel=Channel(theirs), gate_fd=gate_fd))
        theirs.close()
        os.close(gate_fd)
        self._members.append(
            _Member(rank=rank, pid=pid, pidfd=os.pidfd_open(pid), channel=Channel(ours), gate_fd=opener_fd)
        )

    def watch(self, on_loss: Callable[[int], None]) -> None:
        """Call `on_loss` with a rank that ends before `end`, from a thread of its own: the main one may be in a collective."""
        if self._members:
            threading.Thread(target=self._await_loss, args=(on_loss,), daemon=True).start()

    def _await_loss(self, on_loss: Callable[[int], None]) -> None:
        ranks = {member.pidfd: member.rank for member in self._members}
        ended, _, _ = select.select(list(ranks), [], [])
        if not self._ending:
            on_loss(ranks[ended[0]])

    def send(self, message: messages.StepPlan | messages.Stop) -> None:
        """Raises: RankLost."""
        for member in self._members:
            try:
                member.channel.send(message)
            except OSError as error:
                raise RankLost(f"rank {member.rank} takes no plan: {error}") from error

    def open_turn(self) -> None:
        """Raises: RankLost."""
        for member in self._members:
            try:
                os.write(member.gate_fd, b"\0")
            except OSError as error:
                raise RankLost(f"rank {member.rank} takes no turn: {error}") from error

    def end(self) -> None:
        """Tell them to stop and wait until they have ended; those that do not are killed."""
        self._ending = True
        with suppress(RankLost):
            self.send(messages.Stop())
        deadline_s = time.monotonic() + END_WITHIN_S
        for member in self._members:
            left_s = max(0.0, deadline_s - time.monotonic())
            if not select.select([member.pidfd], [], [], left_s)[0]:
                signal.pidfd_send_signal(member.pidfd, signal.SIGKILL)
            os.waitpid(member.pid, 0)


def _live(leader_pid: int, run: Callable[[Seat], int], seat: Seat) -> None:
    """The rest of a follower's life; never returns."""
    code = EXIT_FAILED
    try:
        _die_with(leader_pid)
        code = run(seat)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _die_with(leader_pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != leader_pid:  # it died before the signal was asked for
        raise RankLost("the first rank is gone")
