"""What the plugin says of a split on trial, of one that failed, and of the reasons of decisions: tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet_objects import partition, service
from played_cluster import engine_report

from semipd_core.api.fields import PartitionSplit
from semipd_core.api.partition import BandSpec
from semipd_core.api.service import CanaryStage, CanaryStatus, DecisionRecord, RolloutStatus, ServiceStatus
from semipd_core.cluster.evidence import LONGEST_WINDOW_S
from semipd_core.policies.decision import Reason
from semipd_core.telemetry import EngineReport
from semipd_kubectl.draw.advise import draw_advice
from semipd_kubectl.draw.explain import draw_explanation
from semipd_kubectl.draw.lines import open_console
from semipd_kubectl.draw.status import draw_service
from semipd_kubectl.draw.top import draw_top
from semipd_kubectl.observe.objects import (
    PAUSE_ANNOTATION,
    PIN_ANNOTATION,
    Fleet,
    PodView,
    PodWindow,
    ServiceView,
    Windows,
)
from semipd_kubectl.reports.advise import build_advice
from semipd_kubectl.reports.explain import build_explanation
from semipd_kubectl.reports.live import build_live, build_top
from semipd_kubectl.reports.reasons import MEANINGS, meaning_of
from semipd_kubectl.reports.status import build_service
from semipd_kubectl.reports.trial import build_canary
from semipd_kubectl.reports.values import left, unix_s

NOW = "2026-11-21T12:00:00Z"
NOW_S = unix_s(NOW)
assert NOW_S is not None
MOVE_ID = f"cluster-{round((NOW_S - 600) * 1000)}"
PODS = ("chat-1", "chat-2", "chat-3")
PROVEN = BandSpec(
    prefill_min_percent=65, prefill_max_percent=95, decode_min_percent=85, decode_max_percent=100
)


def canary(stage: CanaryStage = CanaryStage.ONE_POD, **changes: Any) -> CanaryStatus:
    found = CanaryStatus(
        partition=PartitionSplit(prefill_percent=50, decode_percent=100),
        decision_id=MOVE_ID,
        stage=stage,
        since="2026-11-21T11:59:00Z",
        pods=() if stage is CanaryStage.ROLLED_BACK else ("chat-1",),
        judged_before=40,
        attained_before=39,
    )
    return replace(found, **changes)


def view(
    tried: CanaryStatus | None,
    *,
    proven: BandSpec | None = None,
    annotations: dict[str, str] | None = None,
    decisions: tuple[DecisionRecord, ...] = (),
    asking: tuple[str, ...] = ("chat-1",),
) -> ServiceView:
    status = ServiceStatus(
        requested=PartitionSplit(prefill_percent=80, decode_percent=100),
        canary=tried,
        proven=proven,
        decisions=decisions,
    )
    return ServiceView(
        service=replace(service(annotations=annotations), status=status),
        pods=tuple(PodView(name=name, address="10.0.0.1", is_ready=True) for name in PODS),
        partitions={
            name: partition(name, split=(50, 100), band=(35, 65, 85, 100), decision_id=MOVE_ID)
            if name in asking
            else partition(name, decision_id="cluster-initial")
            for name in PODS
        },
    )


def windows(**reports: EngineReport) -> Windows:
    found = {("team-a", name.replace("_", "-")): PodWindow(reports=(each,)) for name, each in reports.items()}
    return Windows(pods=found, now_s=NOW_S)


def text_of(lines: Any) -> str:
    console = open_console(columns_given=False, is_terminal=False, no_color=True)
    with console.capture() as said:
        for line in lines:
            console.print(line)
    return said.get()


def explained(found: ServiceView, seen: Windows | None = None) -> str:
    live = None if seen is None else build_live(found, seen, 60.0)
    return text_of(draw_explanation(build_explanation(found, live, NOW_S), NOW_S))


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_of_a_decision_has_words(reason: Reason) -> None:
    meaning = MEANINGS[reason]
    assert meaning.strip() == meaning
    assert 2 <= len(meaning.split()) <= 16
    assert not meaning.endswith(".")
    decided = DecisionRecord(
        time=NOW,
        decision_id="cluster-initial",
        partition=PartitionSplit(prefill_percent=80, decode_percent=100),
        reason=reason.value,
        message="with numbers",
    )
    assert f"{reason.value} ({meaning}): with numbers" in explained(view(None, decisions=(decided,)))


def test_no_two_reasons_have_the_same_words() -> None:
    assert len(set(MEANINGS.values())) == len(Reason)


def test_a_reason_of_a_later_release_is_shown_without_words() -> None:
    assert meaning_of("Novel") is None
    decided = DecisionRecord(
        time=NOW,
        decision_id="cluster-initial",
        partition=PartitionSplit(prefill_percent=80, decode_percent=100),
        reason="Novel",
        message="who knows",
    )
    assert " Novel: who knows" in explained(view(None, decisions=(decided,)))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        pytest.param(
            view(canary()),
            "50/100 is on trial in 1 of 3 pods (chat-1), stage OnePod, for 60s.",
            id="one pod",
        ),
        pytest.param(
            view(canary()),
            "Next: 25 % of the pods (spec.rollout.canaryPercent), then all pods, or back at once",
            id="what comes next",
        ),
        pytest.param(view(canary()), "Before the trial: 97.5 % of 40 requests attained.", id="before"),
        pytest.param(
            view(canary(judged_before=0, attained_before=0)),
            "Before the trial: no request was judged.",
            id="nothing before",
        ),
        pytest.param(
            view(canary(CanaryStage.PERCENT), asking=("chat-1", "chat-3")),
            "50/100 is on trial in 2 of 3 pods (chat-1, chat-3), stage Percent",
            id="all that ask for the decision are canaries, also where the status does not name them",
        ),
        pytest.param(
            view(canary(pods=("gone",)), asking=()),
            "in 0 of 3 pods (none that is there)",
            id="the canary's pod is gone",
        ),
        pytest.param(
            view(canary(CanaryStage.ROLLED_BACK), asking=()),
            "50/100 was rolled back (RolledBack) 60s ago; it, and what is farther that way, is refused until "
            "2026-11-21T12:09:00Z (9m left).",
            id="rolled back",
        ),
        pytest.param(
            view(canary(CanaryStage.ROLLED_BACK, since="2026-11-21T11:00:00Z"), asking=()),
            "50/100 was rolled back (RolledBack) 60m ago; it may be asked for again.",
            id="rolled back long ago",
        ),
        pytest.param(view(None), "No split is on trial.", id="nothing"),
        pytest.param(view(None), "Proven: nothing yet, so each move is tried", id="nothing proven"),
        pytest.param(
            view(None, proven=PROVEN), "Proven: prefill 65..95 %, decode 85..100 %.", id="the proven band"
        ),
        pytest.param(view(canary()), "chat-1: asked for 50/100 as a canary", id="the pod"),
    ],
)
def test_explain_says_what_is_on_trial(found: ServiceView, said: str) -> None:
    assert said in explained(found)


def test_explain_compares_the_canaries_with_the_others_since_the_stage_began() -> None:
    seen = windows(
        chat_1=engine_report(now_s=NOW_S, attained=6, missed=4),
        chat_2=engine_report(now_s=NOW_S, attained=9, missed=1),
        chat_3=engine_report(now_s=NOW_S, attained=10, missed=0),
    )
    assert (
        "In the last 60 s: canaries 60.0 % of 10 requests attained, the others 95.0 % of 20 requests attained."
        in explained(view(canary()), seen)
    )


def test_canaries_that_do_not_answer_are_no_data() -> None:
    seen = windows(chat_2=engine_report(now_s=NOW_S, attained=9, missed=1))
    assert "canaries no data, the others 90.0 % of 10 requests attained" in explained(view(canary()), seen)


@pytest.mark.parametrize(
    ("since", "seconds"),
    [
        pytest.param("2026-11-21T11:59:40Z", 20.0, id="since the stage began"),
        pytest.param("2026-11-21T11:00:00Z", LONGEST_WINDOW_S, id="no longer than front ends remember"),
        pytest.param("2026-11-21T12:00:03Z", 0.0, id="a clock that is ahead"),
    ],
)
def test_a_trial_is_compared_over_its_own_stage(since: str, seconds: float) -> None:
    trial = build_live(view(canary(since=since)), windows(), 60.0).trial
    assert trial is not None
    assert trial.seconds == seconds


@pytest.mark.parametrize(
    "tried", [None, canary(CanaryStage.ROLLED_BACK)], ids=["nothing", "what was rolled back"]
)
def test_without_canaries_there_is_nothing_to_compare(tried: CanaryStatus | None) -> None:
    found = view(tried, asking=())
    assert build_live(found, windows(), 60.0).trial is None
    assert not any(pod.canary for pod in build_service(found).pods)


@pytest.mark.parametrize(
    ("tried", "kinds"),
    [
        pytest.param(canary(), ["Canary", "NoDecision"], id="a trial is under way"),
        pytest.param(
            canary(CanaryStage.ROLLED_BACK), ["CanaryRefused", "NoDecision"], id="a split is refused"
        ),
        pytest.param(
            canary(CanaryStage.ROLLED_BACK, since="2026-11-21T11:00:00Z"), ["NoDecision"], id="no longer"
        ),
        pytest.param(None, ["NoDecision"], id="nothing"),
    ],
)
def test_a_trial_holds_the_loop_back(tried: CanaryStatus | None, kinds: list[str]) -> None:
    assert [hold.kind for hold in build_explanation(view(tried, asking=()), None, NOW_S).holds] == kinds


def test_a_trial_is_one_move_whatever_becomes_of_it() -> None:
    def decision(time: str, split: tuple[int, int], reason: str, decision_id: str) -> DecisionRecord:
        return DecisionRecord(
            time=time,
            decision_id=decision_id,
            partition=PartitionSplit(prefill_percent=split[0], decode_percent=split[1]),
            reason=reason,
            message="",
        )

    decisions = (
        decision("2026-11-21T11:59:00Z", (80, 100), "CanaryFailed", "cluster-initial"),
        decision("2026-11-21T11:50:00Z", (50, 100), "TPOTMissed", MOVE_ID),
        decision("2026-11-21T11:40:00Z", (80, 100), "SLOMet", "cluster-initial"),
    )
    found = build_explanation(view(canary(CanaryStage.ROLLED_BACK), decisions=decisions), None, NOW_S)
    assert [each.moved for each in found.decisions] == [True, True, None]
    assert found.moves_last_hour == 1
    assert found.cooldown_left_seconds == 0


def test_status_marks_the_canaries() -> None:
    text = text_of([draw_service(build_service(view(canary())), NOW_S)])
    assert "50/100 on trial in 1 of 3 pods (OnePod)" in text
    (marked,) = (line for line in text.splitlines() if " canary" in line)
    assert "chat-1" in marked
    rolled_back = build_service(view(canary(CanaryStage.ROLLED_BACK), asking=()))
    text = text_of([draw_service(rolled_back, NOW_S)])
    assert "50/100 was rolled back, refused until 2026-11-21T12:09:00Z" in text


def test_top_marks_the_canaries_and_what_is_paused_or_pinned() -> None:
    held = {PAUSE_ANNOTATION: "true", PIN_ANNOTATION: "70/60"}
    seen = windows(**{name.replace("-", "_"): engine_report(now_s=NOW_S) for name in PODS})
    report = build_top(Fleet(services=(view(canary(), annotations=held),)), seen, 60.0)
    lines = [line.plain for line in draw_top(report)]
    assert [line[:8] for line in lines[3:6]] == ["* chat-1", "  chat-2", "  chat-3"]
    assert "team-a/chat: 1 of 3 pods try a split (*)" in lines
    assert "team-a/chat: paused: the operator writes nothing of it" in lines
    assert "team-a/chat: pinned to 70/60: the loop does not move it" in lines
    quiet = build_top(Fleet(services=(view(None, asking=()),)), seen, 60.0)
    assert not any(line.plain.startswith(("*", "team-a/chat:")) for line in draw_top(quiet))


def test_json_has_the_trial_as_the_status_has_it() -> None:
    found = build_canary(view(canary()))
    assert found is not None
    assert (found.stage, found.pods, found.of_pods, found.refused_until) == ("OnePod", ["chat-1"], 3, None)
    assert (found.judged_before, found.attained_before, found.canary_percent) == (40, 39, 25)


@pytest.mark.parametrize(
    ("time", "words"),
    [
        ("2026-11-21T12:00:59Z", "59s"),
        ("2026-11-21T12:09:00Z", "9m"),
        (NOW, None),
        ("2026-11-21T11:59:59Z", None),
        (None, None),
        ("tomorrow", None),
    ],
)
def test_what_is_left_of_a_time(time: str | None, words: str | None) -> None:
    assert left(time, NOW_S) == words


def test_a_split_on_trial_is_not_advised_to_be_pinned_into_all_pods() -> None:
    decided = DecisionRecord(
        time=NOW,
        decision_id=MOVE_ID,
        partition=PartitionSplit(prefill_percent=50, decode_percent=100),
        reason="TPOTMissed",
        message="first to chat-1, 1 of 3 pods",
    )
    found = build_advice(view(canary(), decisions=(decided,)))
    assert (str(found.advised), found.held_by, found.follow) == ("50/100", "Canary", [])
    assert "Move to 50/100 (TPOTMissed, on trial: see explain)" in text_of(draw_advice(found, NOW_S))
    elsewhere = build_advice(view(None, decisions=(decided,)))
    assert [each.what for each in elsewhere.follow] == ["to follow it now, with a pin"]


def rollout_view(stage: CanaryStage, **changes: Any) -> ServiceView:
    found = RolloutStatus(
        template="b2",
        base="a1",
        image="engine:2",
        model="pvc://models/chat",
        stage=stage,
        since="2026-11-21T11:59:00Z",
        pods=("chat-3",),
        judged=10,
        attained=4,
        judged_before=40,
        attained_before=39,
    )
    status = ServiceStatus(rollout=replace(found, **changes))
    plain = view(None)
    return replace(plain, service=replace(plain.service, status=status))


@pytest.mark.parametrize(
    ("stage", "message", "said"),
    [
        pytest.param(
            CanaryStage.ONE_POD,
            "",
            "A new template (pvc://models/chat by engine:2) is on trial in chat-3, of 3 pods, stage OnePod. "
            "For 60s: 40.0 % of 10 requests attained; before the trial: 97.5 % of 40 requests attained.",
            id="on trial",
        ),
        pytest.param(
            CanaryStage.ROLLED_BACK,
            "b2 is rolled back to a1: worse",
            "A new template was rolled back 60s ago: b2 is rolled back to a1: worse "
            "It is not tried again until the service asks for another one.",
            id="rolled back",
        ),
    ],
)
def test_explain_says_which_template_is_on_trial(stage: CanaryStage, message: str, said: str) -> None:
    assert said in " ".join(explained(rollout_view(stage, message=message)).split())


def test_status_and_json_have_the_template_on_trial() -> None:
    found = build_service(rollout_view(CanaryStage.PERCENT))
    assert "a new template is on trial in 1 of 3 pods (Percent)" in text_of([draw_service(found, NOW_S)])
    assert found.rollout is not None
    assert (found.rollout.image, found.rollout.judged, found.rollout.attained) == ("engine:2", 10, 4)
