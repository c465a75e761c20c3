"""When a new pod template is tried, when not, and what ends a trial; and how far the Deployment goes in each stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from fleet_objects import NOW, observed, pod, service, service_class, workload
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.api import codec
from semipd_core.api.conditions import find_condition
from semipd_core.api.service import CanaryStage, RolloutSpec
from semipd_core.cluster.template_rollout import Template, TemplateTrial
from semipd_core.cluster.verdicts import NOTHING_JUDGED, Verdicts
from semipd_core.policies.decision import Reason
from semipd_operator.observe.revisions import plain_template
from semipd_operator.plan.observed import Observed, PodView, RevisionView
from semipd_operator.plan.plan import Installation, admit, build_plan
from semipd_operator.plan.rollout_steps import HELD_S, trial_steps
from semipd_operator.plan.status import build_status
from semipd_operator.plan.template import wanted_template
from semipd_operator.plan.template_trial import NO_ROLLOUT, Rollout, TemplateRefusal, fit_rollout
from semipd_operator.plan.trial_status import recorded_rollout, rollout_status

NOW_S = 1_000_000.0
NEW, OLD, THIRD = (Template(digest=name, image="engine:1", model=name) for name in ("new", "old", "third"))
TRIAL = TemplateTrial(template=NEW, base="old", stage=CanaryStage.ONE_POD, stage_s=NOW_S)
TRIED = Rollout(trial=TRIAL)
REFUSED = Rollout(refusal=TemplateRefusal(template=NEW, base="old", at_s=NOW_S, message="worse"))
INSTALLATION = Installation(namespace="semipd-system", engine_image="semipd/engine:1")


def fleet(
    deployed: str | None = "old",
    *,
    replicas: int = 3,
    runs: tuple[str, ...] = ("old", "old", "old"),
    revisions: tuple[str, ...] = ("old",),
    annotations: dict[str, str] | None = None,
    **spec: Any,
) -> Observed:
    """`runs`: the templates of the ready pods."""
    if spec.get("placement") != "EveryNode":
        spec["replicas"] = replicas
    return observed(
        service=service(annotations=annotations, **spec),
        workload=workload(replicas, template=deployed),
        pods=tuple(pod(f"chat-{number}", template=each) for number, each in enumerate(runs)),
        revisions=tuple(
            RevisionView(hash=each, template=each, replicas=runs.count(each)) for each in revisions
        ),
    )


SKIPS = {"semipd.io/skip-canary": "true"}


@pytest.mark.parametrize(
    ("rollout", "wanted", "found", "then", "reason", "said"),
    [
        pytest.param(NO_ROLLOUT, OLD, fleet(), "none", None, "", id="nothing new"),
        pytest.param(
            NO_ROLLOUT, NEW, fleet(), "trial", Reason.ROLLOUT_STARTED, "1 of 3 pods", id="a new template"
        ),
        pytest.param(NO_ROLLOUT, NEW, observed(workload=None), "none", None, "", id="the first of a service"),
        pytest.param(
            NO_ROLLOUT, NEW, fleet(None), "none", None, "", id="deployed by a release that noted none"
        ),
        pytest.param(
            NO_ROLLOUT, NEW, fleet(runs=()), "none", Reason.ROLLOUT_PLAIN, "no ready pod", id="nothing serves"
        ),
        pytest.param(
            NO_ROLLOUT,
            NEW,
            fleet(revisions=()),
            "none",
            Reason.ROLLOUT_PLAIN,
            "gone back to",
            id="nothing to go back to",
        ),
        pytest.param(
            NO_ROLLOUT,
            NEW,
            fleet(replicas=1, runs=("old",)),
            "none",
            Reason.ROLLOUT_PLAIN,
            "1 replicas",
            id="one pod",
        ),
        pytest.param(
            NO_ROLLOUT,
            NEW,
            fleet(placement="EveryNode", resources={"device": "CPU"}),
            "none",
            Reason.ROLLOUT_PLAIN,
            "a DaemonSet has no stages",
            id="a DaemonSet",
        ),
        pytest.param(
            NO_ROLLOUT,
            NEW,
            fleet(annotations=SKIPS),
            "none",
            Reason.ROLLOUT_PLAIN,
            "semipd.io/skip-canary is true",
            id="switched off",
        ),
        pytest.param(Rollout(told="new"), NEW, fleet(runs=()), "none", None, "", id="said once"),
        pytest.param(
            NO_ROLLOUT,
            OLD,
            fleet("new", runs=("old", "old", "new")),
            "none",
            None,
            "",
            id="most pods run what is asked for: a revert that was cut short",
        ),
        pytest.param(TRIED, NEW, fleet("new"), "same", None, "", id="the trial goes on"),
        pytest.param(
            TRIED,
            OLD,
            fleet("new"),
            "none",
            Reason.ROLLOUT_REVERTED,
            "what ran before",
            id="a revert half-way",
        ),
        pytest.param(
            TRIED,
            THIRD,
            fleet("new"),
            "trial",
            Reason.ROLLOUT_STARTED,
            "third by engine:1",
            id="a third template",
        ),
        pytest.param(
            TRIED,
            THIRD,
            fleet("new", runs=("new",), revisions=("new", "old")),
            "trial",
            Reason.ROLLOUT_STARTED,
            "third by engine:1",
            id="a third template while only the one on trial is ready: what ran before is still the base",
        ),
        pytest.param(
            TRIED,
            NEW,
            fleet("new", annotations=SKIPS),
            "none",
            Reason.ROLLOUT_PLAIN,
            "skip-canary",
            id="switched off half-way",
        ),
        pytest.param(
            TRIED,
            NEW,
            fleet("new", replicas=0, runs=()),
            "none",
            Reason.ROLLOUT_PLAIN,
            "0 replicas",
            id="to zero",
        ),
        pytest.param(
            TRIED,
            NEW,
            fleet("new", revisions=("new",)),
            "none",
            Reason.ROLLOUT_PLAIN,
            "the revision before, old, is gone",
            id="the revision before is gone",
        ),
        pytest.param(
            TRIED,
            OLD,
            fleet("new", annotations={"semipd.io/paused": "true"}),
            "same",
            None,
            "",
            id="nothing changes in a pause",
        ),
        pytest.param(REFUSED, NEW, fleet(), "same", None, "", id="not tried again"),
        pytest.param(REFUSED, NEW, fleet(replicas=0, runs=()), "same", None, "", id="nor without pods"),
        pytest.param(REFUSED, OLD, fleet(), "none", None, "", id="the spec follows the roll-back"),
        pytest.param(
            REFUSED, THIRD, fleet("new"), "trial", Reason.ROLLOUT_STARTED, "third", id="another one is tried"
        ),
        pytest.param(
            REFUSED,
            NEW,
            fleet(annotations=SKIPS),
            "none",
            Reason.ROLLOUT_PLAIN,
            "skip-canary",
            id="asked for all the same",
        ),
    ],
)
def test_what_becomes_of_a_template(
    rollout: Rollout, wanted: Template, found: Observed, then: str, reason: Reason | None, said: str
) -> None:
    after, note = fit_rollout(rollout, wanted, found, NOTHING_JUDGED, NOW_S)
    assert (note.reason if note else None) is reason
    assert said in (note.message if note else "")
    if then == "same":
        assert after == rollout
    elif then == "none":
        assert after.held is None
    else:
        assert after.trial is not None
        assert (after.trial.template, after.trial.base) == (wanted, "old")
        assert (after.trial.stage, after.trial.stage_s) == (CanaryStage.ONE_POD, NOW_S)


@dataclass(slots=True)
class Deployment:
    """What Kubernetes' controller makes of a held rolling update: new pods never count as available, old ones always do.

    Source: pkg/controller/deployment/rolling.go, `reconcileNewReplicaSet` and `reconcileOldReplicaSets`.
    """

    replicas: int
    old: int
    new: int = 0
    ready: int = 0  # of the new ones
    least_serving: int = field(default=10**6)

    def settle(self, max_surge: int, max_unavailable: int) -> None:
        while True:
            grows = min(self.replicas + max_surge - self.old - self.new, self.replicas - self.new)
            shrinks = min(self.old, self.old - (self.replicas - max_unavailable))
            if grows > 0:
                self.new += grows
            elif shrinks > 0:
                self.old -= shrinks
                self.least_serving = min(self.least_serving, self.old + self.ready)
            else:
                return

    def view(self, *, no_room: bool) -> Observed:
        waits = {"is_ready": False, "node": None, "problem": "Unschedulable: no GPU"}
        starts = waits if no_room else {"is_ready": False}
        pods: list[PodView] = [pod(f"new-{n}", template="new") for n in range(self.ready)]
        pods += [pod(f"new-{n}", template="new", **starts) for n in range(self.ready, self.new)]
        revisions = [("old", self.old), ("new", self.new)]
        return observed(
            service=service(replicas=self.replicas),
            pods=tuple(pods),
            revisions=tuple(RevisionView(hash=name, template=name, replicas=n) for name, n in revisions),
        )


@given(
    replicas=st.integers(2, 12),
    max_surge=st.integers(0, 4),
    max_unavailable=st.integers(0, 4),
    percent=st.integers(1, 99),
    gpus=st.integers(0, 4),
)
def test_a_stage_comes_to_rest_at_its_size_and_takes_no_pod_before_another_serves(
    replicas: int, max_surge: int, max_unavailable: int, percent: int, gpus: int
) -> None:
    """`gpus`: free ones. Without any a surge waits for a place, unless the spec lets pods go first."""
    if max_surge == max_unavailable == 0:
        max_unavailable = 1
    spec = RolloutSpec(max_surge=max_surge, max_unavailable=max_unavailable, canary_percent=percent)
    deployment = Deployment(replicas=replicas, old=replicas)
    for stage in (CanaryStage.ONE_POD, CanaryStage.PERCENT):
        trial = replace(TRIAL, stage=stage)
        size = trial.size(replicas, percent)
        for _ in range(2 * replicas):
            room = replicas + gpus - deployment.old
            steps = trial_steps(trial, spec, deployment.view(no_room=deployment.new > room))
            assert steps.max_surge + steps.max_unavailable > 0
            assert steps.min_ready_seconds == HELD_S
            deployment.settle(steps.max_surge, steps.max_unavailable)
            assert deployment.new <= size
            deployment.ready = min(deployment.new, replicas + gpus - deployment.old)
        assert deployment.least_serving >= replicas - max_unavailable
        if max_unavailable or gpus >= min(max_surge, size):
            assert (deployment.new, deployment.ready) == (size, size)


@pytest.mark.parametrize(
    ("rollout", "what"),
    [
        pytest.param(NO_ROLLOUT, "nothing", id="nothing"),
        pytest.param(
            Rollout(trial=replace(TRIAL, pods=("chat-3",), before=Verdicts(attained=9, missed=1))),
            "",
            id="a trial",
        ),
        pytest.param(Rollout(trial=replace(TRIAL, stage=CanaryStage.PERCENT)), "", id="a wider one"),
        pytest.param(REFUSED, "", id="a refusal"),
    ],
)
def test_another_operator_reads_back_what_was_written(rollout: Rollout, what: str) -> None:
    found = observed()
    status = build_status(found, None, None, NOW, rollout=rollout)
    written = codec.encode(replace(found.service, status=status))
    assert ("rollout" in written["status"]) is (what != "nothing")
    read = replace(found, service=codec.decode_service(written))
    assert recorded_rollout(read) == rollout
    assert rollout_status(recorded_rollout(read)) == status.rollout


def plan_of(rollout: Rollout, kept: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    found = fleet(**spec)
    admission = admit(found, [service_class(default=True, device="CPU")], INSTALLATION, 0)
    plan = build_plan(
        found, admission, INSTALLATION, wish=None, loop=None, now=NOW, rollout=rollout, kept=kept
    )
    return next(each for each in plan.children if each["kind"] in ("Deployment", "DaemonSet"))


def test_a_trial_changes_the_steps_and_a_roll_back_the_template() -> None:
    plain, tried, back = plan_of(NO_ROLLOUT), plan_of(TRIED), plan_of(REFUSED, {"spec": {"kept": True}})
    assert "minReadySeconds" not in plain["spec"]
    assert tried["spec"]["template"] == plain["spec"]["template"]
    assert tried["spec"]["minReadySeconds"] == HELD_S
    assert tried["spec"]["progressDeadlineSeconds"] > HELD_S, "the API server asks for that"
    assert back["spec"]["template"] == {"spec": {"kept": True}}
    assert back["spec"]["strategy"] == plain["spec"]["strategy"]
    assert back["metadata"]["annotations"]["semipd.io/template"] == "old"


def test_the_digest_is_of_what_restarts_pods_and_not_in_the_template() -> None:
    def digest(**spec: Any) -> str:
        found = admit(fleet(**spec), [service_class(default=True, device="CPU")], INSTALLATION, 0)
        assert found.effective is not None
        return wanted_template(found.effective).digest

    same = digest()
    assert digest(rollout={"maxSurge": 2}, replicas=9, partition={"mode": "Static"}) == same
    assert digest(http={"maxQueuedRequests": 3}) != same
    assert same not in str(plan_of(NO_ROLLOUT)["spec"])


def test_a_kept_template_is_without_what_kubernetes_has_added() -> None:
    found = {
        "metadata": {"creationTimestamp": None, "labels": {"pod-template-hash": "5d", "a": "b"}},
        "spec": {"containers": []},
    }
    assert plain_template(found) == {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}


def test_conditions_say_what_is_on_trial_and_what_was_rolled_back() -> None:
    found = fleet("new", runs=("old", "old", "old", "new"), revisions=("old", "new"))
    told = {}
    for name, rollout in (("tried", TRIED), ("refused", REFUSED)):
        status = build_status(found, None, None, NOW, rollout=rollout)
        told[name] = {
            each: find_condition(status.conditions, each) for each in ("Progressing", "Degraded", "Ready")
        }
    progressing, degraded = told["tried"]["Progressing"], told["refused"]["Degraded"]
    assert progressing is not None
    assert (progressing.status.value, progressing.reason) == ("True", "Canary")
    assert "on trial in 1 pods, of 3 that are asked for" in progressing.message
    assert degraded is not None
    assert (degraded.status.value, degraded.reason, degraded.message) == ("True", "RolledBack", "worse")


def test_a_trial_that_cannot_surge_says_so() -> None:
    waiting = pod("chat-9", template="new", is_ready=False, node=None, problem="Unschedulable: no GPU")
    found = fleet("new")
    found = replace(found, pods=(*found.pods, waiting))
    status = build_status(found, None, None, NOW, rollout=TRIED)
    condition = find_condition(status.conditions, "Progressing")
    assert condition is not None
    assert (condition.reason, "no room for one more: Unschedulable: no GPU" in condition.message) == (
        "CannotSurge",
        True,
    )
