"""The plan of the GPU's goodput: what a budget buys, in which order, and what the table says of the rest."""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
import pytest
from gpu_bench import goodput, goodput_plan, goodput_runs
from gpu_bench.engine import START_LIMIT_S
from gpu_bench.goodput_plan import (
    LONG_S,
    MODES,
    SCENES,
    SHORT_S,
    STATIC,
    UNIFIED,
    Run,
    cost_s,
    curve,
    is_refused,
    next_run,
)
from gpu_bench.goodput_runs import ENGINES, PINNED, GoodputRuns, NoSlo
from gpu_bench.goodput_table import spent_s, table
from gpu_bench.needs import EXIT_TIME_IS_UP
from gpu_bench.rate_search import BOTTOM, TOP, rate_of
from gpu_bench.verdicts import attains, describe
from hypothesis import given, settings
from hypothesis import strategies as st

from semipd_bench.load import Target
from semipd_bench.outcome import CANCELLED, Outcome
from semipd_bench.service import ServiceEnded, ServiceNotReady, SplitRefused
from semipd_core.telemetry import SloTargets

HOUR_S = 3600.0
TRUE_PER_S = dict.fromkeys(MODES, 18.0) | {
    "dynamic MPS": 27.0, "MPS (100, 100)": 22.0, "Unified, 1024 tokens a step": 21.0, "MPS (60, 100)": 26.0,
}  # fmt: skip
STEPS = st.integers(BOTTOM + 12, TOP - 12)

# --- the plan --------------------------------------------------------------------------------------------------


def row_of(run, spent_s=0.0, **fields):
    """Attainment falls from 100 % at half of the true rate, and is 90 % at it."""
    share = min(1.0, max(0.0, 1.0 - 0.2 * (run.rate_per_s / TRUE_PER_S[run.mode] - 0.5)))
    requests = max(1, round(run.seconds * run.rate_per_s))
    slos = [run.slo] if MODES[run.mode].moves else ["tight", "loose"]
    return {
        "slo": run.slo, "workload": run.workload, "mode": run.mode, "ratePerS": run.rate_per_s, "seconds": run.seconds,
        "requests": requests, "attained": dict.fromkeys(slos, round(share * requests)), "spentSeconds": spent_s,
    } | fields  # fmt: skip


def play(budget_s: float, rows=(), refused_engines=()):
    rows, warm, starts = list(rows), None, []
    while (run := next_run(rows, budget_s - spent_s(rows), warm)) is not None:
        spent = cost_s(run, warm, goodput_plan.START_S)
        if run.engine in refused_engines:
            rows.append(
                row_of(run, spent, requests=0, attained={}, refused="exit code 2", refusedEngine=run.engine)
            )
            continue
        if run.needs_start(warm):
            starts.append(run.engine)
            warm = (run.engine, run.scene)
        rows.append(row_of(run, spent))
        assert len(rows) < 2000
    return rows, starts


def states(rows, slo="tight", workload="conv"):
    return {
        each["mode"]: each["state"]
        for each in table(rows)["modes"]
        if (each["slo"], each["workload"]) == (slo, workload)
    }


def told_of(rows):
    """The comparisons of the first workload and SLO, by what is compared with."""
    return {
        each["against"]: each
        for each in table(rows)["targets"]
        if (each["slo"], each["workload"], each["mode"]) == (*SCENES[0], "dynamic MPS")
    }


def test_runs_are_of_one_workload_and_slo_first_and_in_them_the_moving_split():
    rows, _ = play(1200.0)
    assert {(row["slo"], row["workload"]) for row in rows} == {SCENES[0]}
    order = list(dict.fromkeys(row["mode"] for row in rows))
    assert order[:3] == ["dynamic MPS", "MPS (100, 100)", UNIFIED.modes[0].name]


def test_twenty_minutes_decide_the_moving_split_and_the_first_baseline_and_sweep_the_second():
    """By the most that each run may take; what takes less leaves time for more."""
    rows, starts = play(1200.0)
    found = states(rows)
    assert found["dynamic MPS"] == found["MPS (100, 100)"] == "measured"
    assert {found[mode.name] for mode in UNIFIED.modes} == {"short runs only"}
    assert found["two lanes, no partition"] == "not measured"
    assert starts == ["MPS", *(mode.engine for mode in UNIFIED.modes)]
    told = told_of(rows)
    assert told["MPS (100, 100)"]["ratio"] == pytest.approx(27 / 22, rel=0.02)
    assert told["MPS (100, 100)"]["meets"] is True
    assert told["tuned Unified"]["ratio"] is None


