import asyncio
import io
import json
import re
import resource
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from semipd_bench import live, report, summary
from semipd_bench.agent_client import AgentClient
from semipd_bench.load import Target
from semipd_bench.replay import prepare_replay, run_replay
from semipd_bench.report import ReportNotWritten, render_page, write_report
from semipd_bench.timeline import Timeline, sample_engine
from semipd_bench.trace import Trace, TraceRequest
from semipd_bench.verdict import judge_replay
from semipd_core.telemetry import SloTargets

SLO = SloTargets(ttft_percentile=90, ttft_ms=60_000, tpot_percentile=90, tpot_ms=60_000)
JOINT_UNIX_S = 1060.0


def short_trace(count=12, duration_s=1.5):
    requests = tuple(
        TraceRequest(at_s=0.1 * i, prompt_tokens=20 + i, output_tokens=1 + i % 4) for i in range(count)
    )
    return Trace(name="short.csv", requests=requests, duration_s=duration_s, joint_s=duration_s / 2)


async def replayed(fake_openai, fake_agent, run_dir, show=lambda state: None):
    async with fake_openai.serve(), fake_agent(switch_after_s=0.8).serve(run_dir):
        target = Target(url=fake_openai.url, model="m", vocabulary_tokens=1000)
        state = prepare_replay(target, short_trace(), SLO, seed="s")
        agent = AgentClient(run_dir)
        await run_replay(state, target, agent, show=show)
        await agent.close()
    return state


def summarise(state, conditions=()):
    return summary.summarise(state, setup=summary.Setup(), scaling=None, conditions=conditions)


