"""What is held of one service between rounds: its loop, and the pod template that it may have on trial."""

from __future__ import annotations

from dataclasses import dataclass, field

from semipd_core.api.service import SloStatus
from semipd_core.cluster.state import ClusterConfig, ClusterRound, ClusterState
from semipd_core.cluster.verdicts import NOTHING_JUDGED, Verdicts
from semipd_core.partition import Wish
from semipd_operator.loop_metrics import Tally
from semipd_operator.plan.loop_settings import note, wish_of
from semipd_operator.plan.status import Loop
from semipd_operator.plan.template_trial import NO_ROLLOUT, Note, Rollout
from semipd_operator.plan.trial_status import canary_status, rollout_status


@dataclass(slots=True)
class Looped:
    """One service's loop. `round` is None until the first look."""

    config: ClusterConfig
    state: ClusterState
    round: ClusterRound | None = None
    tally: Tally = field(default_factory=Tally)
    figures: SloStatus | None = None  # as the status shows them
    rollout: Rollout = NO_ROLLOUT
    replicas: int = 0  # that the service asks for
    without_shares: frozenset[str] = frozenset()  # pods: no canary is tried there
    is_autoscaled: bool = False  # then every round is news
    uid: str | None = None  # of the service
    looked_s: float = 0.0  # unix time at which its agents had been asked; 0: never

    @property
    def wish(self) -> Wish:
        """Of every pod but the canaries."""
        return wish_of(self.state, self.config)

    @property
    def canaries(self) -> dict[str, Wish]:
        canary = self.state.canary
        return dict.fromkeys(canary.pods, canary.wish) if canary is not None else {}

    @property
    def loop(self) -> Loop | None:
        if self.round is None:
            return None
        return Loop(state=self.state, round=self.round, slo=self.config.slo, average_s=self.config.average_s)

    @property
    def window(self) -> Verdicts:
        return Verdicts.of(self.round.window) if self.round is not None else NOTHING_JUDGED

    def take(self, rollout: Rollout, said: Note | None, now_s: float) -> None:
        """Another step of a new template."""
        self.rollout = rollout
        if said is not None:
            self.state = note(self.state, said.reason, said.message, now_s)


def gist(looped: Looped) -> tuple[object, ...]:
    """What of a loop shows in the service's status: what does not change it need not be looked at."""
    if looped.round is None:
        return ()
    return (
        looped.state.decision_id,
        canary_status(looped.state),
        rollout_status(looped.rollout),
        looped.state.proven,
        looped.state.decisions[0].decision.partition if looped.state.decisions else None,
        looped.round.decision.reason,
        (looped.round.advice.partition, looped.round.advice.reason),
        looped.round.window_state,
        looped.round.window.engines,
        looped.figures,
    )
