"""What isolation `Auto` stands for, under a class and over a fleet whose pods have come to different ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from semipd_core.api.fields import ShareBounds
from semipd_core.api.service import IsolationChoice, PartitionSpec
from semipd_core.cluster.state import bounds_of
from semipd_core.partition import Isolation
from semipd_core.policies.splits import legal_splits
from semipd_core.service_settings import fleet_settings, isolation_choices, partition_settings

MPS, GREEN, NONE, UNIFIED = Isolation.MPS, Isolation.GREEN_CONTEXT, Isolation.NONE, Isolation.UNIFIED
ALL = tuple(Isolation)
AUTO = PartitionSpec()


@pytest.mark.parametrize(
    ("asked", "allowed", "choices"),
    [
        pytest.param("Auto", ALL, (MPS, GREEN, NONE), id="the best first"),
        pytest.param("Auto", (NONE, MPS), (MPS, NONE), id="of those that the class allows"),
        pytest.param("Auto", (UNIFIED, GREEN), (GREEN,), id="one lane is no share"),
        pytest.param("Auto", (UNIFIED,), (UNIFIED,), id="unless nothing else is allowed"),
        pytest.param("GreenContext", ALL, (GREEN,), id="what is asked for never falls back"),
        pytest.param("Unified", (MPS,), (UNIFIED,), id="whether it is allowed is judged elsewhere"),
    ],
)
def test_what_an_engine_may_run_with(
    asked: str, allowed: tuple[Isolation, ...], choices: tuple[Isolation, ...]
) -> None:
    partition = PartitionSpec(isolation=IsolationChoice(asked))
    assert isolation_choices(partition, allowed) == choices
    settings = partition_settings(partition, allowed)
    assert (settings.isolation, *settings.fallbacks) == choices
    assert not settings.has_fallen_back


NARROW = ShareBounds(decode_min_percent=100)


@pytest.mark.parametrize(
    ("partition", "in_force", "isolation"),
    [
        pytest.param(AUTO, set(), MPS, id="nobody has reported"),
        pytest.param(AUTO, {MPS}, MPS, id="all have the best"),
        pytest.param(AUTO, {MPS, GREEN}, GREEN, id="its splits are legal in both"),
        pytest.param(AUTO, {MPS, NONE}, MPS, id="who has no shares decides nothing"),
        pytest.param(AUTO, {GREEN, NONE}, GREEN, id="nor there"),
        pytest.param(AUTO, {NONE}, NONE, id="unless nobody has any"),
        pytest.param(replace(AUTO, bounds=NARROW), {GREEN}, MPS, id="the bounds hold none of its splits"),
        pytest.param(
            PartitionSpec(isolation=IsolationChoice.MPS),
            {GREEN},
            MPS,
            id="it was asked for: nothing else counts",
        ),
    ],
)
def test_the_loops_of_a_fleet_go_by_what_every_pod_with_shares_can_run(
    partition: PartitionSpec, in_force: set[Isolation], isolation: Isolation
) -> None:
    settings = fleet_settings(partition_settings(partition), in_force)
    assert settings.isolation is isolation
    splits = legal_splits(settings.isolation, bounds_of(settings))
    assert all(bounds_of(settings).holds(split) for split in splits)
    if isolation is GREEN:
        assert set(splits) <= set(legal_splits(MPS, bounds_of(settings)))
