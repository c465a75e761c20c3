"""An operator that dies between any two writes of a template's trial is taken over from: the trial ends as it would have."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fleet_objects import NOW, observed, pod, service, workload
from hypothesis import given, settings
from hypothesis import strategies as st
from played_cluster import SLO, engine_report

from semipd_core.api import codec
from semipd_core.api.service import SemiPDService
from semipd_core.cluster.canary import Member
from semipd_core.cluster.state import ClusterConfig
from semipd_core.cluster.template_rollout import Template, follow_template
from semipd_core.cluster.verdicts import NOTHING_JUDGED
from semipd_core.partition import Band, Isolation, Partition
from semipd_operator.observe.scrape import named
from semipd_operator.plan.observed import Observed, RevisionView
from semipd_operator.plan.rollout_steps import Steps, trial_steps
from semipd_operator.plan.status import build_status
from semipd_operator.plan.template_trial import NO_ROLLOUT, Rollout, conclude, fit_rollout
from semipd_operator.plan.trial_status import recorded_rollout

OLD, NEW = (Template(digest=name, image="engine:1", model=f"builtin://{name}") for name in ("old", "new"))
START = Partition(prefill_percent=80, decode_percent=100)
CONFIG = ClusterConfig(
    mode="Static",
    policy="Static",
    isolation=Isolation.MPS,
    initial=START,
    bounds=Band.only(START),
    slo=SLO,
    canary_percent=25,
)
ROUND_S = 15.0


@dataclass
class World:
    """What outlives an operator: the service with its status, and the Deployment with its pods, which get ready at once."""

    replicas: int
    is_good: bool  # the new template
    wanted: Template = OLD
    now_s: float = 1_000_000.0
    service: SemiPDService = field(init=False)
    deployed: str = "old"
    pods: dict[str, int] = field(init=False)
    most_tried: int = 0

    def __post_init__(self) -> None:
        self.service = service(replicas=self.replicas)
        self.pods = {"old": self.replicas, "new": 0}

    def names(self) -> list[tuple[str, str]]:
        """Of pods and their templates."""
        return [(f"{name}-{number}", name) for name, count in self.pods.items() for number in range(count)]

    def observe(self) -> Observed:
        return observed(
            service=self.service,
            workload=workload(self.replicas, template=self.deployed),
            pods=tuple(pod(name, template=template) for name, template in self.names()),
            revisions=tuple(
                RevisionView(hash=name, template=name, replicas=n) for name, n in self.pods.items()
            ),
        )

    def note(self, rollout: Rollout) -> None:
        status = build_status(self.observe(), None, None, NOW, rollout=rollout)
        self.service = codec.decode_service(codec.encode(replace(self.service, status=status)))

    def apply(self, rollout: Rollout) -> None:
        """Without a trial the Deployment replaces all pods."""
        self.deployed = rollout.refusal.base if rollout.refusal is not None else self.wanted.digest
        if rollout.trial is not None:
            self.hold(trial_steps(rollout.trial, self.service.spec.rollout, self.observe()))
        else:
            self.pods = {name: self.replicas if name == self.deployed else 0 for name in self.pods}

    def hold(self, steps: Steps) -> None:
        """Pods on trial never count as available; there are never more than the surge allows."""
        (other,) = self.pods.keys() - {self.deployed}
        self.pods[other] = min(self.pods[other], self.replicas - steps.max_unavailable)
        room = self.replicas + steps.max_surge - self.pods[other]
        self.pods[self.deployed] = max(self.pods[self.deployed], min(self.replicas, room))
        self.most_tried = max(self.most_tried, self.pods[self.deployed])

    def look(self, rollout: Rollout) -> Rollout:
        assert rollout.trial is not None
        fleet = [
            Member(name=name, engines=(f"{name}/engine-0",), template=template)
            for name, template in self.names()
        ]
        fresh = {}
        for name, template in self.names():
            attained = 30 if template == "old" or self.is_good else 3
            report = named(engine_report(now_s=self.now_s, attained=attained, missed=30 - attained), name)
            fresh[report.engine_id] = report
        seen = follow_template(rollout.trial, CONFIG, fleet, fresh, self.replicas, self.now_s)
        return conclude(seen, rollout.trial, self.now_s)[0]


class Died(Exception):
    """Before a write."""


@settings(max_examples=40, deadline=None)
@given(
    replicas=st.integers(2, 12),
    is_good=st.booleans(),
    deaths=st.sets(st.integers(1, 60), max_size=12),
    reverted_at=st.none() | st.integers(1, 12),
)
def test_a_death_before_any_write_changes_no_outcome(
    replicas: int, is_good: bool, deaths: set[int], reverted_at: int | None
) -> None:
    """`deaths`: the writes before which an operator dies; `reverted_at`: the turn at which the old one is asked for again."""
    world = World(replicas, is_good)
    rollout, writes = NO_ROLLOUT, 0

    def write() -> None:
        nonlocal writes
        writes += 1
        if writes in deaths:
            raise Died

    for turn in range(50):
        world.wanted = OLD if turn == 0 or (reverted_at is not None and turn >= reverted_at) else NEW
        world.now_s += ROUND_S
        try:
            rollout, _ = fit_rollout(rollout, world.wanted, world.observe(), NOTHING_JUDGED, world.now_s)
            write()
            world.note(rollout)
            write()
            world.apply(rollout)
        except Died:
            rollout = recorded_rollout(world.observe())
            continue
        if rollout.trial is not None:
            rollout = world.look(rollout)
    runs = "new" if is_good and reverted_at is None else "old"
    assert world.pods == {"old": 0, "new": 0} | {runs: replicas}
    assert (rollout.refusal is not None) is (not is_good and reverted_at is None)
    assert rollout.trial is None
    assert world.most_tried <= max(1, -(-replicas // 4))
