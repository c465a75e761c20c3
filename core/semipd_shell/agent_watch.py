"""Is there still an agent? Processes of the data plane outlive it, but not for long.

The living agent holds an exclusive flock on one file; the kernel drops it with the process. A process that has found the lock
free for `grace_s` on end stops by itself, so that nothing is left behind when agent and init are both gone.
"""

from __future__ import annotations

import fcntl
import os

GRACE_S = 30.0
POLL_S = 2.0


class AgentLock:
    """Held by the agent while it lives."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire(self) -> bool:
        """Take the lock; False if another agent lives."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        os.close(self._fd)


def is_held(path: str) -> bool:
    """Whether an agent lives. A missing file means that its directory was cleared: no agent."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


class OrphanWatch:
    """Asks at most every POLL_S whether an agent lives; `now_s` is monotonic."""

    def __init__(self, lock_path: str, grace_s: float = GRACE_S) -> None:
        self._lock_path = lock_path
        self._grace_s = grace_s
        self._checked_s = float("-inf")
        self._free_since_s: float | None = None

    def is_orphaned(self, now_s: float) -> bool:
        """Whether the lock has been free for `grace_s` on end."""
        if now_s - self._checked_s >= POLL_S:
            self._checked_s = now_s
            if is_held(self._lock_path):
                self._free_since_s = None
            elif self._free_since_s is None:
                self._free_since_s = now_s
        return self._free_since_s is not None and now_s - self._free_since_s >= self._grace_s