class _Elements(HTMLParser):
    """Collects what a page refers to, and whether its elements are closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


async def test_a_replay_is_reported_with_all_that_was_seen(fake_openai, fake_agent, tmp_path):
    shown = []
    state = await replayed(fake_openai, fake_agent, tmp_path, shown.append)
    page, numbers = write_report(tmp_path / "out", state, summarise(state))
    found = json.loads(numbers.read_text())
    assert found["requests"] == {"sent": 12, "completed": 12, "failed": 0, "cancelled": 0}
    assert found["interrupted"] is False
    assert found["slo"]["attainmentPermille"] == 1000
    assert len(found["slo"]["quartersPermille"]) == 4
    assert found["slo"]["ttft"]["p50Ms"] >= 30
    assert found["slo"]["tpot"]["p99Ms"] >= 10
    (switch,) = found["switches"]
    assert 0 < switch["atSeconds"] < 1.5
    assert switch["from"] == {"prefillPercent": 80, "decodePercent": 40}
    assert (switch["seconds"], switch["reason"]) == (1.25, "TPOTPredictedMiss")
    assert len(found["decisions"]) == 1
    assert set(found["setup"]) >= {"installSeconds", "loadSeconds", "readySeconds"}
    assert len(shown) >= 2
    assert next(s.engines[0].granted for s in state.timeline.samples) == (80, 40)
    assert [s.engines[0].granted for s in state.timeline.samples][-1] == (60, 100)
    assert page.exists()


async def test_the_page_is_whole_and_needs_nothing_from_outside(fake_openai, fake_agent, tmp_path):
    state = await replayed(fake_openai, fake_agent, tmp_path)
    text = render_page(state, summarise(state))
    elements = _Elements(text)
    assert elements.open == []
    assert elements.links == []
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", text)
    assert text.count("<svg") == 6
    assert "&lt;expected&gt;" in text
    assert "$" not in re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)
    assert text.count('class="mark switch"') == 6
    assert text.count('class="mark joint"') == 6


async def test_an_interrupted_replay_still_makes_a_report(fake_openai, tmp_path):
    fake_openai.ttft_s = 30
    async with fake_openai.serve():
        target = Target(url=fake_openai.url, model="m", vocabulary_tokens=1000)
        state = prepare_replay(target, short_trace(), SLO, seed="s")
        task = asyncio.create_task(run_replay(state, target, None, show=lambda state: None))
        while not fake_openai.bodies:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    found = summarise(state)
    assert found["interrupted"]
    assert found["requests"]["cancelled"] == found["requests"]["sent"] >= 1
    assert found["requests"]["failed"] == 0
    assert "<svg" in render_page(state, found)


def test_a_run_that_never_began_makes_a_report():
    nowhere = Target(url="", model="", vocabulary_tokens=0)
    state = prepare_replay(nowhere, short_trace(), SLO, seed="s")
    found = summarise(state)
    assert found["requests"] == {"sent": 0, "completed": 0, "failed": 0, "cancelled": 0}
    assert found["slo"]["attainmentPermille"] is None
    assert "<svg" in render_page(state, found)


def test_a_full_disk_is_said_and_leaves_the_earlier_report(tmp_path, monkeypatch):
    state = prepare_replay(Target(url="", model="", vocabulary_tokens=0), short_trace(), SLO, seed="s")
    write_report(tmp_path, state, summarise(state))
    before = (tmp_path / "report.json").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(ReportNotWritten, match=r"report\.json is not written: .*[Ff]ile too large"):
            write_report(tmp_path, state, summarise(state))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "report.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]


async def test_without_a_terminal_there_are_plain_lines(fake_openai, fake_agent, tmp_path):
    output = io.StringIO()
    clock = iter(range(0, 1000, 10))
    with live.LiveTable(Console(file=output, width=500), clock=lambda: next(clock)) as table:
        await replayed(fake_openai, fake_agent, tmp_path, table.show)
    lines = output.getvalue().splitlines()
    assert any("engine-0: prefill 80 % batch 1" in line and "TTFT p90" in line for line in lines)
    assert sum("TPOTPredictedMiss: TPOT 300 of 250 ms <expected>" in line for line in lines) == 1
    assert "\x1b" not in output.getvalue()


async def test_on_a_terminal_there_is_a_table(fake_openai, fake_agent, tmp_path):
    output = io.StringIO()
    console = Console(file=output, width=160, force_terminal=True)
    with live.LiveTable(console) as table:
        await replayed(fake_openai, fake_agent, tmp_path, table.show)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.getvalue())
    for word in ("engine-1", "prefill", "granted", "TTFT", "p90 ≤ 60000 ms", "attained", "(60, 100)"):
        assert word in text


def test_rates_come_from_two_reports_of_the_same_lanes(report_of):
    before, now = report_of(at_s=10, tokens=100), report_of(at_s=12, tokens=400)
    lanes = sample_engine(before, now).lanes
    assert [lane.tokens_per_s for lane in lanes] == [150, 0]
    assert sample_engine(None, now).lanes[0].tokens_per_s is None
    assert sample_engine(now, before).lanes[0].tokens_per_s is None
    replaced = report_of(at_s=14, tokens=5)
    assert sample_engine(now, replaced).lanes[0].tokens_per_s == 0


def test_a_timeline_keeps_each_decision_once_and_only_its_own_switches(report_of, status_with, switch_at):
    timeline = Timeline(started_unix_s=1000)
    for at_s in (1.0, 2.0):
        timeline.take(at_s, status_with([switch_at(990), switch_at(1001)]), [report_of()])
    assert [s.at_s for s in timeline.switches] == [1001]
    assert [s.at_s for s in timeline.samples] == [1.0, 2.0]
    assert timeline.samples[0].engines[0].kv_used_permille == 250


async def test_an_agent_that_is_away_is_no_error(tmp_path):
    timeline = Timeline(started_unix_s=time.time())
    agent = AgentClient(tmp_path)
    assert await timeline.poll(agent, 1.0) is None
    await agent.close()
    assert timeline.missed_polls == 1


def verdict(switches, **overrides):
    values = {
        "failed": 0, "unsent": 0, "switches": switches, "joint_unix_s": JOINT_UNIX_S,
        "quarters_permille": [1000, 1000, 700, 900],
    }  # fmt: skip
    return [c.holds for c in judge_replay(**(values | overrides))]


@pytest.mark.parametrize(
    ("switch", "overrides", "expected"),
    [
        pytest.param({}, {}, [True, True, True], id="all holds"),
        pytest.param({}, {"failed": 1}, [False, True, True], id="a request failed"),
        pytest.param({}, {"unsent": 3}, [False, True, True], id="requests were never sent"),
        pytest.param(
            {"at_s": JOINT_UNIX_S - 1}, {}, [True, False, True], id="the switch came before the shift"
        ),
        pytest.param(
            {"reason": "Calibrated"}, {}, [True, False, True], id="the replay's own wish is no answer"
        ),
        pytest.param({"reason": "Manual"}, {}, [True, False, True], id="a wish by hand is no answer"),
        pytest.param({"reason": ""}, {}, [True, False, True], id="a switch without a reason"),
        pytest.param({"outcome": "RolledBack"}, {}, [True, False, True], id="rolled back"),
        pytest.param(
            {}, {"quarters_permille": [1000, 1000, 900, 899]}, [True, True, False], id="it got worse"
        ),
        pytest.param(
            {}, {"quarters_permille": [1000, 1000, 900, 900]}, [True, True, True], id="it stayed the same"
        ),
        pytest.param(
            {}, {"quarters_permille": [1000, 1000, 900, None]}, [True, True, False], id="nothing to judge"
        ),
    ],
)
def test_conditions_of_the_demo(switch_at, switch, overrides, expected):
    one = switch_at(**({"at_s": JOINT_UNIX_S + 9} | switch))
    assert verdict([one], **overrides) == expected


def test_the_template_ships_with_the_package():
    assert (Path(report.__file__).parent / "report_template.html").exists()