def test_half_an_hour_decides_the_best_of_the_first_sweep():
    told = told_of(play(1800.0)[0])
    assert told["tuned Unified"]["best"] == "Unified, 1024 tokens a step"
    assert told["tuned Unified"]["ratio"] == pytest.approx(27 / 21, rel=0.02)
    assert told["tuned Unified"]["meets"] is True
    assert told["best static"]["meets"] is None, "what won that sweep is not decided"


def test_a_day_measures_everything_and_finds_the_best_of_each_sweep():
    rows, _ = play(100 * HOUR_S)
    found = table(rows)
    assert {each["state"] for each in found["modes"]} == {"measured"}
    for each in found["modes"]:
        assert each["goodputPerS"] == pytest.approx(TRUE_PER_S[each["mode"]], rel=0.01)
    best = {each["best"] for each in found["targets"] if each["against"] != "MPS (100, 100)"}
    assert best == {"Unified, 1024 tokens a step", "MPS (60, 100)"}
    assert next_run(rows, HOUR_S) is None


@settings(max_examples=8, deadline=None)
@given(st.floats(0, HOUR_S))
def test_what_a_smaller_budget_measures_is_a_beginning_of_what_a_larger_one_does(budget_s):
    rows, _ = play(budget_s)
    assert spent_s(rows) <= budget_s
    resumed, _ = play(budget_s + HOUR_S / 2, rows)
    assert resumed[: len(rows)] == rows
    keys = [
        (row["mode"], row["workload"], row["ratePerS"], row["seconds"])
        for row in resumed
        if not MODES[row["mode"]].moves
    ]
    assert len(set(keys)) == len(keys), "a split that does not move is judged by both SLOs at once"


def test_the_first_run_of_another_mode_is_where_the_one_before_crossed():
    rows, _ = play(1200.0)
    first = next(row for row in rows if row["mode"] == "MPS (100, 100)")
    crossing = table(rows)["modes"][0]["goodputPerS"]
    assert first["ratePerS"] == pytest.approx(crossing, rel=0.2)
    assert first["seconds"] == SHORT_S


# --- what is refused, and what is not measured -----------------------------------------------------------------


def test_an_engine_that_this_machine_cannot_run_is_tried_twice_and_ends_no_other():
    rows, _ = play(3 * HOUR_S, refused_engines=("MPS",))
    assert sum("refused" in row for row in rows) == 2
    found = states(rows)
    assert {found[mode.name] for mode in STATIC.modes} == {"refused"}
    assert found["dynamic GreenContext"] == found["Unified, 512 tokens a step"] == "measured"
    assert all(each["ratio"] is None for each in table(rows)["targets"] if each["mode"] == "dynamic MPS")


@pytest.mark.parametrize(
    ("fields", "mode", "gives_up_after"),
    [
        pytest.param({"refused": "not granted"}, "MPS (60, 100)", 2, id="a split that is not granted"),
        pytest.param(
            {"refused": "exit code 2", "refusedEngine": "MPS"},
            "dynamic MPS",
            2,
            id="an engine that does not start",
        ),
        pytest.param({"uncounted": "ReadTimeout"}, "MPS (60, 100)", 4, id="runs that say nothing"),
    ],
)
def test_a_mode_is_given_up_after_so_many_such_runs(fields, mode, gives_up_after):
    run = Run(slo="tight", workload="conv", mode="MPS (60, 100)", rate_per_s=16.0, seconds=SHORT_S)
    rows = [row_of(run, requests=0, attained={}, **fields)] * gives_up_after
    assert is_refused(rows, mode)
    assert not is_refused(rows[1:], mode)
    assert not is_refused(rows, "Unified, 512 tokens a step")


def test_nothing_measured_is_said_of_every_mode_and_compared_with_nothing():
    found = table([])
    assert len(found["modes"]) == len(SCENES) * len(MODES)
    assert {(each["state"], each["goodputPerS"]) for each in found["modes"]} == {("not measured", None)}
    assert all(each["ratio"] is None and each["meets"] is None for each in found["targets"])


