"""A replay as it runs: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from semipd_bench import outcome
from semipd_bench.replay import Replay
from semipd_bench.timeline import EngineSample, LaneSample
from semipd_core.agent_config import DecisionStatus

PLAIN_EVERY_S = 5.0
DECISIONS_SHOWN = 4
RECENT_S = 20.0  # latencies of requests that ended this recently


class LiveTable:
    """Use as a context manager; pass `show` to the replay."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._plain_at_s = float("-inf")
        self._decisions_told = 0
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, replay: Replay) -> None:
        if self._live is not None:
            self._live.update(build_screen(replay), refresh=True)
            return
        fresh = replay.timeline.decisions[self._decisions_told :]
        self._decisions_told += len(fresh)
        for decision in (d for d in fresh if d.changed):
            self._print(describe_decision(decision, replay.timeline.started_unix_s))
        if self._clock() - self._plain_at_s >= PLAIN_EVERY_S:
            self._plain_at_s = self._clock()
            self._print(plain_line(replay))

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)


def recent(replay: Replay) -> list[outcome.Outcome]:
    """What ended in the last RECENT_S seconds."""
    since_s = replay.load.now_s - RECENT_S
    return [o for o in replay.outcomes if (o.token_s[-1] if o.token_s else o.sent_s) >= since_s]


def plain_line(replay: Replay) -> str:
    """One line with everything that the table shows, in short."""
    done = recent(replay)
    engines = "; ".join(_engine_words(e) for e in _engines(replay))
    return (
        f"{replay.load.now_s:5.0f} s  sent {replay.load.sent}, done {len(replay.outcomes)}, failed {replay.failed}"
        f" | TTFT {_latency(outcome.ttfts_ms(done), replay.slo.ttft_percentile, replay.slo.ttft_ms)}"
        f" | TPOT {_latency(outcome.tpots_ms(done), replay.slo.tpot_percentile, replay.slo.tpot_ms)}"
        f" | attained {_permille(outcome.attainment_permille(done, replay.slo))} | {engines}"
    )


def describe_decision(decision: DecisionStatus, started_unix_s: float) -> str:
    where = decision.engine_id or "all engines"
    split = decision.partition
    return (
        f"{decision.at_s - started_unix_s:5.0f} s  {decision.loop} loop, {where}: "
        f"({split.prefill_percent}, {split.decode_percent}) {decision.reason}: {decision.message}"
    )


def build_screen(replay: Replay) -> RenderableType:
    return Group(_lane_table(replay), _slo_table(replay), *_decision_lines(replay))


def _lane_table(replay: Replay) -> Table:
    table = Table(title=f"{replay.load.now_s:.0f} of {replay.trace.duration_s:.0f} s", title_justify="left")
    for column in ("engine", "lane", "share asked", "granted", "batch", "queue", "tokens/s", "KV", "phase"):
        table.add_column(column, justify="left" if column in ("engine", "lane", "phase") else "right")
    for engine in _engines(replay):
        for lane in engine.lanes:
            table.add_row(*_lane_cells(engine, lane))
    return table


def _lane_cells(engine: EngineSample, lane: LaneSample) -> Iterable[str]:
    queue = str(engine.waiting) if lane.role != "decode" else str(engine.decoding)
    rate = "–" if lane.tokens_per_s is None else f"{lane.tokens_per_s:.0f}"
    kv = f"{engine.kv_used_permille / 10:.0f} %"
    shares = (f"{lane.requested_percent} %", f"{lane.granted_percent} %")
    return engine.engine_id, lane.role, *shares, str(lane.batch), queue, rate, kv, engine.phase


def _slo_table(replay: Replay) -> Table:
    slo, done = replay.slo, recent(replay)
    table = Table(title=f"last {RECENT_S:.0f} s", title_justify="left")
    for column in ("", "p50 ms", "p90 ms", "p99 ms", "target"):
        table.add_column(column, justify="right")
    for name, values, target in (
        ("TTFT", outcome.ttfts_ms(done), f"p{slo.ttft_percentile} ≤ {slo.ttft_ms} ms"),
        ("TPOT", outcome.tpots_ms(done), f"p{slo.tpot_percentile} ≤ {slo.tpot_ms} ms"),
    ):
        found = outcome.percentiles(values)
        cells = [f"{v:.0f}" for v in (found.p50, found.p90, found.p99)] if found else ["–"] * 3
        table.add_row(name, *cells, target)
    whole = _permille(outcome.attainment_permille(replay.outcomes, slo))
    now = _permille(outcome.attainment_permille(done, slo))
    table.caption = (
        f"attained {now} now, {whole} in all; sent {replay.load.sent}, done {len(replay.outcomes)}, "
        f"failed {replay.failed}"
    )
    return table


def _decision_lines(replay: Replay) -> list[str]:
    latest = [d for d in replay.timeline.decisions if d.changed][-DECISIONS_SHOWN:]
    return [describe_decision(d, replay.timeline.started_unix_s) for d in latest]


def _engines(replay: Replay) -> tuple[EngineSample, ...]:
    return replay.timeline.samples[-1].engines if replay.timeline.samples else ()


def _engine_words(engine: EngineSample) -> str:
    lanes = ", ".join(
        f"{lane.role} {lane.granted_percent} % batch {lane.batch}"
        + ("" if lane.tokens_per_s is None else f" {lane.tokens_per_s:.0f} tok/s")
        for lane in engine.lanes
    )
    return f"{engine.engine_id}: {lanes}, queue {engine.waiting}, KV {engine.kv_used_permille / 10:.0f} %"


def _latency(values: list[float], percent: int, target_ms: int) -> str:
    if not values:
        return f"p{percent} – (≤ {target_ms})"
    return f"p{percent} {outcome.percentile(values, percent):.0f} ms (≤ {target_ms})"


def _permille(value: int | None) -> str:
    return "–" if value is None else f"{value / 10:.1f} %"
