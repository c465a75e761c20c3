"""Which CUDA graphs a lane has, which steps they serve, and which one: pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

SMALL_BUCKETS = (1, 2, 4)
BUCKET_STEP_ROWS = 8


class GraphsReason(StrEnum):
    DECODES = "Decodes"
    NO_DECODING = "NoDecoding"  # of a lane that only takes prompts
    ASKS_HOST = "AsksHost"  # a layer waits for numbers of the device before it goes on; a graph has no host


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphsChoice:
    rows: tuple[int, ...]  # of each graph to capture, ascending
    reason: GraphsReason


class LaunchReason(StrEnum):
    FITS_GRAPH = "FitsGraph"
    PROMPT_CHUNK = "PromptChunk"  # chunks have any length
    UNSAMPLED_ROW = "UnsampledRow"  # a graph samples for each of its rows
    NO_GRAPHS = "NoGraphs"  # for what `GraphsReason` says
    TOO_MANY_ROWS = "TooManyRows"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchChoice:
    bucket: int | None  # rows of the graph to replay; None: kernel by kernel
    reason: LaunchReason


def bucket_sizes(max_rows: int) -> tuple[int, ...]:
    """Rows of each graph, ascending: 1, 2, 4, then multiples of 8, and `max_rows` itself."""
    steps = range(BUCKET_STEP_ROWS, max_rows, BUCKET_STEP_ROWS)
    return (*(size for size in SMALL_BUCKETS if size < max_rows), *steps, max_rows)


def choose_graphs(*, decode_rows: int, asks_host: bool) -> GraphsChoice:
    """decode_rows: the most that a step may decode; 0 of a lane that decodes nothing."""
    if not decode_rows:
        return GraphsChoice(rows=(), reason=GraphsReason.NO_DECODING)
    if asks_host:
        return GraphsChoice(rows=(), reason=GraphsReason.ASKS_HOST)
    return GraphsChoice(rows=bucket_sizes(decode_rows), reason=GraphsReason.DECODES)


def choose_launch(
    *, num_rows: int, num_chunks: int, num_samples: int, buckets: Sequence[int]
) -> LaunchChoice:
    """The smallest graph that holds the step. buckets: those captured, ascending."""
    if not buckets:
        return LaunchChoice(bucket=None, reason=LaunchReason.NO_GRAPHS)
    if num_chunks:
        return LaunchChoice(bucket=None, reason=LaunchReason.PROMPT_CHUNK)
    if num_samples < num_rows:
        return LaunchChoice(bucket=None, reason=LaunchReason.UNSAMPLED_ROW)
    if num_rows > buckets[-1]:
        return LaunchChoice(bucket=None, reason=LaunchReason.TOO_MANY_ROWS)
    return LaunchChoice(bucket=buckets[bisect_left(buckets, num_rows)], reason=LaunchReason.FITS_GRAPH)
