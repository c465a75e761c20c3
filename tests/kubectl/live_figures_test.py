"""Live figures: what is known, what is idle and what is no data are three things."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import pytest
from fleet_objects import service
from msgspec.structs import replace as changed
from played_cluster import engine_report

from semipd_core.telemetry import EngineReport
from semipd_kubectl.api.connection import POOL_SIZE, Answer
from semipd_kubectl.draw.explain import live_sentences
from semipd_kubectl.draw.top import draw_top
from semipd_kubectl.errors import ApiError
from semipd_kubectl.observe.objects import Fleet, PodView, PodWindow, ServiceView, Windows
from semipd_kubectl.observe.windows import fetch_windows
from semipd_kubectl.reports.live import TopReport, build_top
from semipd_kubectl.reports.values import Split

NOW_S = 1_000_000.0
WINDOW_S = 60.0


def top(**pods: PodWindow) -> TopReport:
    view = ServiceView(
        service=service(),
        pods=tuple(PodView(name=name, address="10.0.0.1") for name in pods),
    )
    windows = Windows(pods={("team-a", name): window for name, window in pods.items()}, now_s=NOW_S)
    return build_top(Fleet(services=(view,)), windows, WINDOW_S)


def answered(*reports: EngineReport) -> PodWindow:
    return PodWindow(reports=reports, date_s=NOW_S)


SILENT = PodWindow(problem="no answer in time")


def test_a_service_is_the_sum_of_its_pods() -> None:
    found = top(
        a=answered(engine_report(now_s=NOW_S, attained=9, missed=1, open_requests=4, queued=1)),
        b=answered(engine_report(now_s=NOW_S, attained=5, missed=5, open_requests=6, queued=2, tpot_ms=90)),
    ).services[0]
    figures = found.figures
    assert (figures.attainment_permille, figures.judged, figures.state) == (700, 20, "Bad")
    assert (figures.queued, figures.running, figures.kv_used_permille) == (3, 7, 250)
    assert [pod.figures.attainment_permille for pod in found.pods] == [900, 500]
    assert figures.tpot_milliseconds == pytest.approx(90, rel=0.03)


def test_a_pod_that_does_not_answer_is_no_data_and_takes_nothing_from_the_others() -> None:
    found = top(a=answered(engine_report(now_s=NOW_S)), b=SILENT).services[0]
    silent = found.pods[1]
    assert silent.figures.state == "NoData"
    assert silent.problem == "no answer in time"
    assert {
        silent.figures.attainment_permille,
        silent.figures.queued,
        silent.figures.running,
        silent.figures.ttft_milliseconds,
        silent.figures.requests_per_second,
        silent.granted,
    } == {None}
    assert found.figures.attainment_permille == 900
    assert found.pods_answering == 1


@pytest.mark.parametrize(
    ("report", "state", "queued"),
    [
        pytest.param(
            engine_report(now_s=NOW_S, attained=0, missed=0, open_requests=0, queued=0), "Idle", 0, id="idle"
        ),
        pytest.param(
            engine_report(now_s=NOW_S, attained=0, missed=0, open_requests=2, queued=1),
            "Pending",
            1,
            id="pending",
        ),
        pytest.param(engine_report(now_s=NOW_S - 30), "NoData", None, id="a stale report"),
        pytest.param(
            changed(engine_report(now_s=NOW_S), front_end=None), "NoData", None, id="a front end that is dead"
        ),
        pytest.param(engine_report(now_s=NOW_S, attained=10, missed=0), "Met", 1, id="met"),
    ],
)
def test_the_state_of_a_window(report: EngineReport, state: str, queued: int | None) -> None:
    figures = top(a=answered(report)).services[0].figures
    assert (figures.state, figures.queued) == (state, queued)


@pytest.mark.parametrize("ahead_s", [-15.0, 0.4, 15.0, 3600.0])
def test_clocks_that_disagree_make_no_figure_stale_or_fresh(ahead_s: float) -> None:
    def of_its_clock(*, age_s: float) -> PodWindow:
        report = engine_report(now_s=NOW_S + ahead_s - age_s)
        return PodWindow(reports=(report,), date_s=NOW_S + ahead_s)

    found = top(a=answered(engine_report(now_s=NOW_S)), b=of_its_clock(age_s=0), c=of_its_clock(age_s=30))
    pods = found.services[0].pods
    assert [pod.problem is None for pod in pods] == [True, True, False]
    assert [pod.figures.judged for pod in pods] == [10, 10, 0]
    assert [pod.granted is None for pod in pods] == [False, False, True]
    figures = found.services[0].figures
    assert (figures.judged, figures.engines, figures.attainment_permille) == (20, 2, 900)


def test_one_clock_that_is_ahead_is_not_the_tables() -> None:
    class Answers:
        def fetch(self, path: str, timeout_s: float) -> Answer:
            date_s = NOW_S + (15 if "/a:" in path else 0)
            return Answer(code=200, body=b"[]", date_s=date_s)

    pods = [("team-a", PodView(name=name, address="10.0.0.1")) for name in "abc"]
    found = fetch_windows(Answers(), pods)  # type: ignore[arg-type]
    assert found.now_s == NOW_S
    assert found.pods["team-a", "a"].date_s == NOW_S + 15


def test_agents_that_hang_are_waited_for_as_long_as_all_may_take_and_the_rest_is_not_asked() -> None:
    class Hangs:
        def fetch(self, path: str, timeout_s: float) -> Answer:
            time.sleep(timeout_s)
            raise ApiError(f"cannot reach {path}: no answer in time")

    pods = [("team-a", PodView(name=f"pod-{number}", address="10.0.0.1")) for number in range(200)]
    found = fetch_windows(Hangs(), pods, deadline_s=0.6, overall_s=1.0)  # type: ignore[arg-type]
    problems = Counter(window.problem for window in found.pods.values())
    assert problems == {"no answer in time": POOL_SIZE, "not asked in time": 200 - POOL_SIZE}


def test_shares_are_those_that_most_engines_have() -> None:
    found = top(
        a=answered(engine_report(now_s=NOW_S, split=(65, 100), granted=(80, 100))),
        b=answered(engine_report(now_s=NOW_S, split=(65, 100))),
        c=answered(engine_report(now_s=NOW_S, split=(65, 100))),
    ).services[0]
    assert found.granted == Split(prefill_percent=65, decode_percent=100)
    assert found.pods[0].granted == Split(prefill_percent=80, decode_percent=100)


def test_every_line_of_the_table_fits_eighty_columns_and_says_what_is_missing() -> None:
    name = "a-service-with-a-long-name-6d5f7c9b8-x2x4z"
    report = engine_report(now_s=NOW_S, split=(65, 100), granted=(100, 100), ttft_ms=12345, attained=1000)
    found = top(**{name: answered(report), "b": SILENT, "c": answered()})
    found = changed(found, services=[changed(found.services[0], ttft_target_milliseconds=2000)])
    lines = [line.plain for line in draw_top(found)]
    assert max(len(line) for line in lines[:6]) <= 80
    assert "b: no data: no answer in time" in lines
    assert "c: no data: no engine yet" in lines
    assert f"{name}: granted 100/100, asked for 65/100" in lines
    assert "x2x4z" in lines[3]


def test_silence_is_explained_once_however_many_pods_keep_it() -> None:
    hint = "SEMIPD_OPERATOR_API_SERVER_CIDRS"
    silent, heard = top(a=SILENT, b=SILENT), top(a=answered(engine_report(now_s=NOW_S)), b=answered())
    assert sum(hint in line.plain for line in draw_top(silent)) == 1
    assert sum(hint in line for line in live_sentences(silent.services[0])) == 1
    assert not any(hint in line.plain for line in draw_top(heard))
    assert not any(hint in line for line in live_sentences(heard.services[0]))


def test_a_service_without_pods_says_so() -> None:
    lines = [line.plain for line in draw_top(top())]
    assert "no pods" in lines[2]
    empty = replace(Fleet())
    lines = [line.plain for line in draw_top(build_top(empty, Windows(pods={}, now_s=NOW_S), WINDOW_S))]
    assert lines[1].startswith("no SemiPDService")


def test_a_stale_report_counts_for_nothing() -> None:
    pod = top(a=answered(engine_report(now_s=NOW_S - 30))).services[0].pods[0]
    assert {pod.figures.kv_used_permille, pod.granted, pod.requested} == {None}
    assert pod.problem == "no front end reports, or only stale figures"
