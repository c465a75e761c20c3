"""Which run is worth most in the time that is left? Pure: results so far in, the next run out.

Any beginning of the plan is of use: one workload and one SLO first, in them the moving split, then what it must beat, each
decided before the next. Once all are, the rest of the workloads and SLOs, and last the narrower brackets and the sweeps' losers.
Of a sweep the winner by short runs (`sweep`) is decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpu_bench.crossing import THRESHOLD
from gpu_bench.rate_search import COARSE_STEPS, FINE_STEPS, Tried, next_trial, rate_of, step_of
from gpu_bench.sweep import Probe, sweep

SHORT_S, LONG_S = 20.0, 60.0  # of arrivals: to bracket, to decide
DRAIN_S: Mapping[float, float] = {SHORT_S: 10.0, LONG_S: 15.0}  # for answers after the last arrival
SETTLE_S = 20.0  # of quiet before a moving split runs again: the windows of its loops
MARGIN_S = 3.0
START_S = 60.0  # of an engine, until one has been seen to start
REFUSALS_MAX, UNCOUNTED_MAX = 2, 4  # once may be chance
CHUNK_BUDGETS = (512, 1024, 2048, 256)
STATIC_SPLITS = ((60, 100), (40, 100), (80, 60), (60, 40), (50, 50), (30, 100), (80, 20))
# Where nothing is known yet: half of what prefill at the target of 45,000 tokens per second would carry.
FIRST_STEPS: Mapping[str, int] = {"conv": step_of(16.0), "mixed": step_of(8.0)}
SCENES = (("tight", "conv"), ("tight", "mixed"), ("loose", "conv"), ("loose", "mixed"))  # SLO, workload

SLOS = tuple(dict.fromkeys(slo for slo, _ in SCENES))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMode:
    """`engine`: modes of one kind share an engine that runs."""

    name: str
    engine: str
    moves: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One mode, or a sweep whose best counts."""

    name: str
    modes: tuple[PlannedMode, ...]


def _lone(name: str, engine: str, *, moves: bool = False) -> Stage:
    return Stage(name=name, modes=(PlannedMode(name=name, engine=engine, moves=moves),))


UNIFIED = Stage(
    name="tuned Unified",
    modes=tuple(
        PlannedMode(name=f"Unified, {budget} tokens a step", engine=f"Unified {budget}")
        for budget in CHUNK_BUDGETS
    ),
)
STATIC = Stage(
    name="best static",
    modes=tuple(PlannedMode(name=f"MPS ({p}, {d})", engine="MPS") for p, d in STATIC_SPLITS),
)
STAGES = (
    _lone("dynamic MPS", "MPS", moves=True),
    _lone("MPS (100, 100)", "MPS"),
    UNIFIED,
    STATIC,
    _lone("MPS (80, 100)", "MPS"),
    _lone("dynamic GreenContext", "GreenContext", moves=True),
    _lone("two lanes, no partition", "None"),
)
LONE = tuple(stage.modes[0].name for stage in STAGES if len(stage.modes) == 1)
MODES: Mapping[str, PlannedMode] = {mode.name: mode for stage in STAGES for mode in stage.modes}

Row = Mapping[str, Any]
Warmth = tuple[str, str] | None  # kind and scene of the engine that runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    slo: str
    workload: str
    mode: str
    rate_per_s: float
    seconds: float  # of arrivals

    @property
    def engine(self) -> str:
        return MODES[self.mode].engine

    @property
    def scene(self) -> str:
        """What an engine is told of at start: targets of this SLO and workload."""
        return f"{self.slo} {self.workload}"

    def needs_start(self, warm: Warmth) -> bool:
        """To a split that does not move the SLO makes no difference."""
        if warm is None or warm[0] != self.engine:
            return True
        return MODES[self.mode].moves and warm[1] != self.scene


def curve(rows: Iterable[Row], slo: str, workload: str, mode: str, seconds: float) -> list[Row]:
    """Runs that count for one curve: a split that does not move knows no SLO, so that its runs are judged by each.

    Not those of a client that was late itself.
    """
    return [
        row
        for row in rows
        if (row["workload"], row["mode"], row.get("seconds")) == (workload, mode, seconds)
        and row.get("requests")
        and not row.get("uncounted")
        and slo in row["attained"]
    ]


def tried(rows: Sequence[Row], slo: str, workload: str, mode: str) -> Tried:
    short, long = (
        {
            step_of(row["ratePerS"]): row["attained"][slo] >= THRESHOLD * row["requests"]
            for row in curve(rows, slo, workload, mode, seconds)
        }
        for seconds in (SHORT_S, LONG_S)
    )
    return Tried(short=short, long=long)


def is_refused(rows: Iterable[Row], mode: str) -> bool:
    """What is given up: an engine that did not start, or a split that was not granted, twice; a mode whose runs never count."""
    engine = MODES[mode].engine
    refusals = uncounted = 0
    for row in rows:
        refusals += bool(row.get("refused")) and (row["mode"] == mode or row.get("refusedEngine") == engine)
        uncounted += bool(row.get("uncounted")) and row["mode"] == mode
    return refusals >= REFUSALS_MAX or uncounted >= UNCOUNTED_MAX


