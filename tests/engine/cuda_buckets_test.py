"""Which CUDA graphs there are, and which steps they serve."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_engine.cuda_model.buckets import (
    GraphsReason,
    LaunchReason,
    bucket_sizes,
    choose_graphs,
    choose_launch,
)

CAPTURED = (1, 2, 4, 8, 16, 20)


@pytest.mark.parametrize(
    ("max_rows", "sizes"),
    [
        (1, (1,)),
        (2, (1, 2)),
        (3, (1, 2, 3)),
        (4, (1, 2, 4)),
        (8, (1, 2, 4, 8)),
        (9, (1, 2, 4, 8, 9)),
        (32, (1, 2, 4, 8, 16, 24, 32)),
        (36, (1, 2, 4, 8, 16, 24, 32, 36)),
    ],
)
def test_buckets_are_small_numbers_then_multiples_of_eight_then_the_most_rows(
    max_rows: int, sizes: tuple[int, ...]
) -> None:
    assert bucket_sizes(max_rows) == sizes


@pytest.mark.parametrize(
    ("rows", "chunks", "samples", "buckets", "bucket", "reason"),
    [
        pytest.param(1, 0, 1, CAPTURED, 1, LaunchReason.FITS_GRAPH, id="exactly a bucket"),
        pytest.param(3, 0, 3, CAPTURED, 4, LaunchReason.FITS_GRAPH, id="padded to the next bucket"),
        pytest.param(9, 0, 9, CAPTURED, 16, LaunchReason.FITS_GRAPH, id="one more than a bucket"),
        pytest.param(20, 0, 20, CAPTURED, 20, LaunchReason.FITS_GRAPH, id="the most rows"),
        pytest.param(21, 0, 21, CAPTURED, None, LaunchReason.TOO_MANY_ROWS, id="more than the most rows"),
        pytest.param(2, 1, 2, CAPTURED, None, LaunchReason.PROMPT_CHUNK, id="a prompt chunk beside a row"),
        pytest.param(2, 0, 1, CAPTURED, None, LaunchReason.UNSAMPLED_ROW, id="a row that wants no token"),
        pytest.param(1, 0, 1, (), None, LaunchReason.NO_GRAPHS, id="a lane without graphs"),
    ],
)
def test_a_step_takes_the_smallest_graph_that_holds_it(
    rows: int,
    chunks: int,
    samples: int,
    buckets: tuple[int, ...],
    bucket: int | None,
    reason: LaunchReason,
) -> None:
    choice = choose_launch(num_rows=rows, num_chunks=chunks, num_samples=samples, buckets=buckets)
    assert (choice.bucket, choice.reason) == (bucket, reason)


@pytest.mark.parametrize(
    ("decode_rows", "asks_host", "rows", "reason"),
    [
        pytest.param(9, False, (1, 2, 4, 8, 9), GraphsReason.DECODES, id="a lane that decodes"),
        pytest.param(0, False, (), GraphsReason.NO_DECODING, id="a lane of prompts"),
        pytest.param(9, True, (), GraphsReason.ASKS_HOST, id="a model that asks the host"),
        pytest.param(0, True, (), GraphsReason.NO_DECODING, id="neither"),
    ],
)
def test_a_lane_has_graphs_if_it_decodes_and_its_model_asks_no_host(
    decode_rows: int, asks_host: bool, rows: tuple[int, ...], reason: GraphsReason
) -> None:
    choice = choose_graphs(decode_rows=decode_rows, asks_host=asks_host)
    assert (choice.rows, choice.reason) == (rows, reason)


@given(max_rows=st.integers(1, 600), data=st.data())
def test_padding_is_less_than_eight_rows(max_rows: int, data: st.DataObject) -> None:
    sizes = bucket_sizes(max_rows)
    assert list(sizes) == sorted(set(sizes))
    rows = data.draw(st.integers(1, max_rows))
    choice = choose_launch(num_rows=rows, num_chunks=0, num_samples=rows, buckets=sizes)
    assert choice.bucket is not None
    assert rows <= choice.bucket < rows + 8
