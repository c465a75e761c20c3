"""Which rate to try next, and which candidate to decide: properties of the search, whatever the runs say."""

from __future__ import annotations

import pytest
from gpu_bench.rate_search import BOTTOM, COARSE_STEPS, FINE_STEPS, TOP, Tried, next_trial, rate_of, step_of
from gpu_bench.sweep import sweep
from hypothesis import given
from hypothesis import strategies as st

STEPS = st.integers(BOTTOM + 12, TOP - 12)

# --- rates -----------------------------------------------------------------------------------------------------


def search(keeps, guess: int, width: int = COARSE_STEPS) -> tuple[Tried, list]:
    short, long, trials = {}, {}, []
    while (trial := next_trial(Tried(short=short, long=long), guess, width)) is not None:
        trials.append(trial)
        (long if trial.is_long else short)[trial.step] = keeps(trial)
        assert len(trials) <= 2 * (TOP - BOTTOM), "no end"
    return Tried(short=short, long=long), trials


@given(true_step=STEPS, guess=STEPS, width=st.sampled_from([COARSE_STEPS, FINE_STEPS]))
def test_the_bracket_closes_around_the_crossing_and_long_runs_decide_it(true_step, guess, width):
    tried, trials = search(lambda trial: trial.step <= true_step, guess, width)
    assert tried.is_decided(width)
    assert tried.keeps_at <= true_step < tried.loses_at <= tried.keeps_at + width
    assert sum(trial.is_long for trial in trials) <= 4
    assert len(trials) <= 12 + abs(true_step - guess) // 12


@given(st.randoms(use_true_random=False), STEPS)
def test_whatever_noise_says_no_trial_is_made_twice_and_there_is_an_end(random, guess):
    _, trials = search(lambda _: random.random() < 0.5, guess)
    assert len(set(trials)) == len(trials)


@pytest.mark.parametrize("keeps", [True, False])
def test_without_a_crossing_on_the_grid_the_search_gives_up(keeps):
    tried, trials = search(lambda _: keeps, step_of(16.0))
    assert not tried.is_decided()
    assert (TOP if keeps else BOTTOM) in tried.long, "the bound itself is a long run"
    assert len(trials) < 20


def test_a_good_guess_needs_two_short_runs_and_two_long_ones():
    _, trials = search(lambda trial: trial.step <= step_of(20.0), step_of(20.0))
    assert [trial.is_long for trial in trials] == [False, False, True, True]


@given(STEPS)
def test_a_step_has_a_rate_and_a_rate_its_step(step):
    assert step_of(rate_of(step)) == step


# --- sweeps ----------------------------------------------------------------------------------------------------

CANDIDATES = ["a", "b", "c", "d"]


@given(st.lists(st.integers(0, 60), min_size=4, max_size=4), st.integers(0, 60))
def test_a_sweep_finds_the_candidate_that_carries_the_highest_rate_or_one_within_a_step_of_it(at, start):
    """Attainment falls by 1 % a step below the crossing, by 4 % above."""
    crossing, shares = dict(zip(CANDIDATES, at, strict=True)), {}
    while not isinstance(found := sweep(CANDIDATES, shares, start), str):
        assert (found.candidate, found.step) not in shares
        over = found.step - crossing[found.candidate]
        shares[found.candidate, found.step] = min(1.0, 0.9 - (0.01 if over < 0 else 0.04) * over)
    assert crossing[found] >= max(at) - COARSE_STEPS


@given(
    st.dictionaries(st.tuples(st.sampled_from(CANDIDATES), STEPS), st.floats(0, 1)), STEPS, st.floats(0, 1)
)
def test_a_sweep_ends_whatever_was_seen(shares, start, share):
    for _ in range(len(CANDIDATES) * (TOP - BOTTOM)):
        found = sweep(CANDIDATES, shares, start)
        if isinstance(found, str):
            return
        shares[found.candidate, found.step] = share
    raise AssertionError("no end")