def test_short_runs_alone_give_a_bracket_and_no_goodput():
    rows = [row for row in play(1200.0)[0] if row["seconds"] == SHORT_S]
    entry = table(rows)["modes"][0]
    assert (entry["state"], entry["goodputPerS"]) == ("short runs only", None)
    assert entry["keepsPerS"] < TRUE_PER_S["dynamic MPS"] < entry["losesPerS"]


@pytest.mark.parametrize(
    ("dynamic", "static", "meets"),
    [
        pytest.param((55, 58), (51, 54), True, id="both three steps apart"),
        pytest.param((48, 60), (51, 54), None, id="the moving split coarsely"),
        pytest.param((55, 58), (48, 60), None, id="what it is held against coarsely"),
    ],
)
def test_a_target_is_met_or_missed_only_by_what_is_decided_on_both_sides(dynamic, static, meets):
    rows = [
        row_of(Run(slo="tight", workload="conv", mode=mode, rate_per_s=rate_of(step), seconds=LONG_S))
        for mode, steps in (("dynamic MPS", dynamic), ("MPS (100, 100)", static))
        for step in steps
    ]
    told = told_of(rows)["MPS (100, 100)"]
    assert told["ratio"] > 1.1
    assert told["meets"] is meets


def test_every_mode_of_the_plan_has_an_engine_and_static_ones_their_split():
    assert {mode.engine for mode in MODES.values()} == set(ENGINES)
    pinned = {name for name, mode in MODES.items() if mode.engine == "MPS" and not mode.moves}
    assert pinned == set(PINNED)
    assert all(ENGINES[mode.engine].moves for mode in MODES.values() if mode.moves)


# --- verdicts --------------------------------------------------------------------------------------------------

SLO = SloTargets(ttft_percentile=90, ttft_ms=200, tpot_percentile=90, tpot_ms=50)


def outcome(token_s, error=None, wanted=100, sent_s=0.0):
    return Outcome(
        index=0, planned_s=0.0, sent_s=sent_s, prompt_tokens=8, wanted_tokens=wanted, output_tokens=len(token_s),
        token_s=tuple(token_s), status=200, error=error,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given_outcome", "holds"),
    [
        pytest.param(outcome([0.1, 0.14]), True, id="complete and in time"),
        pytest.param(outcome([0.1, 0.2]), False, id="complete, tokens too slow"),
        pytest.param(outcome([0.1, 0.14], CANCELLED), True, id="cut, as fast as it should so far"),
        pytest.param(outcome([0.1, 0.2], CANCELLED), False, id="cut, too slow so far"),
        pytest.param(outcome([0.04, 0.05], CANCELLED), False, id="cut, stalled since its last token"),
        pytest.param(outcome([0.05], CANCELLED), False, id="cut, stalled since its first token"),
        pytest.param(outcome([0.05, 0.06], CANCELLED, wanted=2), True, id="cut when all tokens had come"),
        pytest.param(
            outcome([0.25, 0.29], sent_s=0.1), False, id="in time since it was sent, late since it was due"
        ),
        pytest.param(outcome([], CANCELLED), False, id="cut before its first token"),
        pytest.param(outcome([0.1, 0.14], "HTTP 500"), False, id="failed"),
    ],
)
def test_a_request_attains(given_outcome, holds):
    assert attains(given_outcome, SLO, cut_s=0.17) is holds


def test_a_request_that_was_due_and_never_sent_has_missed():
    found = describe([outcome([0.1, 0.14])], 4, {"tight": SLO}, cut_s=75.0)
    assert (found["requests"], found["sent"], found["attained"]) == (4, 1, {"tight": 1})


@pytest.mark.parametrize(("sent_s", "counts"), [(0.05, True), (0.06, False)])
def test_a_run_whose_client_was_late_does_not_count(sent_s, counts):
    row = row_of(Run(slo="tight", workload="conv", mode="MPS (60, 100)", rate_per_s=16.0, seconds=SHORT_S))
    row |= describe([outcome([0.1, 0.14], sent_s=sent_s)], 1, {"tight": SLO}, cut_s=75.0)
    assert row["lateP99Ms"] == pytest.approx(1e3 * sent_s)
    assert bool(curve([row], "tight", "conv", "MPS (60, 100)", SHORT_S)) is counts
    assert describe([], 4, {"tight": SLO}, cut_s=75.0)["lateP99Ms"] is None


