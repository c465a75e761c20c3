"""The cluster loop over the fleet: each round scrapes every agent once and lets each service's loop take one step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from semipd_core.api.partition import SemiPDPartition
from semipd_core.cluster import loop as cluster
from semipd_core.cluster.canary import Fleet
from semipd_core.cluster.state import ClusterConfig
from semipd_core.cluster.template_rollout import TemplateTrial, follow_template
from semipd_core.cluster.verdicts import NOTHING_JUDGED
from semipd_core.partition import Partition
from semipd_core.policies.decision import Reason
from semipd_core.slo.pooled import is_fresh
from semipd_core.telemetry import EngineReport
from semipd_operator.looped import Looped, gist
from semipd_operator.observe.scrape import Scraper
from semipd_operator.plan.figures import slo_status
from semipd_operator.plan.fleet import build_fleet
from semipd_operator.plan.isolation import fleet_partition, without_shares
from semipd_operator.plan.loop_settings import fit_state, loop_config
from semipd_operator.plan.observed import Observed, PodView
from semipd_operator.plan.plan import Admission
from semipd_operator.plan.resume import pinned_split, resume_state
from semipd_operator.plan.template import wanted_template
from semipd_operator.plan.template_trial import Rollout, conclude, fit_rollout
from semipd_operator.plan.trial_status import recorded_rollout
from semipd_shell import log
from semipd_shell.informer import Key

LEFT_ROUNDS = 4
DEADLINE_SHARE = 0.7  # of a round, for the scrape; then come the steps of those that are waited for

_log = log.logger(__name__)


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
        canary_start_s: float = 1800.0,
    ) -> None:
        self.services: dict[Key, Looped] = {}
        self.rounds = 0  # done while leading
        self.last_round_s = 0.0  # how long the last of them took
        self.left_out = 0  # services that the last of them had no time for
        self._scraper = scraper
        self._round_s = round_s
        self._pods_of = pods_of
        self._partitions_of = partitions_of
        self._on_news = on_news
        self._now_s = now_s
        self._canary_start_s = canary_start_s

    def follow(self, key: Key, admission: Admission, observed: Observed) -> Looped:
        """The loop of a service that its class admits. Raises: InvalidSpec if the bounds hold no legal split."""
        assert admission.effective is not None
        uid, now_s = observed.service.metadata.uid, self._now_s()
        looped = self.services.get(key)
        if looped is not None and looped.uid != uid:  # made anew under its name: nothing of the old one holds
            looped = None
        rollout, said = fit_rollout(
            looped.rollout if looped is not None else recorded_rollout(observed),
            wanted_template(admission.effective),
            observed,
            looped.window if looped is not None else NOTHING_JUDGED,
            now_s,
        )
        config = self._config(admission, looped, observed, rollout)
        if looped is None:
            status = observed.service.status
            looped = self.services[key] = Looped(
                config=config,
                state=resume_state(config, observed.partitions.values(), status, now_s),
                figures=status.slo if status is not None else None,
                uid=uid,
            )
        elif looped.config != config:
            if looped.config.paused and not config.paused:
                rollout = rollout.begun_anew(now_s)
            looped.state = fit_state(looped.state, config, now_s, looped.config)
            looped.config = config
        looped.take(rollout, said, now_s)
        looped.replicas = observed.replicas
        looped.without_shares = without_shares(observed)
        looped.is_autoscaled = admission.effective.spec.autoscale is not None
        return looped

    def _config(
        self, admission: Admission, looped: Looped | None, observed: Observed, rollout: Rollout
    ) -> ClusterConfig:
        assert admission.effective is not None
        config = loop_config(
            admission.effective,
            self._round_s,
            partition=fleet_partition(admission.effective, observed),
            pin=_pin(admission, looped, observed),
            paused=observed.is_paused,
            canary_start_s=self._canary_start_s,
            template_on_trial=rollout.trial is not None,
        )
        if looped is None or rollout.held is None:
            return config
        return replace(config, subject=looped.config.subject)  # most pods run what ran before

    def forget(self, key: Key) -> None:
        self.services.pop(key, None)

    def reached(self) -> tuple[int, int]:
        """Services that have been looked at, and their engines that reported at the last look."""
        looks = [looped.round for looped in self.services.values() if looped.round is not None]
        return len(looks), sum(look.window.engines for look in looks)

    async def run(self, is_leading: Callable[[], bool]) -> None:
        while True:
            started_s = time.monotonic()
            if is_leading():
                await self.look()
                self.rounds += 1
                self.last_round_s = time.monotonic() - started_s
            await asyncio.sleep(max(0.0, self._round_s - (time.monotonic() - started_s)))

    async def look(self) -> None:
        """Turns go on between two steps: else each of their writes would wait for all steps that are due."""
        keys = sorted(self.services, key=lambda key: self.services[key].looked_s)  # nobody waits for ever
        pods = {key: [pod for pod in self._pods_of(key) if not pod.is_leaving] for key in keys}
        addresses = {key: {pod.name: pod.ip for pod in found if pod.ip} for key, found in pods.items()}
        left = dict.fromkeys(keys)
        async for key, reports in self._scraper.scrape(addresses, DEADLINE_SHARE * self._round_s):
            del left[key]
            looped = self.services.get(key)
            if looped is not None:
                looped.looked_s = self._now_s()
                self._take_step(key, looped, pods[key], reports)
            await asyncio.sleep(0)
        await self._leave([key for key in left if key in self.services], pods)

    async def _leave(self, keys: list[Key], pods: Mapping[Key, list[PodView]]) -> None:
        """To the next round, which asks them first. What was known of them holds for LEFT_ROUNDS, or no autoscaler would be held.

        Not for less: each status that says so, and takes it back, is work that makes the next round leave more of them.
        """
        self.left_out = len(keys)
        if keys:
            _log.warning("services left to the next round: this one had no time", count=len(keys))
        for key in keys:
            looped = self.services.get(key)
            if looped is None or looped.round is None:
                continue
            if self._now_s() - looped.looked_s > LEFT_ROUNDS * self._round_s:
                self._take_step(key, looped, pods[key], {})
            await asyncio.sleep(0)

    def _take_step(
        self, key: Key, looped: Looped, pods: list[PodView], reports: Mapping[str, list[EngineReport]]
    ) -> None:
        """Reports that cannot be worked with are no data: nobody else's loop ends with this one's."""
        for given in (reports, {}):
            try:
                self._step(key, looped, pods, given)
                return
            except Exception:
                _log.exception("no step taken", service="/".join(key), pods=len(given))

    def _step(
        self, key: Key, looped: Looped, pods: list[PodView], reports: Mapping[str, list[EngineReport]]
    ) -> None:
        """What each pod was granted matters to a canary alone. The split follows the pods that try no new template."""
        before, state, trial = gist(looped), looped.state, looped.rollout.trial
        now_s = self._now_s()
        partitions = self._partitions_of(key) if state.canary is not None else {}
        fleet = build_fleet(pods, reports, partitions)
        tried = {pod.name for pod in pods if trial is not None and pod.template == trial.template.digest}
        looped.state, looped.round = cluster.step(
            state,
            looped.config,
            _by_engine([pod for pod in pods if pod.name not in tried], _without(reports, tried)),
            now_s,
            fleet=[member for member in fleet if member.name not in tried | looped.without_shares],
        )
        if trial is not None and not looped.config.paused:
            self._try_template(key, looped, trial, fleet, reports)
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
        if looped.is_autoscaled or gist(looped) != before:
            self._on_news(key)

    def _try_template(
        self,
        key: Key,
        looped: Looped,
        trial: TemplateTrial,
        fleet: Fleet,
        reports: Mapping[str, list[EngineReport]],
    ) -> None:
        now_s = self._now_s()
        fresh = {
            report.engine_id: report
            for each in reports.values()
            for report in each
            if is_fresh(report, now_s=now_s, stale_after_s=looped.config.stale_after_s)
        }
        seen = follow_template(trial, looped.config, fleet, fresh, looped.replicas, now_s)
        rollout, said = conclude(seen, trial, now_s)
        looped.take(rollout, said, now_s)
        if seen.reason is Reason.ROLLOUT_PASSED:  # what was proven was of another model or image
            looped.state = replace(looped.state, proven=None, refusals=())
        if said is not None:
            _log.info("tries a template", service="/".join(key), reason=said.reason, message=said.message)


def _pin(admission: Admission, looped: Looped | None, observed: Observed) -> Partition | None:
    """An annotation that is no pin changes nothing."""
    if admission.pin.defect is None:
        return admission.pin.split
    return looped.config.pin if looped is not None else pinned_split(observed.partitions.values())


def _without(
    reports: Mapping[str, list[EngineReport]], names: Collection[str]
) -> Mapping[str, list[EngineReport]]:
    return {name: each for name, each in reports.items() if name not in names}


def _by_engine(
    pods: list[PodView], reports: Mapping[str, list[EngineReport]]
) -> dict[str, EngineReport | None]:
    """A pod that does not answer is one engine without data."""
    found: dict[str, EngineReport | None] = {pod.name: None for pod in pods if pod.name not in reports}
    return found | {report.engine_id: report for each in reports.values() for report in each}
