"""The parts, in order of value, and which of them is next. Pure.

A part is a process. Its exit code says how it went: 0 done, 1 failed, 2 needs something that is not here (its last line says
what), 3 the time was up and another call goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

NO_MODULE = "ModuleNotFoundError: No module named"
MARGIN_S = 5.0  # of a call's budget, for ending a part and writing results


class State(StrEnum):
    DONE = "done"
    FAILED = "failed"
    NEEDS = "needs"
    UNFINISHED = "unfinished"
    NOT_RUN = "not run"

    @classmethod
    def of_exit(cls, exit_code: int | None, last_line: str = "") -> State:
        """`exit_code` None: it was ended at its limit. A module that is absent is a need, wherever it was missed."""
        if exit_code is None:
            return cls.FAILED
        if exit_code == 1 and last_line.startswith(NO_MODULE):
            return cls.NEEDS
        return {0: cls.DONE, 2: cls.NEEDS, 3: cls.UNFINISHED}.get(exit_code, cls.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """`command`: arguments for python; {out} is the results' folder, {seconds} what the part may take."""

    name: str
    answers: str
    command: tuple[str, ...]
    limit_s: float  # of one attempt
    least_s: float  # with less it is not begun


PARTS = (
    Part(
        name="facts",
        answers="driver, SMs, MPS, compute mode, versions",
        command=("-m", "gpu_bench.facts", "--out", "{out}/facts.json"),
        limit_s=60,
        least_s=40,
    ),
    Part(
        name="probe",
        answers="which ways of sharing SMs and memory work here, SM curves, contention",
        command=("bench/gpu/probe.py", "--out", "{out}", "--budget", "{seconds}"),
        limit_s=540,
        least_s=150,
    ),
    Part(
        name="memory",
        answers="which transport shares device memory between processes, with MPS and without",
        command=("bench/gpu/memory.py", "--out", "{out}/memory.jsonl"),
        limit_s=240,
        least_s=90,
    ),
    Part(
        name="green",
        answers="whether green contexts keep to their SMs, in streams and in graphs, and what they cost",
        command=("bench/gpu/green.py", "--out", "{out}/green.jsonl"),
        limit_s=240,
        least_s=60,
    ),
    Part(
        name="kernels",
        answers="whether each kernel is right, its time, bytes and operations per second",
        command=("bench/gpu/kernels.py", "--out", "{out}/kernels.jsonl", "--seconds", "{seconds}"),
        limit_s=540,
        least_s=60,
    ),
    Part(
        name="executor",
        answers="whether the lane's executor gives the CPU's logits and tokens, and the time of its steps",
        command=("bench/gpu/executor.py", "--out", "{out}/executor.jsonl", "--seconds", "{seconds}"),
        limit_s=540,
        least_s=90,
    ),
    Part(
        name="steps",
        answers="decode step at 1k context, batch 1/64/256, and prefill of 1k and 2k, against the card's limits",
        command=("-m", "gpu_bench.steps", "--table", "limits", "--out", "{out}", "--seconds", "{seconds}"),
        limit_s=540,
        least_s=180,
    ),
    Part(
        name="interference",
        answers="step time of both phases over SM splits, alone and together",
        command=("-m", "gpu_bench.steps", "--table", "splits", "--out", "{out}", "--seconds", "{seconds}"),
        limit_s=540,
        least_s=180,
    ),
    Part(
        name="goodput",
        answers="the largest rate with 90 % attainment, this engine and the baselines",
        command=("-m", "gpu_bench.goodput", "--out", "{out}", "--seconds", "{seconds}"),
        limit_s=540,
        least_s=210,
    ),
    Part(
        name="switch",
        answers="what a live switch costs the requests in flight",
        command=("-m", "gpu_bench.live_switch", "--out", "{out}", "--seconds", "{seconds}"),
        limit_s=540,
        least_s=300,
    ),
)


_TURNS = {State.NOT_RUN: 0, State.UNFINISHED: 1, State.FAILED: 2, State.NEEDS: 2}


def next_part(
    parts: Sequence[Part], states: Mapping[str, State], tried: Collection[str], left_s: float
) -> Part | None:
    """Of the parts that can begin in the time that is left: one that never ran, else one to go on with, else one to try again.

    None that is done, or that was tried in this call.
    """
    can_begin = [
        part
        for part in parts
        if states.get(part.name) is not State.DONE
        and part.name not in tried
        and left_s - MARGIN_S >= part.least_s
    ]
    return min(can_begin, key=lambda part: _TURNS[states.get(part.name, State.NOT_RUN)], default=None)


def seconds_for(part: Part, left_s: float) -> float:
    return min(part.limit_s, left_s - MARGIN_S)


def choose(parts: Sequence[Part], name: str | None) -> tuple[Part, ...]:
    """All, or the one of that name. Raises: ValueError with the names that are allowed."""
    chosen = tuple(part for part in parts if name in (None, part.name))
    if not chosen:
        raise ValueError(f"--part: got {name!r}, allowed: {', '.join(part.name for part in parts)}")
    return chosen
