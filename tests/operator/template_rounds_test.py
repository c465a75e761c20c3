"""A template on trial beside the loop that moves the split: who learns from which pods, and what is forgotten when all follow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from fleet_objects import observed, pod, service, service_class, workload
from played_cluster import engine_report

from semipd_core.api.service import CanaryStage
from semipd_core.cluster.canary import Canary
from semipd_core.partition import Band, Partition, Wish
from semipd_core.policies.decision import Reason
from semipd_core.telemetry import EngineReport
from semipd_operator.looped import Looped
from semipd_operator.observe.scrape import named
from semipd_operator.plan.observed import Observed, PodView, RevisionView
from semipd_operator.plan.plan import Installation, admit
from semipd_operator.plan.template import wanted_template
from semipd_operator.rounds import Rounds
from semipd_shell.informer import Key

KEY = Key("team-a", "chat")
CLASSES = [service_class(default=True, device="CPU")]
INSTALLATION = Installation(namespace="semipd-system", engine_image="semipd/engine:1")
ROUND_S = 15.0
PROVEN = Band.only(Partition(prefill_percent=80, decode_percent=100))
WISH = Wish(
    target=Partition(prefill_percent=50, decode_percent=100),
    band=PROVEN,
    decision_id="cluster-1",
    reason="TPOTMissed",
    message="",
)


@dataclass
class Service:
    """Four pods and its canaries; each answers 30 requests in a slot, a canary `attained` of them well."""

    attained: int = 30
    model: str = "old"
    now_s: float = 1_000_000.0
    annotations: dict[str, str] = field(default_factory=dict)
    canaries: int = 0

    def __post_init__(self) -> None:
        self.rounds = Rounds(
            self,  # type: ignore[arg-type]
            ROUND_S,
            lambda _: self.pods(),
            lambda _: {},
            lambda _: None,
            now_s=lambda: self.now_s,
        )
        self.old = self.digest("old")

    def observe(self, model: str) -> Observed:
        spec = service(replicas=4, model={"uri": f"builtin://{model}"}, annotations=self.annotations)
        return observed(
            service=spec,
            workload=workload(4, template=self.old if hasattr(self, "old") else None),
            pods=tuple(self.pods()),
            revisions=(RevisionView(hash="1", template=self.old, replicas=4),)
            if hasattr(self, "old")
            else (),
        )

    def digest(self, model: str) -> str:
        spec = replace(observed(), service=service(replicas=4, model={"uri": f"builtin://{model}"}))
        effective = admit(spec, CLASSES, INSTALLATION, 0).effective
        assert effective is not None
        return wanted_template(effective).digest

    def pods(self) -> list[PodView]:
        old = [pod(f"chat-{number}", ip=f"10.0.0.{number}", template=self.old) for number in range(1, 5)]
        new = self.digest(self.model)
        return old + [pod(f"new-{n}", ip=f"10.0.1.{n}", template=new) for n in range(self.canaries)]

    async def scrape(
        self, addresses: Mapping[Key, Mapping[str, str]], deadline_s: float
    ) -> AsyncIterator[tuple[Key, dict[str, list[EngineReport]]]]:
        for key, pods in addresses.items():
            yield key, {name: [self.report(name)] for name in pods}

    def report(self, name: str) -> EngineReport:
        attained = self.attained if name.startswith("new") else 30
        return named(engine_report(now_s=self.now_s, attained=attained, missed=30 - attained), name)

    def follow(self, model: str) -> Looped:
        self.model = model
        found = self.observe(model)
        return self.rounds.follow(KEY, admit(found, CLASSES, INSTALLATION, 0), found)

    async def look(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            self.now_s += ROUND_S
            await self.rounds.look()


async def test_the_split_follows_the_pods_that_try_nothing() -> None:
    chat = Service(attained=0)
    looped = chat.follow("old")
    await chat.look()
    assert looped.round is not None
    assert looped.round.window.engines == 4
    chat.follow("new")
    chat.canaries = 1
    await chat.look()
    assert looped.round.window.engines == 4
    assert looped.window.missed == 0, "what the new pod misses is not seen by the loop"


async def test_a_split_on_trial_is_taken_back_before_a_template_is_tried() -> None:
    chat = Service()
    looped = chat.follow("old")
    await chat.look()
    trial = Canary(wish=WISH, pods=("chat-1",), stage=CanaryStage.ONE_POD, stage_s=chat.now_s)
    looped.state = replace(looped.state, canary=trial)
    chat.follow("new")
    assert looped.canaries == {}
    reasons = [timed.decision.reason for timed in looped.state.decisions[:2]]
    assert reasons == [Reason.ROLLOUT_STARTED, Reason.TEMPLATE_ON_TRIAL]


@pytest.mark.parametrize(
    ("attained", "is_kept", "subject", "reason"),
    [
        pytest.param(30, False, "new", Reason.ROLLOUT_PASSED, id="what was proven was of another model"),
        pytest.param(3, True, "old", Reason.ROLLOUT_FAILED, id="the model that ran is proven as before"),
    ],
)
async def test_what_is_proven_is_of_the_model_that_most_pods_run(
    attained: int, is_kept: bool, subject: str, reason: Reason
) -> None:
    chat = Service(attained=attained)
    looped = chat.follow("old")
    await chat.look()
    looped.state = replace(looped.state, proven=PROVEN)
    chat.follow("new")
    assert "builtin://old" in looped.config.subject
    chat.canaries = 1
    seen: list[Any] = []
    while looped.rollout.trial is not None:
        await chat.look()
        seen.append(looped.state.decisions[0].decision.reason)
        assert len(seen) < 10
    chat.old = chat.digest("new") if reason is Reason.ROLLOUT_PASSED else chat.old
    chat.follow("new")
    assert reason in [timed.decision.reason for timed in looped.state.decisions]
    assert (looped.state.proven is not None) is is_kept
    assert f"builtin://{subject}" in looped.config.subject


async def test_a_pause_holds_a_trial_and_its_stage_begins_anew() -> None:
    chat = Service(attained=0)
    looped = chat.follow("old")
    chat.follow("new")
    chat.canaries = 1
    chat.annotations = {"semipd.io/paused": "true"}
    chat.follow("new")
    await chat.look(10)
    assert looped.rollout.trial is not None
    chat.annotations = {}
    chat.follow("new")
    assert (looped.rollout.trial.stage_s, looped.rollout.trial.ready_s) == (chat.now_s, None)
    await chat.look(3)
    assert looped.rollout.refusal is not None
