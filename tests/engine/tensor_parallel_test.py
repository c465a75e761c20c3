"""Lanes of two processes each, on gloo, give the tokens of lanes of one: alone, through switches, and when a rank dies."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_processes import DEADLINE_S, EngineProcesses, Generated, engine_config, is_running

from semipd_agent.processes.identity import group_members
from semipd_core import messages
from semipd_core.partition import Isolation, Role

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GREEDY = messages.Sampling(logprob=True)
DRAWN = messages.Sampling(temperature=0.8, top_p=0.95, top_k=50, seed=11, logprob=True)
TOKENS_EACH = 30


def make_prompts(seed: int, count: int) -> list[list[int]]:
    chooser = random.Random(seed)
    return [[chooser.randrange(3, 384) for _ in range(chooser.randint(1, 60))] for _ in range(count)]


PROMPTS = make_prompts(seed=22, count=6)


@pytest.fixture(scope="module")
def expected(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[list[Generated]]:
    """From lanes of one rank: greedy, and drawn."""
    config = engine_config(tmp_path_factory.mktemp("one-rank"), f"file://{tiny_llama_dir}")
    with EngineProcesses(config) as engine:
        return [engine.generate(PROMPTS, TOKENS_EACH, sampling=sampling) for sampling in (GREEDY, DRAWN)]


@pytest.fixture(scope="module")
def engine(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcesses]:
    """Two ranks to a lane; run-ahead, a prefix cache and chunks of 16 tokens."""
    directory = tmp_path_factory.mktemp("two-ranks")
    with EngineProcesses(engine_config(directory, f"file://{tiny_llama_dir}", num_ranks=2)) as running:
        yield running
        assert not list(directory.rglob("*.ranks")), "a rendezvous is gone once the ranks have met"


def followers(engine: EngineProcesses, role: Role) -> list[int]:
    leader = engine.lane_pids[engine.lanes[role]]
    return [pid for pid in group_members(leader) if pid != leader]


def submit(engine: EngineProcesses, name: str) -> list[Generated]:
    for number, prompt in enumerate(PROMPTS):
        engine.submit(f"{name}-{number}", prompt, TOKENS_EACH)
    return [engine.results[f"{name}-{number}"] for number in range(len(PROMPTS))]


def finish(engine: EngineProcesses, results: list[Generated], expected: list[Generated]) -> None:
    engine.pump_until(lambda: all(each.ended for each in results))
    assert [each.tokens for each in results] == [each.tokens for each in expected]


@pytest.mark.parametrize("which", [pytest.param(0, id="greedy"), pytest.param(1, id="drawn by a seed")])
def test_two_ranks_give_the_tokens_of_one(
    which: int, engine: EngineProcesses, expected: list[list[Generated]]
) -> None:
    results = engine.generate(PROMPTS, TOKENS_EACH, sampling=(GREEDY, DRAWN)[which])
    assert [each.tokens for each in results] == [each.tokens for each in expected[which]]
    for two, one in zip(results, expected[which], strict=True):
        assert two.logprobs == pytest.approx(one.logprobs, abs=1e-4)
    assert engine.report().kv_blocks_used == 0
    assert len({tuple(each.tokens) for each in results}) == len(PROMPTS)


def test_switches_lose_nothing_and_leave_no_rank_behind(
    engine: EngineProcesses, expected: list[list[Generated]]
) -> None:
    loads, retired = [], []
    for role, percent in [(Role.PREFILL, 60), (Role.DECODE, 80), (Role.PREFILL, 100), (Role.DECODE, 100)]:
        loads.append(submit(engine, f"moved-to-{role}-{percent}"))
        retired += [engine.lane_pids[engine.lanes[role]], *followers(engine, role)]
        engine.switch(role, percent)
    for results in loads:
        finish(engine, results, expected[0])
    assert len(retired) == 8
    assert not [pid for pid in retired if is_running(pid)]
    assert [len(followers(engine, role)) for role in engine.lanes] == [1, 1]


@pytest.mark.parametrize("role", [Role.PREFILL, Role.DECODE])
def test_a_lost_rank_is_a_lost_lane_and_costs_no_token(
    role: Role, engine: EngineProcesses, expected: list[list[Generated]]
) -> None:
    """kill -9 of a follower under load: its lane ends as a whole, and the next one repeats the step."""
    results = submit(engine, f"hurt-{role}")
    engine.pump_until(lambda: any(each.tokens for each in results))
    lost = engine.lanes[role]
    [follower] = followers(engine, role)
    os.kill(follower, signal.SIGKILL)
    engine.pump_until(lambda: messages.LaneLost(lane_id=lost, role=role) in engine.agent_messages)
    engine.confirm_exit(lost)
    engine.start_lane(role, 100)
    finish(engine, results, expected[0])


def test_a_lane_whose_rank_dies_before_they_have_met_ends(engine: EngineProcesses) -> None:
    """The first rank would wait for it."""
    lane = engine.fork_lane(Role.DECODE, 100)
    leader = engine.lane_pids[lane]
    deadline_s = time.monotonic() + DEADLINE_S
    while not (found := [pid for pid in group_members(leader) if pid != leader]):
        assert time.monotonic() < deadline_s, "no follower was forked"
    os.kill(found[0], signal.SIGKILL)
    engine.confirm_exit(lane)
    Path(engine.config.directory, f"{lane}.ranks").unlink(missing_ok=True)


def test_ranks_of_a_lane_for_both_phases_die_with_the_first(
    tiny_llama_dir: Path, tmp_path: Path, expected: list[list[Generated]]
) -> None:
    config = engine_config(tmp_path, f"file://{tiny_llama_dir}", num_ranks=2, isolation=Isolation.UNIFIED)
    with EngineProcesses(config) as engine:
        results = submit(engine, "mixed")
        engine.pump_until(lambda: any(each.tokens for each in results))
        lane = engine.lanes[Role.MIXED]
        [follower] = followers(engine, Role.MIXED)
        os.kill(engine.lane_pids[lane], signal.SIGKILL)
        engine.confirm_exit(lane)
        assert not is_running(follower)
        engine.start_lane(Role.MIXED, 100)
        finish(engine, results, expected[0])