# --- calls -----------------------------------------------------------------------------------------------------


class PlayedRuns:
    """Runs that take no time, and say what they cost."""

    warm = None
    singles_s = 0.0

    def __init__(self) -> None:
        self.known, self.measured = set(), 0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    def knows_slo(self, workload):
        return workload in self.known

    async def learn_slo(self, workload):
        self.known.add(workload)
        self.singles_s += 60.0

    async def measure(self, run):
        assert self.knows_slo(run.workload)
        self.measured += 1
        return row_of(run, cost_s(run, None, goodput_plan.START_S))


def call(out, left_s, budget_s, clock=lambda: 0.0, runs=None):
    runs = runs or PlayedRuns()
    goodput.time.monotonic, saved = clock, goodput.time.monotonic
    try:
        return asyncio.run(goodput.measure(out, runs, left_s, budget_s)), runs
    finally:
        goodput.time.monotonic = saved


def test_a_call_ends_when_its_time_is_up_and_the_next_one_goes_on(tmp_path):
    code, runs = call(tmp_path, 100.0, 1200.0)
    assert (code, runs.measured) == (EXIT_TIME_IS_UP, 0)
    code, runs = call(tmp_path, 1e9, 1200.0, runs=runs)
    assert code == 0
    rows = goodput.read_rows(tmp_path / "goodput.jsonl")
    assert 0 < spent_s(rows) + runs.singles_s <= 1200.0
    assert {row["seconds"] for row in rows} == {SHORT_S, LONG_S}
    written = json.loads((tmp_path / "goodput-table.json").read_text())
    assert written["budgetSeconds"] == 1200.0
    before = len(rows)
    assert call(tmp_path, 1e9, 1200.0, runs=runs)[0] == 0
    assert len(goodput.read_rows(tmp_path / "goodput.jsonl")) == before, "the budget is spent"
    assert call(tmp_path, 1e9, 3000.0, runs=runs)[0] == 0
    assert len(goodput.read_rows(tmp_path / "goodput.jsonl")) > before, "a larger one goes on"


def test_a_half_written_last_row_is_none(tmp_path):
    file = tmp_path / "goodput.jsonl"
    file.write_text('{"slo": "tight"}\n{"slo": "loo')
    assert goodput.read_rows(file) == [{"slo": "tight"}]


def test_what_a_start_takes_is_known_from_the_call_before(tmp_path):
    assert goodput.last_start_s([]) == goodput_plan.START_S
    assert goodput.last_start_s([{"startSeconds": 95.0}, {"startSeconds": 110.0}, {}]) == 110.0


# --- runs ------------------------------------------------------------------------------------------------------


class PlayedService:
    """`semipd up` as `run_service` gives it: what it is asked for is kept."""

    def __init__(self, url: str) -> None:
        self.target = Target(url=url, model="m", vocabulary_tokens=1000)
        self.agent, self.ready, self.asked = self, True, []

    async def status(self):
        return self

    async def set_split(self, partition, *, pinned, **_):
        self.asked.append((partition.prefill_percent, partition.decode_percent, pinned))


@pytest.fixture
def started(monkeypatch, tmp_path, fake_openai):
    """Services started by `GoodputRuns`, which serves a fake instead; quiet and drains are short."""
    services = []

    @contextlib.asynccontextmanager
    async def run_service(_file, _directory, **_):
        async with fake_openai.serve():
            services.append(PlayedService(fake_openai.url))
            yield services[-1]

    monkeypatch.setattr(goodput_runs, "run_service", run_service)
    monkeypatch.setattr(goodput_runs, "require_engine", lambda _: None)
    monkeypatch.setattr(goodput_runs, "model_directory", lambda out: out)
    monkeypatch.setattr(goodput_runs, "SETTLE_S", 0.0)
    monkeypatch.setattr(goodput_runs, "DRAIN_S", {0.5: 0.2})
    (tmp_path / "single.json").write_text(
        json.dumps({"conv": {"ttftsMs": [40.0], "tpotsMs": [10.0], "spentSeconds": 9.0}})
    )
    return services


