"""A profile as it lies on disk: JSON, camelCase, versioned. Integers are microseconds, percent or counts.

Who reads it: the loops (`semipd_core.profile.start`) read the points, since what they learn later is added to them; a simulator
that only asks for a step's time reads `fits`.
"""

from __future__ import annotations

import msgspec

from semipd_core.errors import InvalidSpec
from semipd_core.partition import Partition, Role
from semipd_core.telemetry import Wire

VERSION = 1


class StepLoad(Wire, frozen=True, kw_only=True):
    """What a lane computes in one step: `rows` sequences, each with `tokens` new tokens after `context_tokens` cached ones."""

    role: Role
    rows: int
    tokens: int  # per row; 1 in decode
    context_tokens: int  # per row, before the step

    @property
    def total_tokens(self) -> int:
        return self.rows * self.tokens

    @property
    def entries_read(self) -> int:
        """KV entries, summed over rows, the new tokens' own included: `StepSample.context_tokens`."""
        return self.rows * (self.context_tokens + self.tokens)

    def __str__(self) -> str:
        if self.role is Role.DECODE:
            return f"decode, {self.rows} rows at {self.context_tokens} tokens"
        return f"prefill, {self.rows} x {self.tokens} tokens after {self.context_tokens}"


class Setting(Wire, frozen=True, kw_only=True):
    """One measurement: `load` under these caps, alone or with the other lane at `beside` without a pause."""

    load: StepLoad
    prefill_percent: int
    decode_percent: int
    beside: StepLoad | None = None

    @property
    def caps(self) -> Partition:
        return Partition(prefill_percent=self.prefill_percent, decode_percent=self.decode_percent)

    def __str__(self) -> str:
        beside = "alone" if self.beside is None else f"beside {self.beside}"
        return f"{self.load} at {self.caps}, {beside}"


class Point(Wire, frozen=True, kw_only=True):
    """What a setting took: medians over `steps` steps."""

    setting: Setting
    steps: int
    wall_us: int
    wall_p90_us: int
    compute_us: int  # inside turns, where lanes take turns
    contended_permille: int  # of the wall time, with the other lane's step in flight


class Subject(Wire, frozen=True, kw_only=True):
    """What the numbers are about. Another subject has other numbers."""

    device_kind: str  # "CPU" or "CUDA"
    device_name: str
    device_cores: int  # SMs; on a CPU the cores of one engine
    model: dict[str, int | str | bool]  # the parts of its shape that a step's time depends on
    dtype: str
    ranks: int = 1  # of tensor parallelism


class Curve(Wire, frozen=True, kw_only=True):
    """`semipd_core.latency.share_curve.ShareCurve` on the wire."""

    saturation_percent: float
    slope_beyond: float
    bandwidth_slowdown: float


class CostFit(Wire, frozen=True, kw_only=True):
    """Lone microseconds of a step: base + per_token * tokens + per_entry * e; `curve` is the speed at a share.

    Prefill: tokens of the step, e = tokens * entries read per row. Decode: rows of the step, e = entries read.
    """

    base_us: float
    per_token_us: float
    per_entry_us: float
    relative_error: float  # root mean square over the points
    curve: Curve
    eq1_scale: float  # semi-PD's Eq. 1: time over time at the whole device = scale / share + offset
    eq1_offset: float


class Fits(Wire, frozen=True, kw_only=True):
    prefill: CostFit
    decode: CostFit
    outliers: list[str] = msgspec.field(default_factory=list)  # settings that the fit leaves unexplained


class Profile(Wire, frozen=True, kw_only=True):
    version: int
    subject: Subject
    takes_turns: bool  # lanes take turns (CPU): `compute_us` is lone time, speed is the share
    isolation: str
    date: str  # of the last point, ISO 8601, UTC
    software: dict[str, str]  # driver, torch, …: told, not compared
    method: str
    points: list[Point] = msgspec.field(default_factory=list)
    planned: int = 0  # measurements that the plan had; fewer points: the budget ended it
    fits: Fits | None = None  # None: too few points


def decode_profile(data: bytes, field: str, given: str) -> Profile:
    """Raises: InvalidSpec in the name of `field`, whose value `given` led to `data`."""
    allowed = f"a profile of version {VERSION}, as `semipd profile` writes it"
    try:
        profile = msgspec.json.decode(data, type=Profile)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise InvalidSpec(field, f"{given} ({error})", allowed) from None
    if profile.version != VERSION:
        raise InvalidSpec(field, f"{given} (version {profile.version})", allowed)
    return profile


def difference(profile: Subject, here: Subject) -> str | None:
    """In what `profile` is about something else than `here`, by name; None if in nothing."""
    told, found = (_flat(subject) for subject in (profile, here))
    names = [name for name in {**told, **found} if told.get(name) != found.get(name)]
    return "; ".join(f"{name} {told.get(name)!r}, here {found.get(name)!r}" for name in names) or None


def _flat(subject: Subject) -> dict[str, object]:
    """By the names that the file has."""
    fields: dict[str, object] = msgspec.to_builtins(subject)
    del fields["model"]
    return fields | {f"model.{name}": value for name, value in sorted(subject.model.items())}
