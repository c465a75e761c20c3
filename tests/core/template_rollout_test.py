"""A pod template on trial: what each look at its pods decides, as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from semipd_core.api.service import CanaryStage
from semipd_core.cluster.canary import Member
from semipd_core.cluster.guards import guard
from semipd_core.cluster.loop import initial_state
from semipd_core.cluster.state import ClusterConfig
from semipd_core.cluster.template_rollout import (
    Template,
    TemplateLook,
    TemplateTrial,
    begin_template,
    follow_template,
)
from semipd_core.cluster.verdicts import NOTHING_JUDGED, Verdicts
from semipd_core.partition import Band, Isolation, Partition
from semipd_core.policies.decision import Decision, Reason
from semipd_core.telemetry import EngineReport, FrontEndReport, SloTargets, WindowSlot

NEW, OLD, OLDER = "new", "old", "older"
NOW_S = 1_000_000.0
START_S, DEADLINE_S = 1800.0, 600.0
SLO = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)
CONFIG = ClusterConfig(
    mode="Auto",
    policy="Static",
    isolation=Isolation.MPS,
    initial=Partition(prefill_percent=80, decode_percent=100),
    bounds=Band(
        prefill_min_percent=20, prefill_max_percent=100, decode_min_percent=40, decode_max_percent=100
    ),
    slo=SLO,
    canary_percent=25,
    canary_deadline_s=DEADLINE_S,
    canary_start_s=START_S,
)
TRIAL = begin_template(
    Template(digest=NEW, image="engine:2", model="builtin://m"), OLD, NOTHING_JUDGED, NOW_S - 30
)
READY = replace(TRIAL, ready_s=NOW_S - 25)
Pods = dict[str, tuple[str, int, int]]  # name: template, attained, missed


def report(name: str, attained: int, missed: int) -> EngineReport:
    slot = WindowSlot(
        start_s=int(NOW_S) - 4,
        arrived=attained + missed,
        attained=attained,
        missed=missed,
        missed_tpot=missed,
    )
    front = FrontEndReport(
        at_s=NOW_S,
        ready=True,
        slo=SLO,
        open_requests=0,
        queued_requests=0,
        slots=[slot] if slot.arrived else [],
    )
    return EngineReport(
        engine_id=f"{name}/engine-0",
        at_s=NOW_S,
        phase="Steady",
        requested=(80, 100),
        granted=(80, 100),
        front_end=front,
        coordinator=None,
    )


def look(
    trial: TemplateTrial, pods: Pods, *, unready: tuple[str, ...] = (), replicas: int = 8, **changes: Any
) -> TemplateLook:
    fleet = [
        Member(name=name, engines=(f"{name}/engine-0",), is_ready=name not in unready, template=template)
        for name, (template, _, _) in pods.items()
    ]
    fresh = {
        f"{name}/engine-0": report(name, attained, missed) for name, (_, attained, missed) in pods.items()
    }
    return follow_template(trial, replace(CONFIG, **changes), fleet, fresh, replicas, NOW_S)


def others(count: int = 8, attained: int = 50, missed: int = 0) -> Pods:
    return {f"old-{number}": (OLD, attained, missed) for number in range(count)}


def at(trial: TemplateTrial, *, stage_s: float | None = None, ready_s: float | None = None) -> TemplateTrial:
    return replace(
        trial,
        stage_s=trial.stage_s if stage_s is None else NOW_S - stage_s,
        ready_s=None if ready_s is None else NOW_S - ready_s,
    )


LATE_START = at(TRIAL, stage_s=START_S)
LATE = at(TRIAL, stage_s=DEADLINE_S + 50, ready_s=DEADLINE_S)


@pytest.mark.parametrize(
    ("trial", "pods", "unready", "reason", "said"),
    [
        pytest.param(
            TRIAL, others(), (), Reason.CANARY, "0 of 1 pods of the new template are ready", id="no pod yet"
        ),
        pytest.param(
            TRIAL, others() | {"n": (NEW, 0, 0)}, ("n",), Reason.CANARY, "0 of 1 pods", id="a pod that starts"
        ),
        pytest.param(
            LATE_START,
            others() | {"n": (NEW, 0, 0)},
            ("n",),
            Reason.ROLLOUT_EXPIRED,
            "0 of 1 pods of the new template are ready after 1800 s, 8 of the one before",
            id="never ready while the others serve",
        ),
        pytest.param(
            LATE_START,
            others(2) | {"n": (NEW, 0, 0)},
            ("n", "old-0", "old-1"),
            Reason.ROLLOUT_PLAIN,
            "0 of the one before",
            id="never ready, and nothing serves that could be gone back to",
        ),
        pytest.param(
            READY, others() | {"n": (NEW, 19, 0)}, (), Reason.CANARY, "100.0 % of 19", id="too few to say"
        ),
        pytest.param(
            at(TRIAL, ready_s=11),
            others() | {"n": (NEW, 50, 0)},
            (),
            Reason.CANARY,
            "100.0 % of 50",
            id="good, not for long enough",
        ),
        pytest.param(
            READY,
            others() | {"n": (NEW, 50, 0)},
            (),
            Reason.ROLLOUT_WIDENED,
            "n: 100.0 % of 50 requests attained, the others 100.0 % of 400: 2 of 8 pods follow",
            id="good",
        ),
        pytest.param(
            READY,
            others() | {"n": (NEW, 20, 30)},
            (),
            Reason.ROLLOUT_FAILED,
            "n: 40.0 % of 50 requests attained, the others 100.0 % of 400",
            id="worse",
        ),
        pytest.param(
            READY,
            others(attained=20, missed=30) | {"n": (NEW, 20, 30)},
            (),
            Reason.ROLLOUT_WIDENED,
            "the others 40.0 % of 400",
            id="as bad as the others",
        ),
        pytest.param(
            READY,
            dict.fromkeys(("a", "b"), (OLDER, 0, 50)) | others(2) | {"n": (NEW, 20, 30)},
            (),
            Reason.ROLLOUT_FAILED,
            "the others 100.0 % of 100",
            id="judged by what ran before, not by what was on trial before it",
        ),
        pytest.param(
            READY,
            others() | {"n": (NEW, 50, 0)},
            ("n",),
            Reason.CANARY,
            "100.0 % of 50",
            id="no longer ready",
        ),
        pytest.param(
            LATE,
            others() | {"n": (NEW, 2, 0)},
            ("n",),
            Reason.ROLLOUT_EXPIRED,
            "no longer ready, and no proof within 600 s",
            id="no longer ready at the deadline",
        ),
        pytest.param(
            LATE,
            others() | {"n": (NEW, 0, 0)},
            (),
            Reason.ROLLOUT_EXPIRED,
            "n: none of 0 requests attained, the others 100.0 % of 400: no proof within 600 s",
            id="requests everywhere but there",
        ),
        pytest.param(
            LATE,
            others(attained=1) | {"n": (NEW, 0, 0)},
            (),
            Reason.ROLLOUT_WIDENED,
            "no traffic to judge by",
            id="no traffic anywhere",
        ),
        pytest.param(
            LATE,
            others() | {"n": (NEW, 5, 0)},
            (),
            Reason.ROLLOUT_WIDENED,
            "100.0 % of 5",
            id="few, and good",
        ),
    ],
)
def test_a_look(
    trial: TemplateTrial, pods: Pods, unready: tuple[str, ...], reason: Reason, said: str
) -> None:
    found = look(trial, pods, unready=unready)
    assert found.reason is reason
    assert said in found.message
    goes_on = reason in (Reason.CANARY, Reason.ROLLOUT_WIDENED)
    assert (found.trial is not None) is goes_on


def test_a_wider_stage_begins_with_a_clock_of_its_own_and_waits_for_all_its_pods() -> None:
    wider = look(READY, others() | {"n": (NEW, 50, 0)}).trial
    assert wider is not None
    assert (wider.stage, wider.stage_s, wider.ready_s) == (CanaryStage.PERCENT, NOW_S, None)
    waiting = look(wider, others(7) | {"n": (NEW, 50, 0), "m": (NEW, 0, 0)}, unready=("m",))
    assert (waiting.reason, waiting.trial and waiting.trial.ready_s) == (Reason.CANARY, None)
    both = look(replace(wider, ready_s=NOW_S - 25), others(7) | {"n": (NEW, 50, 0), "m": (NEW, 50, 0)})
    assert both.reason is Reason.ROLLOUT_PASSED
    assert "2 pods: 100.0 % of 100" in both.message


@pytest.mark.parametrize(
    ("replicas", "percent"),
    [
        pytest.param(4, 25, id="one pod is the share"),
        pytest.param(2, 50, id="one of two pods"),
        pytest.param(8, 100, id="the share is all pods"),
    ],
)
def test_a_stage_that_adds_no_pod_or_would_be_all_is_left_out(replicas: int, percent: int) -> None:
    pods = others(replicas) | {"n": (NEW, 50, 0)}
    found = look(READY, pods, replicas=replicas, canary_percent=percent)
    assert (found.trial, found.reason) == (None, Reason.ROLLOUT_PASSED)


def test_where_nothing_else_serves_it_is_compared_with_the_window_before() -> None:
    trial = replace(READY, before=Verdicts(attained=100, missed=0))
    found = look(trial, {"n": (NEW, 20, 30)})
    assert found.reason is Reason.ROLLOUT_FAILED
    assert "before 100.0 % of 100" in found.message


def test_no_split_moves_while_a_template_is_on_trial() -> None:
    config = replace(CONFIG, template_on_trial=True)
    wanted = Partition(prefill_percent=50, decode_percent=100)
    advice = Decision(partition=wanted, reason=Reason.TPOT_MISSED, message="90 of 60 ms")
    held = guard(initial_state(config), config, advice, NOW_S, pinned=False, wants_move=True)
    assert held.reason is Reason.TEMPLATE_ON_TRIAL
    assert held.partition == CONFIG.initial
    assert guard(initial_state(CONFIG), CONFIG, advice, NOW_S, pinned=False, wants_move=True) is advice
