"""One lane under measurement: plans out, results in, until it is told to stop."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from semipd_core import messages
from semipd_core.errors import DeviceError, SemipdError
from semipd_shell.channel import Channel

STOP_TIMEOUT_S = 30.0
WORDS_TIMEOUT_S = 5.0  # from a lane's last message to its end, when its log is whole


class LaneLost(DeviceError):
    """A lane ended, or answers nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forked:
    """A lane process. `why_ended`: what to raise once it has ended unasked."""

    pid: int
    why_ended: Callable[[], SemipdError]

    def last_error(self) -> SemipdError:
        """As `why_ended`, for who has noticed it by the lane's connection, which may end before the process."""
        process = open_process(self.pid)
        if process is not None:
            select.select([process], [], [], WORDS_TIMEOUT_S)
            os.close(process)
        return self.why_ended()


class LaneLink:
    """`results` grows by what `take` reads; at most `run_ahead` steps are in flight, as under a coordinator."""

    def __init__(
        self, channel: Channel, hello: messages.LaneHello, forked: Forked, *, run_ahead: int
    ) -> None:
        self.hello = hello
        self.results: list[messages.StepResult] = []
        self._channel = channel
        self._forked = forked
        self._run_ahead = run_ahead
        self._in_flight = 0

    @property
    def is_idle(self) -> bool:
        return self._in_flight == 0

    def fileno(self) -> int:
        return self._channel.fileno()

    def feed(self, plans: Iterator[messages.StepPlan]) -> None:
        """Keep the lane busy. Raises: what says why it has ended."""
        try:
            while self._in_flight < self._run_ahead:
                self._channel.send(next(plans))
                self._in_flight += 1
        except OSError as error:
            raise self._forked.last_error() from error

    def take(self) -> None:
        """Raises: what says why it has ended."""
        try:
            message = self._channel.receive()
        except EOFError as error:
            raise self._forked.last_error() from error
        assert isinstance(message, messages.StepResult), message
        self._in_flight -= 1
        self.results.append(message)

    def stop(self) -> None:
        """Wait until the process is gone: two lanes of one role would share their blocks.

        Raises: LaneLost where it has to be killed.
        """
        process = open_process(self.hello.pid)
        try:
            self._channel.send(messages.Stop())
        except OSError:
            pass  # it is gone already
        finally:
            self._channel.close()
        if process is None:
            return
        try:
            ended, _, _ = select.select([process], [], [], STOP_TIMEOUT_S)
            if not ended:
                signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)
        if not ended:
            raise LaneLost(f"{self.hello.lane_id} does not stop within {STOP_TIMEOUT_S:.0f} s")


def wait_for_results(links: list[LaneLink], timeout_s: float) -> list[LaneLink]:
    """Those of `links` that have a result. Raises: LaneLost after `timeout_s` of silence."""
    ready, _, _ = select.select(links, [], [], timeout_s)
    if not ready:
        names = ", ".join(link.hello.lane_id for link in links)
        raise LaneLost(f"{names}: no step has ended for {timeout_s:.0f} s")
    return ready


def clock_ns() -> int:
    """The clock of step results."""
    return time.monotonic_ns()


def open_process(pid: int) -> int | None:
    """A descriptor that is readable once the process has ended; None if it is gone."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
