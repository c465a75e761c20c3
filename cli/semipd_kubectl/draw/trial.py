"""What is on trial, what failed and what is proven, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from semipd_core.api.service import CanaryStage
from semipd_kubectl.draw.lines import WARN, toned
from semipd_kubectl.reports.live import Figures, TrialLive
from semipd_kubectl.reports.trial import CanaryReport, RolloutReport
from semipd_kubectl.reports.values import Range, age, left

PODS_SHOWN = 5


def trial_sentences(
    canary: CanaryReport | None, proven: Range | None, live: TrialLive | None, now_s: float
) -> Iterator[Text]:
    """`now_s` is unix time."""
    if canary is None:
        yield toned("No split is on trial.")
    elif canary.stage == CanaryStage.ROLLED_BACK:
        yield toned(_rolled_back(canary, now_s), WARN)
    else:
        yield toned(_on_trial(canary, now_s), WARN)
        yield toned(f"Next: {_next(canary)}.")
        if live is not None:
            yield toned(f"In the last {live.seconds:.0f} s: {_compared(live)}.")
        permille = 1000 * canary.attained_before // canary.judged_before if canary.judged_before else None
        yield toned(f"Before the trial: {_verdicts(canary.judged_before, permille)}.")
    if proven is None:
        yield toned("Proven: nothing yet, so each move is tried in one pod first.")
    else:
        yield toned(f"Proven: {proven}. A move whose band lies inside goes to all pods at once.")


def trial_mark(canary: CanaryReport) -> str:
    """In a few words, for a line that says more."""
    if canary.stage == CanaryStage.ROLLED_BACK:
        return f"{canary.partition} was rolled back, refused until {canary.refused_until or 'unknown'}"
    return f"{canary.partition} on trial in {len(canary.pods)} of {canary.of_pods} pods ({canary.stage})"


def rollout_sentences(rollout: RolloutReport, now_s: float) -> Iterator[Text]:
    if rollout.stage == CanaryStage.ROLLED_BACK:
        yield toned(
            f"A new template was rolled back {age(rollout.since, now_s)} ago: {rollout.message}", WARN
        )
        yield toned("It is not tried again until the service asks for another one.")
        return
    where = f"{_some(rollout.pods)}, of {rollout.of_pods} pods"
    what = f"{rollout.model} by {rollout.image}"
    yield toned(f"A new template ({what}) is on trial in {where}, stage {rollout.stage}.", WARN)
    tried, before = (
        _verdicts(judged, 1000 * attained // judged if judged else None)
        for judged, attained in (
            (rollout.judged, rollout.attained),
            (rollout.judged_before, rollout.attained_before),
        )
    )
    yield toned(f"For {age(rollout.since, now_s)}: {tried}; before the trial: {before}.")


def rollout_mark(rollout: RolloutReport) -> str:
    """In a few words, for a line that says more."""
    if rollout.stage == CanaryStage.ROLLED_BACK:
        return f"a new template was rolled back: {rollout.message}"
    return f"a new template is on trial in {len(rollout.pods)} of {rollout.of_pods} pods ({rollout.stage})"


def _on_trial(canary: CanaryReport, now_s: float) -> str:
    return (
        f"{canary.partition} is on trial in {len(canary.pods)} of {canary.of_pods} pods "
        f"({_some(canary.pods)}), stage {canary.stage}, for {age(canary.since, now_s)}."
    )


def _some(pods: Sequence[str]) -> str:
    more = len(pods) - PODS_SHOWN
    return (", ".join(pods[:PODS_SHOWN]) + (f" and {more} more" if more > 0 else "")) or "none that is there"


def _rolled_back(canary: CanaryReport, now_s: float) -> str:
    said = f"{canary.partition} was rolled back (RolledBack) {age(canary.since, now_s)} ago"
    remaining = left(canary.refused_until, now_s)
    if remaining is None:
        return f"{said}; it may be asked for again."
    return f"{said}; it, and what is farther that way, is refused until {canary.refused_until} ({remaining} left)."


def _next(canary: CanaryReport) -> str:
    whole = "all pods, or back at once if the canaries are worse"
    if canary.stage == CanaryStage.PERCENT:
        return whole
    return f"{canary.canary_percent} % of the pods (spec.rollout.canaryPercent), then {whole}"


def _compared(live: TrialLive) -> str:
    return f"canaries {_figures(live.canaries)}, the others {_figures(live.others)}"


def _figures(figures: Figures) -> str:
    return _verdicts(figures.judged, figures.attainment_permille) if figures.engines else "no data"


def _verdicts(judged: int, permille: int | None) -> str:
    return (
        "no request was judged"
        if permille is None
        else f"{permille / 10:.1f} % of {judged} requests attained"
    )
