"""The state of a front end, and what it does with a request before it is answered: take it, queue it or refuse it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from semipd_core.engine_config import EngineConfig
from semipd_core.slo.window import WindowRecorder
from semipd_core.telemetry import FrontEndReport, SloTargets
from semipd_engine.frontend import api_errors, intake
from semipd_engine.frontend.answers import Answer
from semipd_engine.frontend.api_errors import RETRY_AFTER_S
from semipd_engine.frontend.clock import Clock
from semipd_engine.frontend.coordinator_link import CoordinatorLink
from semipd_engine.frontend.metrics import Metrics
from semipd_engine.frontend.open_requests import OpenRequests
from semipd_engine.frontend.request_record import RequestRecord
from semipd_engine.frontend.response_bodies import Form
from semipd_engine.frontend.served_model import ServedModel

_LONG_BODY_BYTES = 32 * 2**10  # above it, tokenizing would delay the tokens of others by more than some ms


@dataclass(slots=True, eq=False, kw_only=True)
class FrontEnd:
    config: EngineConfig
    link: CoordinatorLink
    clock: Clock = field(default_factory=Clock)
    recorder: WindowRecorder = field(default_factory=WindowRecorder)
    metrics: Metrics = field(default_factory=Metrics)
    model: ServedModel | None = None  # None: the memory server has not written it yet
    draining: bool = False  # not ready; connections close after their answer
    closes_at_s: float = 0.0  # monotonic; while draining, there are no new connections from then on
    on_drain: Callable[[], None] = lambda: None  # called once, as a drain begins
    num_in_flight: int = 0  # HTTP requests under /v1, until their last byte is written
    slo: SloTargets = field(init=False)  # of requests that come from now on
    requests: OpenRequests = field(init=False)

    def __post_init__(self) -> None:
        self.slo = self.config.slo
        self.requests = OpenRequests(self.clock, self.recorder, self.metrics, self.link.post)

    @property
    def is_ready(self) -> bool:
        return self.model is not None and self.link.is_ready and not self.draining

    @property
    def is_closed(self) -> bool:
        """To whoever does not know yet that it leaves: the lag of the drain is over."""
        return self.draining and self.clock.monotonic_s() >= self.closes_at_s

    def drain(self, lag_s: float = 0.0) -> None:
        """Not ready at once; who does not know yet is served for `lag_s`. A second call changes nothing."""
        if not self.draining:
            self.draining = True
            self.closes_at_s = self.clock.monotonic_s() + lag_s
            self.on_drain()

    def cut(self) -> None:
        """The time to drain is over: what is open ends with an error."""
        self.requests.fail_all(503, "the engine ends: its time to drain is over")

    def report(self) -> FrontEndReport:
        now_s = self.clock.unix_s()
        return FrontEndReport(
            at_s=now_s,
            ready=self.is_ready,
            slo=self.slo,
            open_requests=self.requests.num_open,
            queued_requests=self.requests.num_queued,
            slots=self.recorder.slots(now_s),
        )

    def expose_metrics(self) -> bytes:
        return self.metrics.expose(
            num_open=self.requests.num_open,
            num_queued=self.requests.num_queued,
            ready=self.is_ready,
            slots=self.recorder.slots(self.clock.unix_s()),
        )

    async def take(self, body: bytes, read: intake.Reader, form: Form, record: RequestRecord) -> Answer:
        """Submit the request in `body`. Raises: ApiError."""
        model = self._check_serving()
        if len(body) > _LONG_BODY_BYTES:
            order = await asyncio.to_thread(read, body, model, self.config.served_name)
            self._check_serving()
        else:
            order = read(body, model, self.config.served_name)
        self._check_queue(order.num_generations)
        record.generations = intake.build_generations(
            order,
            model,
            self.slo,
            request_id=record.request_id,
            arrived_s=record.arrived_s,
            unique_id=self.requests.unique_id,
        )
        created = int(self.clock.unix_s())
        answer = Answer(
            generations=record.generations,
            settings=order.settings,
            form=form(request_id=record.request_id, model=order.model_name, created=created),
        )
        self.requests.open(answer.generations, answer.take)
        return answer

    def check_open(self) -> None:
        """Raises: ApiError 503 once it is closed: who chooses among engines asks another one."""
        if self.is_closed:
            raise api_errors.unavailable("draining: only open requests are finished", RETRY_AFTER_S)

    def _check_serving(self) -> ServedModel:
        """A coordinator that has crashed is waited for, one that was never there is not. Raises: ApiError 503."""
        if self.model is None or not self.link.was_connected:
            raise api_errors.unavailable("the model is loading", RETRY_AFTER_S)
        return self.model

    def _check_queue(self, num_new: int) -> None:
        """Raises: ApiError 429 where the queue is full, 400 where it could never hold the request."""
        limit = self.config.max_queued_requests
        if num_new > limit:
            raise api_errors.invalid_field("n", f"{num_new} choices in all", f"prompts × n up to {limit}")
        num_queued = self.requests.num_queued
        if num_queued + num_new > limit:
            self.recorder.rejected(self.clock.unix_s())
            raise api_errors.ApiError(
                429,
                f"the queue is full: {num_queued} requests wait for their first token, allowed: {limit}",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                retry_after_s=RETRY_AFTER_S,
            )
