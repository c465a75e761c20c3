"""Goes through a plan of measurements until the time is up, and keeps the profile after each point."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from semipd_core.profile.fit import fit_points
from semipd_core.profile.format import Point, Profile, Setting
from semipd_core.profile.plan import choose_next
from semipd_engine.profiling.lane_bench import NotGranted
from semipd_engine.profiling.lane_link import LaneLost
from semipd_engine.profiling.timing import Sampling

FAILURES_MAX = 3  # in a row: then it is not the settings
FORK_S = 3.0  # guess of what new caps cost, before it has been seen


def describe_method(sampling: Sampling) -> str:
    return (
        "Lanes of the real engine get one synthetic step again and again, by one who stands in the coordinator's place. "
        f"Times are the lanes' own: medians over {sampling.min_steps} to {sampling.max_steps} steps within "
        f"{sampling.seconds} s, after {sampling.warm_up_s} s of warming up. Each row reads KV blocks of its own. "
        "Beside: the other lane runs its load without a pause; steps in flight at the end do not count."
    )


class Bench(Protocol):
    def measure(self, setting: Setting) -> Point: ...


@dataclass(slots=True, kw_only=True)
class Clock:
    """What is left, and what the next setting may take: as long as the longest of its kind so far."""

    deadline_s: float  # by `now_s`
    point_s: float  # guess, before anything was seen
    now_s: Callable[[], float] = time.monotonic
    seen_s: dict[bool, float] = field(default_factory=dict)  # whether caps changed: longest yet
    last: Setting | None = None

    def left_s(self) -> float:
        return self.deadline_s - self.now_s()

    def expected_s(self, setting: Setting) -> float:
        changes = self._changes_caps(setting)
        guess_s = self.point_s + (FORK_S if changes else 0.0)
        return self.seen_s.get(changes, guess_s)

    def took(self, setting: Setting, spent_s: float) -> None:
        changes = self._changes_caps(setting)
        self.seen_s[changes] = max(self.seen_s.get(changes, 0.0), spent_s)
        self.last = setting

    def _changes_caps(self, setting: Setting) -> bool:
        return self.last is None or self.last.caps != setting.caps


def measure_all(
    bench: Bench,
    profile: Profile,
    plan: Sequence[Setting],
    clock: Clock,
    keep: Callable[[Profile], None],
    say: Callable[[str], None],
    failures_max: int = FAILURES_MAX,
) -> Profile:
    """Until the plan is done or the time is up; `keep` gets the profile after each point.

    A setting whose lanes fail is left out, for this run. Raises: what a bench raises; DeviceError after `failures_max` in a row.
    """
    profile = msgspec.structs.replace(profile, planned=len(plan))
    done = {point.setting for point in profile.points}
    left_out = failures = 0
    while (setting := choose_next(plan, done, clock.left_s(), clock.expected_s)) is not None:
        done.add(setting)
        began_s = clock.now_s()
        try:
            point = bench.measure(setting)
        except (LaneLost, NotGranted) as error:
            left_out, failures, clock.last = left_out + 1, failures + 1, None  # other lanes come next
            say(f"left out: {setting}: {error}")
            if failures == failures_max:
                raise
            continue
        failures = 0
        clock.took(setting, clock.now_s() - began_s)
        profile = extended(profile, point)
        keep(profile)
        say(f"{len(profile.points)}/{len(plan)} {setting}: {point.wall_us / 1000:.2f} ms")
    if left_out:
        say(f"{left_out} left out, as their lanes failed; run again to try them again")
    return profile


def extended(profile: Profile, point: Point) -> Profile:
    points = [*profile.points, point]
    return msgspec.structs.replace(
        profile,
        points=points,
        fits=fit_points(points, takes_turns=profile.takes_turns)[1],
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )
