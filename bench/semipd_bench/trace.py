"""Which requests came when: strict readers of recorded traces, and the one way to scale them.

A trace with a broken line is refused as a whole, with the line's number and the reason; nothing of it is replayed.
"""

from __future__ import annotations

import csv
import datetime as dt
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from semipd_core.errors import InvalidSpec

AZURE_COLUMNS = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
MOONCAKE_TICK_S = 3.0  # its time stamps are ticks of 3 s (Mooncake trace, FAST'25)
BUNDLED = "azure_code_then_conv_2023.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """One request; `at_s` counts from the trace's start."""

    at_s: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Requests in order of arrival. `joint_s` is where the traffic changes its kind, None if it does not."""

    name: str
    requests: tuple[TraceRequest, ...]
    duration_s: float
    joint_s: float | None = None

    @property
    def middle_s(self) -> float:
        """The joint, or half of the duration where there is none."""
        return self.duration_s / 2 if self.joint_s is None else self.joint_s

    def between(self, start_s: float, end_s: float) -> Trace:
        """The part in [start_s, end_s), its times counted from `start_s`."""
        part = tuple(replace(r, at_s=r.at_s - start_s) for r in self.requests if start_s <= r.at_s < end_s)
        return Trace(name=self.name, requests=part, duration_s=min(end_s, self.duration_s) - start_s)

    def halves(self) -> tuple[Trace, Trace]:
        """The parts before and after the joint."""
        return self.between(0.0, self.middle_s), self.between(self.middle_s, self.duration_s)


def repeat_second_half(trace: Trace, times: int) -> Trace:
    """The traffic after the joint lasts `times` as long, the same requests over again."""
    first, second = trace.halves()
    again = (
        replace(request, at_s=request.at_s + first.duration_s + number * second.duration_s)
        for number in range(times)
        for request in second.requests
    )
    return Trace(
        name=trace.name,
        requests=(*first.requests, *again),
        duration_s=first.duration_s + times * second.duration_s,
        joint_s=first.duration_s,
    )


def bundled_trace() -> Path:
    """Where the trace that ships with semipd lies."""
    return Path(str(resources.files("semipd_bench") / "traces" / BUNDLED))


def read_trace(path: Path) -> Trace:
    """Read an Azure CSV or a Mooncake JSONL; a `.json` file beside it may give start, duration and joint.

    Raises: InvalidSpec with the line's number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec("--trace", str(path), f"a readable UTF-8 file ({error})") from error
    read = _read_mooncake if path.suffix == ".jsonl" else _read_azure
    stamped = list(read(path, lines))
    if not stamped:
        raise InvalidSpec(f"{path.name}", "no requests", "at least one request")
    return _assemble(path, stamped)


