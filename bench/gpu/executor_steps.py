"""Sequences as a coordinator would drive them, and the executor under them with its steps in flight."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from semipd_core import messages
from semipd_core.engine_config import EngineConfig
from semipd_core.partition import Isolation
from semipd_core.telemetry import SloTargets
from semipd_engine.cuda_model.executor import CudaExecutor
from semipd_engine.lane.step_loop import StepOutcome

_epochs = count(1)


def engine_config(*, max_rows: int, budget_tokens: int, block_tokens: int) -> EngineConfig:
    """Only what an executor reads is real."""
    return EngineConfig(
        engine_id="script",
        directory="",
        agent_lock="",
        zygote_socket="",
        model_uri="",
        served_name="random",
        dtype="Auto",
        max_context_tokens=None,
        kv_bytes=None,
        block_tokens=block_tokens,
        max_rows=max_rows,
        prefill_budget_tokens=budget_tokens,
        mixed_budget_tokens=budget_tokens,
        prefill_policy="SPF",
        spf_aging_tokens_per_s=0.0,
        spf_max_wait_s=0.0,
        run_ahead=2,
        isolation=Isolation.UNIFIED,
        cpus=[0],
        host=None,
        port=None,
        api_key=None,
        max_queued_requests=1,
        slo=SloTargets(ttft_percentile=90, ttft_ms=1, tpot_percentile=90, tpot_ms=1),
    )


class Sequenced:
    """One sequence: its prompt in chunks, then a token at a time, run ahead."""

    def __init__(
        self, slot: int, prompt: Sequence[int], blocks: Sequence[int], sampling: messages.Sampling
    ) -> None:
        self._slot, self._prompt, self._blocks, self._sampling = slot, list(prompt), list(blocks), sampling
        self._computed = 0
        self._sent = False

    def chunk(self, num_tokens: int) -> messages.Row:
        """The next `num_tokens` of the prompt; with the last of them a token is sampled."""
        start, end = self._computed, self._computed + num_tokens
        return self._row(start, self._prompt[start:end], wants=end == len(self._prompt))

    def next(self) -> messages.Row:
        """The token sampled last."""
        return self._row(self._computed, [], wants=True)

    def _row(self, start: int, tokens: list[int], *, wants: bool) -> messages.Row:
        blocks = [] if self._sent else self._blocks
        self._sent = True
        self._computed = start + (len(tokens) or 1)
        return messages.Row(
            slot=self._slot,
            start=start,
            tokens=tokens,
            blocks_from=0,
            blocks=blocks,
            sampling=self._sampling if wants else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedStep:
    outcome: StepOutcome
    wall_ms: float  # from the step before, or from its own launch, to its tokens on the host


def build_plan(rows: Sequence[messages.Row]) -> messages.StepPlan:
    return messages.StepPlan(epoch=next(_epochs), rows=list(rows), request_ids=[""] * len(rows))


def run(executor: CudaExecutor, plans: Iterable[messages.StepPlan]) -> Iterator[TimedStep]:
    """As a lane does: the next step is launched before the last one is awaited."""
    in_flight = deque()
    finished_s = 0.0

    def finish() -> TimedStep:
        nonlocal finished_s
        step, launched_s = in_flight.popleft()
        outcome = step.outcome()
        began_s, finished_s = max(launched_s, finished_s), time.perf_counter()
        return TimedStep(outcome=outcome, wall_ms=(finished_s - began_s) * 1000)

    for plan in plans:
        if len(in_flight) == executor.depth:
            yield finish()
        launched_s = time.perf_counter()
        in_flight.append((executor.launch(plan), launched_s))
    while in_flight:
        yield finish()
