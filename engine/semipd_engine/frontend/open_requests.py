"""All requests that are being answered: what the coordinator has been asked for, and where its tokens go.

The registry outlives the connection to the coordinator. It posts messages through `post`, which may drop them while there is no
connection, because a new connection begins with `resubmissions`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from semipd_core import messages
from semipd_core.slo.window import WindowRecorder
from semipd_engine.frontend.clock import Clock
from semipd_engine.frontend.generation import Delta, Generation, TokenGapError
from semipd_engine.frontend.metrics import Metrics
from semipd_shell import log

_log = log.logger(__name__)

Sink = Callable[[Delta | messages.Failed], None]


@dataclass(slots=True, eq=False)
class OpenRequests:
    clock: Clock
    recorder: WindowRecorder
    metrics: Metrics
    post: Callable[[messages.Message], None]
    _open: dict[str, tuple[Generation, Sink]] = field(default_factory=dict)

    @property
    def num_open(self) -> int:
        return len(self._open)

    @property
    def num_queued(self) -> int:
        """Open, no token yet."""
        return sum(generation.is_queued for generation, _ in self._open.values())

    def unique_id(self, wanted: str) -> str:
        """`wanted`, or with a suffix where a request of that ID is open."""
        return wanted if wanted not in self._open else f"{wanted}-{uuid.uuid4().hex[:8]}"

    def open(self, generations: Sequence[Generation], sink: Sink) -> None:
        """Submit them; what becomes of them goes to `sink`."""
        for generation in generations:
            assert generation.request_id not in self._open
            self._open[generation.request_id] = (generation, sink)
            self.recorder.arrived(self.clock.unix_s(), len(generation.submit.prompt))
            self.post(generation.submit)

    def close(self, generations: Sequence[Generation]) -> None:
        """Nobody waits for them: those that have not ended are aborted."""
        for generation in generations:
            if self._open.pop(generation.request_id, None) is not None:
                self.post(messages.Abort(request_id=generation.request_id))
                self.metrics.generation_aborted()

    def resubmissions(self) -> Iterator[messages.Submit]:
        """In order of arrival."""
        return (generation.resubmission() for generation, _ in self._open.values())

    def receive(self, message: messages.Tokens | messages.Failed) -> None:
        """A message for a request that is not open comes from before its abort: ignored."""
        if message.request_id not in self._open:
            return
        generation, sink = self._open[message.request_id]
        if isinstance(message, messages.Failed):
            self._fail(generation, sink, message)
            return
        try:
            self._take(generation, sink, message)
        except TokenGapError as error:
            _log.error("token gap", request_id=generation.request_id, error=str(error))
            self.post(messages.Abort(request_id=generation.request_id))
            failed = messages.Failed(
                request_id=generation.request_id, status=500, message="tokens were lost in the engine"
            )
            self._fail(generation, sink, failed)

    def fail_all(self, status: int, message: str) -> None:
        for generation, sink in list(self._open.values()):
            self.post(messages.Abort(request_id=generation.request_id))
            failed = messages.Failed(request_id=generation.request_id, status=status, message=message)
            self._fail(generation, sink, failed)

    def check_misses(self) -> None:
        """Record the open requests that have certainly missed their SLO by now."""
        now_s = self.clock.monotonic_s()
        for generation, _ in self._open.values():
            self.recorder.record(self.clock.unix_s(), generation.judge.check(now_s))

    def _take(self, generation: Generation, sink: Sink, message: messages.Tokens) -> None:
        now_s, unix_s = self.clock.monotonic_s(), self.clock.unix_s()
        num_before = len(generation.received)
        deltas = generation.accept(message, now_s)
        num_new = len(generation.received) - num_before
        if num_before == 0 and num_new:
            self.recorder.cached(unix_s, generation.cached_tokens)
        self.recorder.tokens(unix_s, num_new)
        self.recorder.record(unix_s, generation.judge.token(now_s, num_new))
        if generation.finish is not None:
            self.recorder.record(unix_s, generation.judge.finished(now_s))
            self._ended(generation)
            if message.finish is None:  # a stop string: the coordinator does not know
                self.post(messages.Abort(request_id=generation.request_id))
        for delta in deltas:
            sink(delta)

    def _fail(self, generation: Generation, sink: Sink, message: messages.Failed) -> None:
        now_s = self.clock.monotonic_s()
        self.recorder.record(self.clock.unix_s(), generation.judge.failed(now_s))
        generation.finish = "cut" if generation.has_reached_client else "error"
        self._ended(generation)
        sink(message)

    def _ended(self, generation: Generation) -> None:
        del self._open[generation.request_id]
        self.metrics.generation_ended(generation)
