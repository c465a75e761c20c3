"""Both roles on the CPU in one thread: prefill gives way between two layers, each role keeps its cap by pausing.

A decode step is not cut: it runs whole between two layers of a prompt, and pays for itself before the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from semipd_core import messages
from semipd_engine.lane.duplex_steps import Finished
from semipd_engine.lane.turn_accounts import TurnAccount
from semipd_engine.model.decoder import Turns
from semipd_engine.model.executor import Executor
from semipd_shell import failpoints

Clock = Callable[[], int]


class Pace:
    """One role's cap: computing for t ns under c percent is paid for after t * 100 / c ns."""

    def __init__(self, cap_percent: Callable[[], int], clock_ns: Clock = time.monotonic_ns) -> None:
        self._cap_percent = cap_percent
        self._clock_ns = clock_ns
        self._account = TurnAccount()
        self.compute_ns = 0  # of the present step

    def delay_s(self) -> float:
        return self._account.wait_ns(self._clock_ns()) / 1e9

    @contextmanager
    def turn(self) -> Iterator[None]:
        failpoints.reach("lane.turn_held")
        started_ns = self._clock_ns()
        yield
        finished_ns = self._clock_ns()
        self.compute_ns += finished_ns - started_ns
        self._account = self._account.charged(started_ns, finished_ns, self._cap_percent())
        failpoints.reach("lane.layer_computed")


class _YieldingTurns:
    """Turns of a prompt: decode first, and as long as the cap makes prefill wait."""

    def __init__(self, pace: Pace, between: Callable[[float], None]) -> None:
        self._pace = pace
        self._between = between

    @contextmanager
    def turn(self) -> Iterator[None]:
        self._between(0.0)
        while (delay_s := self._pace.delay_s()) > 0:
            self._between(delay_s)
        with self._pace.turn():
            yield


class CpuSteps:
    """One role's. A step is done when `launch` returns."""

    def __init__(self, executor: Executor, pace: Pace, clock_ns: Clock = time.monotonic_ns) -> None:
        self._executor = executor
        self._pace = pace
        self._clock_ns = clock_ns
        self._done: list[Finished] = []

    @property
    def in_flight(self) -> int:
        return len(self._done)

    def finished(self, *, wait: bool = False) -> list[Finished]:  # noqa: ARG002  nothing is ever under way
        done, self._done = self._done, []
        return done

    def _run(self, plan: messages.StepPlan, turns: Turns) -> None:
        self._pace.compute_ns = 0
        started_ns = self._clock_ns()
        tokens, logprobs = self._executor.execute(plan, turns)
        self._done.append(
            Finished(
                plan=plan,
                tokens=tokens,
                logprobs=logprobs,
                started_ns=started_ns,
                finished_ns=self._clock_ns(),
                compute_ns=self._pace.compute_ns,
            )
        )


class CpuPrefill(CpuSteps):
    def delay_s(self) -> float:
        return 0.0  # a chunk pauses from layer to layer

    def launch(self, plan: messages.StepPlan, between: Callable[[float], None]) -> None:
        self._run(plan, _YieldingTurns(self._pace, between))


class CpuDecode(CpuSteps):
    def delay_s(self) -> float:
        return self._pace.delay_s()

    def launch(self, plan: messages.StepPlan) -> None:
        self._run(plan, self._pace)