def scale(trace: Trace, *, length_factor: float, rate_factor: float, limits: Limits | None = None) -> Trace:
    """Scale all lengths by one factor and the number of requests by another.

    Requests are thinned (or repeated) evenly in order of arrival and keep their times, so that bursts, lulls and the
    joint stay where they are.
    """
    limits = limits or Limits()
    kept = _thin(trace.requests, rate_factor)
    return replace(trace, requests=tuple(_scale_lengths(r, length_factor, limits) for r in kept))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Floors of scaled lengths and the longest prompt plus output that the model takes, in tokens."""

    prompt_min_tokens: int = 16
    output_min_tokens: int = 2
    context_tokens: int | None = None


def _thin(requests: Iterable[TraceRequest], factor: float) -> Iterator[TraceRequest]:
    for index, request in enumerate(requests):
        copies = int((index + 1) * factor + 1e-9) - int(index * factor + 1e-9)
        yield from itertools.repeat(request, copies)


def _scale_lengths(request: TraceRequest, factor: float, limits: Limits) -> TraceRequest:
    prompt = max(round(request.prompt_tokens * factor), limits.prompt_min_tokens)
    output = max(round(request.output_tokens * factor), limits.output_min_tokens)
    if limits.context_tokens is not None:
        output = min(output, max(limits.context_tokens // 2, 1))
        prompt = max(min(prompt, limits.context_tokens - output), 1)
    return replace(request, prompt_tokens=prompt, output_tokens=output)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stamped:
    unix_s: float
    prompt_tokens: int
    output_tokens: int


def _read_azure(path: Path, lines: list[str]) -> Iterator[_Stamped]:
    rows = csv.reader(lines)
    header = next(rows, [])
    if header != AZURE_COLUMNS:
        raise _broken(path, 1, ",".join(header), f"the columns {','.join(AZURE_COLUMNS)}")
    last_s = float("-inf")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(AZURE_COLUMNS):
            raise _broken(path, number, ",".join(row), f"{len(AZURE_COLUMNS)} fields")
        stamped = _Stamped(
            unix_s=_azure_time(path, number, row[0]),
            prompt_tokens=_count(path, number, "ContextTokens", row[1]),
            output_tokens=_count(path, number, "GeneratedTokens", row[2]),
        )
        if stamped.unix_s < last_s:
            raise _broken(path, number, row[0], "TIMESTAMP not before that of the line above")
        last_s = stamped.unix_s
        yield stamped


def _read_mooncake(path: Path, lines: list[str]) -> Iterator[_Stamped]:
    """Ticks of 3 s are spread evenly, which takes back an artefact of the recording."""
    ticks: list[tuple[float, int, int]] = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise _broken(path, number, line[:80], f"a JSON object ({error})") from error
        if not isinstance(value, dict):
            raise _broken(path, number, line[:80], "a JSON object")
        at_ms = _count(path, number, "timestamp", value.get("timestamp"), minimum=0)
        if ticks and at_ms / 1e3 < ticks[-1][0]:
            raise _broken(path, number, at_ms, "timestamp not before that of the line above")
        prompt = _count(path, number, "input_length", value.get("input_length"))
        ticks.append((at_ms / 1e3, prompt, _count(path, number, "output_length", value.get("output_length"))))
    for at_s, group in itertools.groupby(ticks, key=lambda tick: tick[0]):
        members = list(group)
        for position, (_, prompt, output) in enumerate(members):
            offset_s = MOONCAKE_TICK_S * position / len(members)
            yield _Stamped(unix_s=at_s + offset_s, prompt_tokens=prompt, output_tokens=output)


def _azure_time(path: Path, number: int, text: str) -> float:
    seconds, _, fraction = text.partition(".")
    try:
        whole = dt.datetime.strptime(seconds, "%Y-%m-%d %H:%M:%S").replace(tzinfo=dt.UTC)
        if not fraction.isdecimal():
            raise ValueError("no fraction")  # noqa: TRY301
    except ValueError as error:
        raise _broken(path, number, text, "TIMESTAMP as 2023-11-16 18:17:03.9799600") from error
    return whole.timestamp() + float(f"0.{fraction}")


def _count(path: Path, number: int, field: str, given: object, *, minimum: int = 1) -> int:
    if isinstance(given, str) and given.isascii() and given.isdecimal():
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int) or given < minimum:
        raise _broken(path, number, given, f"{field} as an integer of at least {minimum}")
    return given


def _broken(path: Path, number: int, given: object, allowed: str) -> InvalidSpec:
    return InvalidSpec(f"{path.name} line {number}", given, allowed)


def _assemble(path: Path, stamped: list[_Stamped]) -> Trace:
    start_s, duration_s, joint_s = stamped[0].unix_s, None, None
    sidecar = path.with_suffix(".json")
    if sidecar.exists():
        start_s, duration_s, joint_s = _read_sidecar(sidecar)
    if stamped[0].unix_s < start_s - 1e-6:
        raise InvalidSpec(f"{sidecar.name}: start", start_s, "not after the first request")
    requests = tuple(
        TraceRequest(
            at_s=max(s.unix_s - start_s, 0.0), prompt_tokens=s.prompt_tokens, output_tokens=s.output_tokens
        )
        for s in stamped
    )
    return Trace(
        name=path.name, requests=requests, duration_s=duration_s or requests[-1].at_s + 1.0, joint_s=joint_s
    )


def _read_sidecar(path: Path) -> tuple[float, float, float | None]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        start_s = _azure_time(path, 1, value["start"])
        parts = [float(part["startSeconds"]) for part in value["parts"]]
        return start_s, float(value["durationSeconds"]), parts[1] if len(parts) > 1 else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        allowed = "start, durationSeconds and parts[].startSeconds"
        raise InvalidSpec(path.name, repr(error), allowed) from error
