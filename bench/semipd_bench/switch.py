"""What does a switch cost the requests in flight? Steady load, many switches each way, token gaps around each; beside it
the plain alternative, stop-and-restart: the whole service is stopped and started again with the new split.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from semipd_bench.generated_service import write_service_file
from semipd_bench.load import Load, Target, open_client
from semipd_bench.outcome import Outcome, percentile
from semipd_bench.service import Service, free_port, run_service
from semipd_bench.trace import TraceRequest
from semipd_bench.verdict import Condition
from semipd_core.errors import SemipdError
from semipd_core.partition import Isolation, Partition

EFFECT_MAX_S = 2.0
GAP_RATIO_MAX = 1.25
AFTER_EFFECT_S = 1.0  # gaps that overlap [wish, effect + this] count as the switch's
REST_S = 1.5  # between two switches, after that
STEADY, SWITCHING, RESTING = "steady", "switching", "resting"
PROMPT_TOKENS, OUTPUT_TOKENS = 128, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Seconds of the load's clock."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchResult:
    """`effects_s`: wish to effect. Gaps in milliseconds."""

    sent: int
    lost: int
    effects_s: tuple[float, ...]
    steady_p99_ms: tuple[float, float]  # of the two splits
    switching_p99_ms: float
    switching_worst_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartResult:
    """Stop-and-restart; `effects_s`: signal to ready again."""

    sent: int
    lost: int
    effects_s: tuple[float, ...]


class NothingToCompare(SemipdError):
    """The load was too light: a phase holds no token gaps."""


def judge_switches(result: SwitchResult) -> list[Condition]:
    steady_ms = max(result.steady_p99_ms)
    return [
        Condition(name="no request lost", holds=result.lost == 0, found=f"{result.lost} of {result.sent}"),
        Condition(
            name=f"every wish takes effect within {EFFECT_MAX_S:g} s",
            holds=max(result.effects_s) <= EFFECT_MAX_S,
            found=f"median {percentile(result.effects_s, 50):.2f} s, worst {max(result.effects_s):.2f} s",
        ),
        Condition(
            name=f"p99 of token gaps around switches is at most {GAP_RATIO_MAX} of the worse steady p99",
            holds=result.switching_p99_ms <= GAP_RATIO_MAX * steady_ms,
            found=f"{result.switching_p99_ms:.0f} ms, steady {result.steady_p99_ms[0]:.0f} and "
            f"{result.steady_p99_ms[1]:.0f} ms: {result.switching_p99_ms / steady_ms:.2f}",
        ),
    ]


def gaps_overlapping(outcomes: Sequence[Outcome], intervals: Sequence[Interval]) -> list[float]:
    """Token gaps in milliseconds that share a moment with one of `intervals`."""
    return [
        (end_s - start_s) * 1e3
        for outcome in outcomes
        for start_s, end_s in outcome.gaps()
        if any(start_s < i.end_s and end_s > i.start_s for i in intervals)
    ]


def steady_requests(rate_per_s: float) -> Iterator[TraceRequest]:
    """Evenly spaced, so that the load is the same in every second; without end, for who stops sending."""
    for index in itertools.count():
        yield TraceRequest(at_s=index / rate_per_s, prompt_tokens=PROMPT_TOKENS, output_tokens=OUTPUT_TOKENS)


def _nothing(text: str) -> None:
    """What a service prints while it starts is in its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchRun:
    """How to measure. `splits` are the two that are switched between; `each_way` switches go to each."""

    model_uri: str
    directory: Path
    splits: tuple[Partition, Partition]
    each_way: int
    restarts_each_way: int
    rate_per_s: float
    steady_s: float
    say: Callable[[str], None]
    unix_clock: Callable[[], float] = time.time
    write_file: Callable[[Path, Partition], Path] | None = (
        None  # another service, at that path; None: MPS, no policy
    )
    enter: Callable[[str], None] = _nothing  # told each phase as it begins: STEADY, SWITCHING, RESTING
    start_s: float | None = None  # the most that a service may take to be ready; None: no limit

    async def measure(self) -> tuple[SwitchResult, RestartResult]:
        return await self.measure_switches(), await self._restart()

    async def measure_switches(self) -> SwitchResult:
        file = self._service_file(self.splits[0])
        async with (
            run_service(
                file,
                self.directory / "run",
                say=_nothing,
                log=self.directory / "switch.log",
                start_s=self.start_s,
            ) as service,
            open_client(service.target) as client,
        ):
            load = Load(service.target, seed="switch", clock=time.monotonic)
            sending = asyncio.create_task(load.run(client, steady_requests(self.rate_per_s)))
            steady: list[Interval] = []
            switching: list[Interval] = []
            effects_s: list[float] = []
            try:
                for number, split in enumerate(
                    itertools.islice(itertools.cycle(self.splits), 2 * self.each_way + 1)
                ):
                    if number:
                        self.enter(SWITCHING)
                        interval, effect_s = await self._switch_once(service, load, split)
                        switching.append(interval)
                        effects_s.append(effect_s)
                        self.enter(RESTING)
                    if number < 2:
                        await asyncio.sleep(REST_S)
                        start_s = load.now_s
                        self.enter(STEADY)
                        await asyncio.sleep(self.steady_s)
                        self.enter(RESTING)
                        steady.append(Interval(start_s=start_s, end_s=load.now_s))
                    await asyncio.sleep(REST_S)
                await _finish(load, sending)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        return _conclude(load, steady, switching, effects_s)

    async def _switch_once(self, service: Service, load: Load, split: Partition) -> tuple[Interval, float]:
        """Ask, wait for the effect; the agent's own account of it is the shorter of the two clocks."""
        asked_s = load.now_s
        await service.set_split(split, reason="Bench", message="the other split", pinned=True)
        switches = [s for s in (await service.agent.status()).switches if s.seconds is not None]
        effect_s = switches[-1].seconds if switches and switches[-1].seconds else load.now_s - asked_s
        self.say(f"to {split}: {effect_s:.2f} s from wish to effect")
        await asyncio.sleep(max(asked_s + effect_s + AFTER_EFFECT_S - load.now_s, 0.0))
        return Interval(start_s=asked_s, end_s=asked_s + effect_s + AFTER_EFFECT_S), effect_s

    async def _restart(self) -> RestartResult:
        """The same load, while the service is stopped (its open requests get the drain's time) and started anew."""
        port = free_port()
        load: Load | None = None
        sending: asyncio.Task[list[Outcome]] | None = None
        effects_s: list[float] = []
        stopped_s = 0.0
        splits = itertools.islice(itertools.cycle(self.splits), 2 * self.restarts_each_way + 1)
        try:
            for number, split in enumerate(splits):
                async with run_service(
                    self._service_file(split),
                    self.directory / "run",
                    say=_nothing,
                    log=self.directory / "restart.log",
                    port=port,
                    start_s=self.start_s,
                ) as service:
                    if load is None:
                        load, sending = self._start_load(service.target)
                    if number:
                        effects_s.append(load.now_s - stopped_s)
                        self.say(f"restarted for {split}: {effects_s[-1]:.1f} s")
                    await asyncio.sleep(AFTER_EFFECT_S + REST_S)
                    stopped_s = load.now_s
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        assert load is not None
        # What the last stop cut off was the benchmark's end, not a restart.
        judged = [o for o in load.outcomes if o.sent_s < stopped_s and not o.is_cancelled]
        return RestartResult(
            sent=len(judged), lost=sum(not o.is_complete for o in judged), effects_s=tuple(effects_s)
        )

    def _start_load(self, target: Target) -> tuple[Load, asyncio.Task[list[Outcome]]]:
        load = Load(target, seed="restart", clock=time.monotonic)

        async def send() -> list[Outcome]:
            async with open_client(target) as client:
                return await load.run(client, steady_requests(self.rate_per_s))

        return load, asyncio.create_task(send())

    def _service_file(self, split: Partition) -> Path:
        if self.write_file is not None:
            return self.write_file(self.directory / "switch.yaml", split)
        return write_service_file(
            self.directory / "switch.yaml",
            model_uri=self.model_uri,
            isolation=Isolation.MPS,
            initial=split,
            drain_s=1,
        )


async def _finish(load: Load, sending: asyncio.Task[list[Outcome]]) -> None:
    """Stop sending, and let what is open complete: everything sent so far is judged."""
    load.stop_sending()
    await sending


def _conclude(
    load: Load, steady: Sequence[Interval], switching: Sequence[Interval], effects_s: Sequence[float]
) -> SwitchResult:
    steady_gaps = [gaps_overlapping(load.outcomes, [interval]) for interval in steady]
    switching_gaps = gaps_overlapping(load.outcomes, switching)
    if not switching_gaps or not all(steady_gaps):
        raise NothingToCompare("a phase of the benchmark holds no token gaps: raise --rate")
    return SwitchResult(
        sent=load.sent,
        lost=sum(not o.is_complete for o in load.outcomes),
        effects_s=tuple(effects_s),
        steady_p99_ms=(percentile(steady_gaps[0], 99), percentile(steady_gaps[1], 99)),
        switching_p99_ms=percentile(switching_gaps, 99),
        switching_worst_ms=max(switching_gaps),
    )
