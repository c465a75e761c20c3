"""Open-loop load: every request is sent at its time, whatever became of those before it.

Completions are streamed, with prompts of exact length given as token ids. Prompts of one seed are all different from their
first block on, so that a prefix cache saves nothing. Nothing is retried: a failure is an outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import httpx
import msgspec

from semipd_bench.outcome import CANCELLED, Outcome
from semipd_bench.trace import TraceRequest

REQUEST_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The service under load. `url` ends before `/v1`."""

    url: str
    model: str
    vocabulary_tokens: int
    api_key: str | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int


class _Choice(msgspec.Struct):
    text: str = ""


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: dict[str, object] | None = None


_chunks = msgspec.json.Decoder(_Chunk)


@dataclass(slots=True, eq=False)
class _Answer:
    """What has arrived of one answer."""

    status: int | None = None
    token_s: list[float] = field(default_factory=list)
    counted_tokens: int | None = None  # by the server
    error: str | None = None
    done: bool = False

    def take(self, line: str, now_s: float) -> None:
        """One line of the event stream."""
        if not line.startswith("data:"):
            return
        data = line[5:].strip()
        if data == "[DONE]":
            self.done = True
            return
        chunk = _chunks.decode(data)
        if chunk.error is not None:
            self.error = f"error in the stream: {chunk.error.get('message')}"
        if chunk.usage is not None:
            self.counted_tokens = chunk.usage.completion_tokens
        if any(choice.text for choice in chunk.choices):
            self.token_s.append(now_s)

    def take_whole(self, body: bytes, now_s: float) -> None:
        """An answer that was not streamed."""
        whole = _chunks.decode(body)
        self.counted_tokens = None if whole.usage is None else whole.usage.completion_tokens
        self.token_s.append(now_s)
        self.done = True

    @property
    def output_tokens(self) -> int:
        return len(self.token_s) if self.counted_tokens is None else self.counted_tokens

    def verdict(self, wanted_tokens: int) -> str | None:
        """Why the answer is not complete; None if it is."""
        if self.error is None and not self.done:
            return "the stream ended before [DONE]"
        if self.error is None and self.output_tokens != wanted_tokens:
            return f"{self.output_tokens} tokens, wanted {wanted_tokens}"
        return self.error


def build_prompt(num_tokens: int, vocabulary_tokens: int, seed: str) -> list[int]:
    """Token ids, drawn above the special tokens that start most vocabularies."""
    first = min(256, vocabulary_tokens // 2)
    draw = random.Random(seed)
    return [draw.randrange(first, vocabulary_tokens) for _ in range(num_tokens)]


def open_client(target: Target) -> httpx.AsyncClient:
    """A client without limits on connections: the load decides how many are open."""
    headers = {} if target.api_key is None else {"authorization": f"Bearer {target.api_key}"}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.AsyncClient(
        base_url=target.url, headers=headers, limits=limits, timeout=REQUEST_TIMEOUT_S, trust_env=False
    )


class Load:
    """One run of requests against one service."""

    def __init__(self, target: Target, *, seed: str, clock: Callable[[], float]) -> None:
        self._target = target
        self._seed = seed
        self._clock = clock
        self._started_s = clock()
        self.sent = 0
        self.outcomes: list[Outcome] = []
        self._stopped = asyncio.Event()

    def restart_clock(self) -> None:
        """Let the run begin at this moment."""
        self._started_s = self._clock()

    @property
    def now_s(self) -> float:
        """Since the run's start."""
        return self._clock() - self._started_s

    async def run(self, client: httpx.AsyncClient, requests: Iterable[TraceRequest]) -> list[Outcome]:
        """Send each request at its `at_s` and wait for all answers; a cancelled run cancels its open requests.

        The outcomes come in order of completion, and are in `outcomes` as they come.
        """
        async with asyncio.TaskGroup() as group:
            for index, request in enumerate(requests):
                await self._sleep_until(request.at_s)
                if self._stopped.is_set():
                    break
                group.create_task(self.send(client, index, request))
        return self.outcomes

    def stop_sending(self) -> None:
        """Let `run` end once the requests that are open are answered."""
        self._stopped.set()

    async def _sleep_until(self, at_s: float) -> None:
        if at_s > self.now_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), at_s - self.now_s)

    async def send(
        self, client: httpx.AsyncClient, index: int, request: TraceRequest, *, stream: bool = True
    ) -> Outcome:
        """Send one request now. A cancelled request is an outcome too. Without `stream` the answer comes as one piece."""
        prompt = build_prompt(request.prompt_tokens, self._target.vocabulary_tokens, f"{self._seed}-{index}")
        body = {
            "model": self._target.model,
            "prompt": prompt,
            "max_tokens": request.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        answer = _Answer()
        self.sent += 1
        sent_s = self.now_s
        try:
            await self._receive(client, body, answer)
        except asyncio.CancelledError:
            answer.error = CANCELLED
            raise
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            answer.error = f"{type(error).__name__}: {error}"
        finally:
            outcome = self._outcome(index, request, sent_s, answer)
            self.outcomes.append(outcome)
        return outcome

    async def _receive(self, client: httpx.AsyncClient, body: dict[str, object], answer: _Answer) -> None:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            answer.status = response.status_code
            if response.status_code != httpx.codes.OK:
                text = (await response.aread()).decode(errors="replace")
                answer.error = f"HTTP {response.status_code}: {text[:200]}"
                return
            if body.get("stream"):
                async for line in response.aiter_lines():
                    answer.take(line, self.now_s)
            else:
                answer.take_whole(await response.aread(), self.now_s)

    def _outcome(self, index: int, request: TraceRequest, sent_s: float, answer: _Answer) -> Outcome:
        return Outcome(
            index=index,
            planned_s=request.at_s,
            sent_s=sent_s,
            prompt_tokens=request.prompt_tokens,
            wanted_tokens=request.output_tokens,
            output_tokens=answer.output_tokens,
            token_s=tuple(answer.token_s),
            status=answer.status,
            error=answer.verdict(request.output_tokens),
        )