def test_one_engine_serves_all_splits_of_one_isolation_and_another_isolation_starts_another(
    started, tmp_path
):
    async def measure_all():
        async with GoodputRuns(tmp_path) as runs:
            assert runs.knows_slo("conv")
            assert not runs.knows_slo("mixed")
            return [
                await runs.measure(Run(slo="tight", workload="conv", mode=mode, rate_per_s=8.0, seconds=0.5))
                for mode in ("dynamic MPS", "MPS (100, 100)", "dynamic MPS", "two lanes, no partition")
            ]

    rows = asyncio.run(measure_all())
    assert [service.asked for service in started] == [[(100, 100, True), (80, 100, False)], []]
    assert [sorted(row["attained"]) for row in rows] == [
        ["tight"], ["loose", "tight"], ["tight"], ["loose", "tight"],
    ]  # fmt: skip
    assert ["startSeconds" in row for row in rows] == [True, False, False, True]
    assert rows[0]["requests"] == rows[1]["requests"] > 0
    assert all(row["sent"] == row["requests"] and row["failed"] == 0 for row in rows)
    assert all(row["cut"] > 0 for row in rows), "answers longer than the drain"


@pytest.mark.parametrize(
    ("error", "key"),
    [
        pytest.param(SplitRefused("not granted"), "refused", id="a split that is not granted"),
        pytest.param(httpx.ReadTimeout("slow"), "uncounted", id="an agent that does not answer"),
    ],
)
def test_after_a_split_that_fails_the_next_try_begins_with_another_engine(
    error, key, started, tmp_path, monkeypatch
):
    async def fail(*_, **__):
        raise error

    monkeypatch.setattr(PlayedService, "set_split", fail)

    async def measure():
        async with GoodputRuns(tmp_path) as runs:
            row = await runs.measure(
                Run(slo="tight", workload="conv", mode="MPS (80, 100)", rate_per_s=8.0, seconds=0.5)
            )
            return row, runs.warm

    row, warm = asyncio.run(measure())
    assert row[key].endswith(str(error))
    assert (row["requests"], warm) == (0, None)


@pytest.mark.parametrize(
    ("ends", "refuse_every", "found"),
    [
        pytest.param([], 0, "None", id="without partition"),
        pytest.param(["None"], 0, "Unified 2048", id="unified, where that does not start"),
        pytest.param(["None", "Unified 2048"], 0, None, id="none where nothing starts"),
        pytest.param([], 3, None, id="none of requests that failed"),
    ],
)
def test_an_slo_comes_from_single_requests_that_are_all_complete(
    ends, refuse_every, found, started, tmp_path, monkeypatch, fake_openai
):
    fake_openai.ttft_s = fake_openai.tpot_s = 0.0
    fake_openai.refuse_every = refuse_every
    serve = GoodputRuns._service

    @contextlib.asynccontextmanager
    async def service(self, mode, slo, log):
        if mode.name in ends:
            raise ServiceEnded(2)
        async with serve(self, mode, slo, log) as served:
            yield served

    monkeypatch.setattr(GoodputRuns, "_service", service)
    monkeypatch.setattr(goodput_runs, "SINGLE_REQUESTS", 3)

    async def learn():
        async with GoodputRuns(tmp_path) as runs:
            await runs.learn_slo("mixed")

    if found is None:
        with pytest.raises(NoSlo, match="no SLO for mixed: None: "):
            asyncio.run(learn())
    else:
        asyncio.run(learn())
    learned = json.loads((tmp_path / "single.json").read_text())
    assert learned.get("mixed", {}).get("engine") == found
    assert found is None or len(learned["mixed"]["tpotsMs"]) == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(ServiceEnded(2), "semipd up ended with exit code 2", id="it ends"),
        pytest.param(
            ServiceNotReady(150.0, ["no MPS"]),
            "semipd up is not ready after 150 s: no MPS",
            id="it takes too long",
        ),
    ],
)
def test_a_service_that_does_not_start_is_refused_with_its_engine(
    error, said, started, tmp_path, monkeypatch
):
    @contextlib.asynccontextmanager
    async def fails(*_, start_s, **__):
        assert start_s == START_LIMIT_S
        raise error
        yield

    monkeypatch.setattr(goodput_runs, "run_service", fails)

    async def measure():
        async with GoodputRuns(tmp_path) as runs:
            return await runs.measure(
                Run(slo="tight", workload="conv", mode="MPS (80, 100)", rate_per_s=8.0, seconds=0.5)
            )

    row = asyncio.run(measure())
    assert (row["refused"], row["refusedEngine"], row["requests"]) == (said, "MPS", 0)