def next_run(rows: Sequence[Row], left_s: float, warm: Warmth = None, start_s: float = START_S) -> Run | None:
    """The most valuable run that fits; None if none does, or nothing is left to measure.

    Where the most valuable of all does not fit, a shorter one of the same scene is taken: another scene would begin with its SLO.
    """
    runs = _by_value(rows)
    first = next(runs, None)
    if first is None or cost_s(first, warm, start_s) <= left_s:
        return first
    return next(
        (run for run in runs if run.scene == first.scene and cost_s(run, warm, start_s) <= left_s), None
    )


def winners(rows: Sequence[Row], slo: str, workload: str, stages: Iterable[Stage]) -> list[str] | None:
    """The modes that count for these stages, none for what is refused; None while a sweep is not through."""
    scene = _Scene.of(rows, slo, workload)
    found = [scene.winner(stage) for stage in stages]
    names = [each for each in found if isinstance(each, str)]
    return None if any(isinstance(each, Probe) for each in found) else names


def cost_s(run: Run, warm: Warmth, start_s: float) -> float:
    """At most, about."""
    starts = run.needs_start(warm)
    settles = SETTLE_S if MODES[run.mode].moves and not starts else 0.0
    return run.seconds + DRAIN_S[run.seconds] + MARGIN_S + settles + (start_s if starts else 0.0)


def _by_value(rows: Sequence[Row]) -> Iterator[Run]:
    scenes = (_Scene.of(rows, slo, workload) for slo, workload in SCENES)  # most often the first one answers
    seen = []
    for scene in scenes:
        seen.append(scene)
        for stage in STAGES:
            yield from scene.next_of(stage)
    for width in (COARSE_STEPS, FINE_STEPS):
        for scene in seen:
            for mode in MODES:
                yield from scene.decide(mode, width)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """One SLO and workload: what is known of each mode that this machine has not refused."""

    slo: str
    workload: str
    guess: int  # where another mode crosses
    rows: Sequence[Row]  # of the workload
    tried: Mapping[str, Tried]
    shares: Mapping[tuple[str, int], float]  # attained in short runs, by mode and step

    @classmethod
    def of(cls, rows: Sequence[Row], slo: str, workload: str) -> _Scene:
        refusals = [row for row in rows if row.get("refused") or row.get("uncounted")]
        own = [row for row in rows if row["workload"] == workload]
        allowed = [mode for mode in MODES if not is_refused(refusals, mode)]
        by_mode = {mode: [row for row in own if row["mode"] == mode] for mode in allowed}
        seen = {mode: tried(by_mode[mode], slo, workload, mode) for mode in allowed}
        return cls(
            slo=slo,
            workload=workload,
            guess=_guess(own, slo, workload, seen),
            rows=own,
            tried=seen,
            shares={
                (mode, step_of(row["ratePerS"])): row["attained"][slo] / row["requests"]
                for mode in allowed
                for row in curve(by_mode[mode], slo, workload, mode, SHORT_S)
            },
        )

    def next_of(self, stage: Stage) -> Iterator[Run]:
        """One run, or none once the stage is decided."""
        found = self.winner(stage)
        if isinstance(found, Probe):
            yield self._run(found.candidate, found.step, SHORT_S)
        elif found is not None:
            yield from self.decide(found, COARSE_STEPS)

    def winner(self, stage: Stage) -> Probe | str | None:
        """The mode that counts, the run that is to tell, or None where all are refused."""
        names = [mode.name for mode in stage.modes if mode.name in self.tried]
        if len(names) < 2:
            return names[0] if names else None
        return sweep(names, self.shares, self._begun_at(names))

    def decide(self, mode: str, width: int) -> Iterator[Run]:
        trial = next_trial(self.tried[mode], self.guess, width) if mode in self.tried else None
        if trial is not None:
            yield self._run(mode, trial.step, LONG_S if trial.is_long else SHORT_S)

    def _begun_at(self, names: Sequence[str]) -> int:
        """Where the first run of a sweep was: what is measured later does not begin it anew."""
        begun = (
            step_of(row["ratePerS"])
            for row in self.rows
            if row["slo"] == self.slo and row["mode"] in names and row["seconds"] == SHORT_S
        )
        return next(begun, self.guess)

    def _run(self, mode: str, step: int, seconds: float) -> Run:
        return Run(slo=self.slo, workload=self.workload, mode=mode, rate_per_s=rate_of(step), seconds=seconds)


def _guess(rows: Sequence[Row], slo: str, workload: str, seen: Mapping[str, Tried]) -> int:
    """Where the mode before crosses; with the other SLO if none does yet with this one."""
    lone = [mode for mode in LONE if mode in seen]
    found = [step for mode in lone if (step := seen[mode].loses_at) is not None]
    if not found:
        others = (tried(rows, other, workload, mode) for other in SLOS if other != slo for mode in lone)
        found = [each.loses_at for each in others if each.loses_at is not None]
    return found[-1] if found else FIRST_STEPS[workload]
