"""Which pod gets a request: the rules as a table, the guarantees as properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.routing.choice import Bounds, Candidate, Choice, Health, Reason, choose, estimate_loads

READY, LEAVING, DOWN = Health.READY, Health.LEAVING, Health.DOWN


def pod(
    name: str, own: int = 0, others: int | None = 0, health: Health = READY, served: int = 0
) -> Candidate:
    return Candidate(name=name, health=health, own_open=own, others_open=others, num_served=served)


@pytest.mark.parametrize(
    ("pods", "matches", "name", "reason"),
    [
        pytest.param([pod("a", own=2), pod("b", own=1)], {}, "b", Reason.LEAST_LOADED, id="fewest of ours"),
        pytest.param(
            [pod("a", others=9), pod("b", own=3)],
            {},
            "b",
            Reason.LEAST_LOADED,
            id="others' requests count too",
        ),
        pytest.param(
            [pod("a", own=3), pod("b")], {"a": 2}, "a", Reason.PREFIX, id="a prefix is worth some requests"
        ),
        pytest.param(
            [pod("a", own=5), pod("b")],
            {"a": 2},
            "b",
            Reason.LEAST_LOADED,
            id="a prefix is not worth any load",
        ),
        pytest.param(
            [pod("a"), pod("b", own=1)], {"a": 1, "b": 5}, "b", Reason.PREFIX, id="the longer prefix"
        ),
        pytest.param(
            [pod("a", own=30), pod("b", own=20)],
            {"a": 1},
            "a",
            Reason.PREFIX,
            id="under much load the bound is a ratio",
        ),
        pytest.param(
            [pod("a", own=31), pod("b", own=20)], {"a": 1}, "b", Reason.LEAST_LOADED, id="above the ratio"
        ),
        pytest.param(
            [pod("a", health=LEAVING), pod("b", own=9)],
            {"a": 9},
            "b",
            Reason.LEAST_LOADED,
            id="a pod that drains gets nothing while another is ready",
        ),
        pytest.param(
            [pod("a", health=DOWN), pod("b", health=LEAVING)],
            {},
            "b",
            Reason.LAST_RESORT,
            id="a pod that drains is better than one that is down",
        ),
        pytest.param([pod("a", health=DOWN)], {}, "a", Reason.LAST_RESORT, id="the last resort"),
        pytest.param(
            [pod("a", own=1), pod("silent", others=None)],
            {},
            "silent",
            Reason.LEAST_LOADED,
            id="one of ours is more than nothing known, where others are idle",
        ),
        pytest.param(
            [pod("a", others=8), pod("b", others=9), pod("c", others=2), pod("silent", others=None)],
            {},
            "c",
            Reason.LEAST_LOADED,
            id="a silent pod is not idle",
        ),
        pytest.param(
            [pod("a", others=8), pod("b", others=9), pod("silent", others=None)],
            {"silent": 1},
            "silent",
            Reason.PREFIX,
            id="a silent pod is not full",
        ),
        pytest.param(
            [pod("a", served=3), pod("b", served=2)], {}, "b", Reason.LEAST_LOADED, id="equals take turns"
        ),
    ],
)
def test_the_choice(pods: list[Candidate], matches: dict[str, int], name: str, reason: Reason) -> None:
    matched = matches.get(name, 0) if reason is Reason.PREFIX else 0
    assert choose(pods, matches) == Choice(name=name, reason=reason, matched_blocks=matched)


names = st.sampled_from("abcdef")
pods = st.lists(
    st.builds(
        Candidate,
        name=names,
        health=st.sampled_from(Health),
        own_open=st.integers(0, 40),
        others_open=st.none() | st.integers(0, 40),
        num_served=st.integers(0, 9),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda each: each.name,
)
matches = st.dictionaries(names, st.integers(1, 64))
prefixes = st.none() | st.integers(0, 2**64 - 1)


@given(pods, matches, prefixes)
def test_no_pod_is_chosen_while_a_healthier_one_is_there(found, seen, prefix):
    chosen = choose(found, seen, prefix).name
    by_name = {each.name: each for each in found}
    assert by_name[chosen].health is min(each.health for each in found)


@given(pods, matches, prefixes, st.builds(Bounds, slack=st.integers(0, 9), percent=st.integers(100, 300)))
def test_the_chosen_pod_is_never_loaded_beyond_the_bound(found, seen, prefix, bounds):
    choice = choose(found, seen, prefix, bounds)
    health = {each.name: each.health for each in found}[choice.name]
    loads = estimate_loads([each for each in found if each.health is health])
    assert loads[choice.name] <= bounds.limit(min(loads.values()))


@given(pods, prefixes)
def test_the_pod_that_got_a_prefix_gets_it_again_while_the_load_is_as_it_was(found, prefix):
    first = choose(found, {}, prefix).name
    assert choose(found, {first: 3}, prefix).name == first


@given(pods, st.integers(0, 2**64 - 1), st.randoms())
def test_proxies_agree_on_a_new_prefix_whatever_they_served_before(found, prefix, random):
    other = [
        Candidate(
            name=each.name,
            health=each.health,
            own_open=each.own_open,
            others_open=each.others_open,
            num_served=random.randrange(9),
        )
        for each in found
    ]
    random.shuffle(other)
    known = [each.others_open for each in found]
    if None not in known:
        assert choose(found, {}, prefix).name == choose(other, {}, prefix).name


@given(pods, matches, prefixes, st.sampled_from(Health))
def test_silence_of_all_agents_leaves_the_choice_to_our_own_requests(found, seen, prefix, health):
    silent = [Candidate(name=each.name, health=health, own_open=each.own_open) for each in found]
    choice = choose(silent, {}, prefix)
    assert choice.name in {each.name for each in found}
    least = min(each.own_open for each in silent)
    assert {each.name: each.own_open for each in silent}[choice.name] == least
