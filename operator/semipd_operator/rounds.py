"""The cluster loop over the fleet: each round scrapes every agent once and lets each service's loop take one step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from semipd_core.api.partition import SemiPDPartition
from semipd_core.api.service import SloStatus
from semipd_core.cluster import loop as cluster
from semipd_core.cluster.state import ClusterConfig, ClusterRound, ClusterState
from semipd_core.partition import Partition, Wish
from semipd_core.telemetry import EngineReport
from semipd_operator.loop_metrics import Tally
from semipd_operator.observe.scrape import Scraper
from semipd_operator.plan.figures import slo_status
from semipd_operator.plan.fleet import build_fleet
from semipd_operator.plan.loop_settings import fit_state, loop_config, wish_of
from semipd_operator.plan.observed import Observed, PodView
from semipd_operator.plan.plan import Admission
from semipd_operator.plan.resume import pinned_split, resume_state
from semipd_operator.plan.status import Loop
from semipd_operator.plan.trial_status import canary_status
from semipd_shell import log
from semipd_shell.informer import Key

DEADLINE_SHARE = 0.8  # of a round, for the scrape

_log = log.logger(__name__)


@dataclass(slots=True)
class Looped:
    """One service's loop. `round` is None until the first look."""

    config: ClusterConfig
    state: ClusterState
    round: ClusterRound | None = None
    tally: Tally = field(default_factory=Tally)
    figures: SloStatus | None = None  # as the status shows them
    is_autoscaled: bool = False  # then every round is news

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


class Rounds:
    """`pods_of` and `partitions_of` give what there is of a service; `on_news` is called when its loop says something new."""

    def __init__(
        self,
        scraper: Scraper,
        round_s: float,
        pods_of: Callable[[Key], list[PodView]],
        partitions_of: Callable[[Key], Mapping[str, SemiPDPartition]],
        on_news: Callable[[Key], None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.services: dict[Key, Looped] = {}
        self.rounds = 0  # done while leading
        self.last_round_s = 0.0  # how long the last of them took
        self._scraper = scraper
        self._round_s = round_s
        self._pods_of = pods_of
        self._partitions_of = partitions_of
        self._on_news = on_news
        self._now_s = now_s

    def follow(self, key: Key, admission: Admission, observed: Observed) -> Looped:
        """The loop of a service that its class admits. Raises: InvalidSpec if the bounds hold no legal split."""
        assert admission.effective is not None
        looped = self.services.get(key)
        config = loop_config(
            admission.effective,
            self._round_s,
            pin=_pin(admission, looped, observed),
            paused=observed.is_paused,
        )
        if looped is None:
            partitions, status = observed.partitions.values(), observed.service.status
            looped = self.services[key] = Looped(
                config=config,
                state=resume_state(config, partitions, status, self._now_s()),
                figures=status.slo if status is not None else None,
            )
        elif looped.config != config:
            looped.state = fit_state(looped.state, config, self._now_s(), looped.config)
            looped.config = config
        looped.is_autoscaled = admission.effective.spec.autoscale is not None
        return looped

    def forget(self, key: Key) -> None:
        self.services.pop(key, None)

    async def run(self, is_leading: Callable[[], bool]) -> None:
        while True:
            started_s = time.monotonic()
            if is_leading():
                await self.look()
                self.rounds += 1
                self.last_round_s = time.monotonic() - started_s
            await asyncio.sleep(max(0.0, self._round_s - (time.monotonic() - started_s)))

    async def look(self) -> None:
        """Steps come before further answers, which wait in their sockets: all of them at once would not fit into memory."""
        pods = {key: [pod for pod in self._pods_of(key) if not pod.is_leaving] for key in self.services}
        addresses = {key: {pod.name: pod.ip for pod in found if pod.ip} for key, found in pods.items()}
        async for key, reports in self._scraper.scrape(addresses, DEADLINE_SHARE * self._round_s):
            looped = self.services.get(key)
            if looped is not None:
                self._step(key, looped, pods[key], reports)

    def _step(
        self, key: Key, looped: Looped, pods: list[PodView], reports: Mapping[str, list[EngineReport]]
    ) -> None:
        """What each pod was granted matters to a canary alone."""
        before, state = _gist(looped), looped.state
        partitions = self._partitions_of(key) if state.canary is not None else {}
        looped.state, looped.round = cluster.step(
            state,
            looped.config,
            _by_engine(pods, reports),
            self._now_s(),
            fleet=build_fleet(pods, reports, partitions),
        )
        looped.tally.note(state, looped.state, looped.round)
        looped.figures = slo_status(looped.round.window, looped.config.slo, looped.figures)
        if looped.round.changed:
            decision = looped.round.decision
            _log.info(
                "asks for another split",
                service="/".join(key),
                split=str(decision.partition),
                reason=decision.reason,
                message=decision.message,
            )
        if looped.is_autoscaled or _gist(looped) != before:
            self._on_news(key)


def _pin(admission: Admission, looped: Looped | None, observed: Observed) -> Partition | None:
    """An annotation that is no pin changes nothing."""
    if admission.pin.defect is None:
        return admission.pin.split
    return looped.config.pin if looped is not None else pinned_split(observed.partitions.values())


def _by_engine(
    pods: list[PodView], reports: Mapping[str, list[EngineReport]]
) -> dict[str, EngineReport | None]:
    """A pod that does not answer is one engine without data."""
    found: dict[str, EngineReport | None] = {pod.name: None for pod in pods if pod.name not in reports}
    return found | {report.engine_id: report for each in reports.values() for report in each}


def _gist(looped: Looped) -> tuple[object, ...]:
    """What of a loop shows in the service's status: what does not change it need not be looked at."""
    if looped.round is None:
        return ()
    return (
        looped.state.decision_id,
        canary_status(looped.state),
        looped.state.proven,
        looped.state.decisions[0].decision.partition if looped.state.decisions else None,
        looped.round.decision.reason,
        looped.round.window_state,
        looped.round.window.engines,
        looped.figures,
    )
