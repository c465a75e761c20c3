"""The CPU arbiter: two lane processes take turns on the same cores, by one lock and one page of shared memory.

The turn is a POSIX record lock on the control memfd: the kernel gives it back when a process dies, so a lane killed inside
its turn never blocks the other. The accounts (`turn_accounts`) are words of the control page, each written by one lane
alone; a stale "waiting" word costs a hand-over that nobody takes, nothing else.

Control page, u64 words: 0 prefill cap, 1 decode cap; 8.. prefill account, 16.. decode account.
"""

from __future__ import annotations

import fcntl
import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from semipd_core.partition import Role
from semipd_engine.lane.turn_accounts import TurnAccount
from semipd_shell import failpoints

_CAP_WORD = {Role.PREFILL: 0, Role.DECODE: 1}
_ACCOUNT_WORD = {Role.PREFILL: 8, Role.DECODE: 16}
_VIRTUAL, _PAID_UNTIL, _FINISHED, _WAITING = range(4)
HAND_OVER_S = 0.002  # how long a lane that gives way waits for the other one to take its turn
HAND_OVER_POLL_S = 0.00002


class ControlPage:
    """The shared words."""

    def __init__(self, page: mmap.mmap) -> None:
        self._words = memoryview(page).cast("Q")

    def close(self) -> None:
        self._words.release()

    def cap_percent(self, role: Role) -> int:
        return self._words[_CAP_WORD[role]]

    def set_caps(self, prefill_percent: int, decode_percent: int) -> None:
        self._words[_CAP_WORD[Role.PREFILL]] = prefill_percent
        self._words[_CAP_WORD[Role.DECODE]] = decode_percent

    def account(self, role: Role) -> TurnAccount:
        base = _ACCOUNT_WORD[role]
        return TurnAccount(
            virtual_ns=self._words[base + _VIRTUAL],
            paid_until_ns=self._words[base + _PAID_UNTIL],
            finished_ns=self._words[base + _FINISHED],
        )

    def set_account(self, role: Role, account: TurnAccount) -> None:
        base = _ACCOUNT_WORD[role]
        self._words[base + _VIRTUAL] = account.virtual_ns
        self._words[base + _PAID_UNTIL] = account.paid_until_ns
        self._words[base + _FINISHED] = account.finished_ns

    def is_waiting(self, role: Role) -> bool:
        return bool(self._words[_ACCOUNT_WORD[role] + _WAITING])

    def set_waiting(self, role: Role, *, waiting: bool) -> None:
        self._words[_ACCOUNT_WORD[role] + _WAITING] = waiting


class Turns:
    """Turns of one capped lane. `compute_ns` sums the time inside turns."""

    def __init__(
        self,
        page: ControlPage,
        lock_fd: int,
        role: Role,
        cap_percent: Callable[[], int],
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep_s: Callable[[float], None] = time.sleep,
    ) -> None:
        self._page = page
        self._lock_fd = lock_fd
        self._role = role
        self._other = Role.DECODE if role is Role.PREFILL else Role.PREFILL
        self._cap_percent = cap_percent
        self._clock_ns = clock_ns
        self._sleep_s = sleep_s
        self._held = False
        self.compute_ns = 0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a whole step: turns may be kept from one layer to the next, never beyond the step."""
        other = self._page.account(self._other)
        account = self._page.account(self._role).joined(other, self._clock_ns())
        self._page.set_account(self._role, account)
        self.compute_ns = 0
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Around one layer or the head."""
        self._acquire()
        failpoints.reach("lane.turn_held")
        started_ns = self._clock_ns()
        yield
        finished_ns = self._clock_ns()
        self.compute_ns += finished_ns - started_ns
        account = self._page.account(self._role).charged(started_ns, finished_ns, self._cap_percent())
        self._page.set_account(self._role, account)
        self._give_way(account)
        failpoints.reach("lane.layer_computed")

    def _acquire(self) -> None:
        wait_ns = self._page.account(self._role).wait_ns(self._clock_ns())
        if wait_ns > 0:
            self._release()
            self._sleep_s(wait_ns / 1e9)
        if not self._held:
            self._page.set_waiting(self._role, waiting=True)
            fcntl.lockf(self._lock_fd, fcntl.LOCK_EX, 1, 0)
            self._held = True
            self._page.set_waiting(self._role, waiting=False)

    def _give_way(self, account: TurnAccount) -> None:
        if not self._page.is_waiting(self._other) or not account.gives_way_to(
            self._page.account(self._other)
        ):
            return
        self._release()
        deadline_ns = self._clock_ns() + int(HAND_OVER_S * 1e9)
        while self._page.is_waiting(self._other) and self._clock_ns() < deadline_ns:
            self._sleep_s(HAND_OVER_POLL_S)

    def _release(self) -> None:
        if self._held:
            fcntl.lockf(self._lock_fd, fcntl.LOCK_UN, 1, 0)
            self._held = False


class FreeTurns:
    """Turns of a lane that has the device to itself (`Unified`)."""

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self.compute_ns = 0

    @contextmanager
    def step(self) -> Iterator[None]:
        self.compute_ns = 0
        yield

    @contextmanager
    def turn(self) -> Iterator[None]:
        failpoints.reach("lane.turn_held")
        started_ns = self._clock_ns()
        yield
        self.compute_ns += self._clock_ns() - started_ns
        failpoints.reach("lane.layer_computed")
