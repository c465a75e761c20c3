"""Which curves a report draws from a replay. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from semipd_bench import outcome
from semipd_bench.chart import Chart, Mark, Point, Series
from semipd_bench.replay import Replay
from semipd_bench.timeline import EngineSample

BIN_S = 5.0


def build_charts(replay: Replay) -> list[Chart]:
    """TTFT, TPOT, attainment, split, queue, KV: all over the same seconds."""
    duration_s = max(replay.trace.duration_s, replay.duration_s)
    marks = _marks(replay)
    slo = replay.slo
    return [
        _latency_chart(
            replay,
            "Time to first token",
            duration_s,
            marks,
            slo.ttft_ms,
            slo.ttft_percentile,
            lambda o: o.ttft_ms,
        ),
        _latency_chart(
            replay,
            "Time per output token",
            duration_s,
            marks,
            slo.tpot_ms,
            slo.tpot_percentile,
            lambda o: o.tpot_ms,
        ),
        Chart(
            title="Requests that attain both targets",
            unit=f"% of those due in {BIN_S:g} s",
            duration_s=duration_s,
            marks=marks,
            y_max=104,
            series=[Series(name="attained", points=_attainment(replay), style="good", kind="line")],
        ),
        Chart(
            title="Split, as granted",
            unit="% of the device",
            duration_s=duration_s,
            marks=marks,
            y_max=104,
            series=list(_split_series(replay)),
        ),
        Chart(
            title="Queue",
            unit="requests without a first token",
            duration_s=duration_s,
            marks=marks,
            series=list(_engine_series(replay, "other", lambda e: e.waiting)),
        ),
        Chart(
            title="KV cache in use",
            unit="% of its blocks",
            duration_s=duration_s,
            marks=marks,
            y_max=104,
            series=list(_engine_series(replay, "other", lambda e: e.kv_used_permille / 10)),
        ),
    ]


def _marks(replay: Replay) -> list[Mark]:
    marks = []
    if replay.trace.joint_s is not None:
        marks.append(Mark(at_s=replay.trace.joint_s, label="the trace changes here", style="joint"))
    for switch in replay.timeline.switches:
        old, new = switch.from_partition, switch.to_partition
        at_s = switch.at_s - replay.timeline.started_unix_s
        label = (
            f"{at_s:.1f} s: ({old.prefill_percent}, {old.decode_percent}) to "
            f"({new.prefill_percent}, {new.decode_percent}), {switch.reason}, {switch.outcome}"
        )
        marks.append(Mark(at_s=at_s, label=label, style="switch"))
    return marks


def _latency_chart(
    replay: Replay,
    title: str,
    duration_s: float,
    marks: Sequence[Mark],
    target_ms: int,
    percent: int,
    value: Callable[[outcome.Outcome], float | None],
) -> Chart:
    complete = sorted((o for o in replay.outcomes if value(o) is not None), key=lambda o: o.planned_s)
    within = [o for o in complete if (value(o) or 0.0) <= target_ms]
    beyond = [o for o in complete if (value(o) or 0.0) > target_ms]
    binned = []
    for at_s, members in _bins(complete, duration_s):
        values = [v for o in members if (v := value(o)) is not None]
        binned.append(Point(at_s=at_s, y=outcome.percentile(values, percent) if values else None))
    return Chart(
        title=title,
        unit="ms, by when the request was due",
        duration_s=duration_s,
        marks=marks,
        target=float(target_ms),
        series=[
            Series(name="within", points=[_dot(o, value) for o in within], style="prefill", kind="dots"),
            Series(name="beyond", points=[_dot(o, value) for o in beyond], style="missed", kind="dots"),
            Series(name=f"p{percent} of {BIN_S:g} s", points=binned, style="other", kind="line"),
        ],
    )


def _dot(one: outcome.Outcome, value: Callable[[outcome.Outcome], float | None]) -> Point:
    label = (
        f"request {one.index} at {one.planned_s:.1f} s: {one.prompt_tokens} in, {one.output_tokens} out, "
        f"TTFT {one.ttft_ms or 0:.0f} ms, TPOT {one.tpot_ms or 0:.0f} ms"
    )
    return Point(at_s=one.planned_s, y=value(one), label=label)


def _bins(
    outcomes: Sequence[outcome.Outcome], duration_s: float
) -> Iterable[tuple[float, list[outcome.Outcome]]]:
    """(middle of the bin in seconds, its members)."""
    for index in range(int(duration_s / BIN_S + 0.999)):
        start_s = index * BIN_S
        yield start_s + BIN_S / 2, [o for o in outcomes if start_s <= o.planned_s < start_s + BIN_S]


def _attainment(replay: Replay) -> list[Point]:
    points = []
    for at_s, members in _bins(replay.outcomes, max(replay.trace.duration_s, replay.duration_s)):
        permille = outcome.attainment_permille(members, replay.slo)
        points.append(Point(at_s=at_s, y=None if permille is None else permille / 10))
    return points


def _split_series(replay: Replay) -> Iterable[Series]:
    for position, engine_id in enumerate(_engine_ids(replay)):
        dash = " second" if position else ""
        for role, index in (("prefill", 0), ("decode", 1)):
            points = [
                Point(at_s=at_s, y=float(e.granted[index])) for at_s, e in _of_engine(replay, engine_id)
            ]
            yield Series(name=f"{engine_id} {role}", points=points, style=f"{role}{dash}", kind="step")


def _engine_series(replay: Replay, style: str, value: Callable[[EngineSample], float]) -> Iterable[Series]:
    for position, engine_id in enumerate(_engine_ids(replay)):
        points = [Point(at_s=at_s, y=float(value(e))) for at_s, e in _of_engine(replay, engine_id)]
        yield Series(name=engine_id, points=points, style="decode second" if position else style, kind="line")


def _engine_ids(replay: Replay) -> list[str]:
    return sorted({e.engine_id for sample in replay.timeline.samples for e in sample.engines})


def _of_engine(replay: Replay, engine_id: str) -> Iterable[tuple[float, EngineSample]]:
    for sample in replay.timeline.samples:
        for engine in sample.engines:
            if engine.engine_id == engine_id:
                yield sample.at_s, engine
