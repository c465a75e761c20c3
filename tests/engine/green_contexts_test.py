"""Stream pairs by the driver's rules, over a fake that keeps them."""

from __future__ import annotations

import pytest
from fake_green_cuda import CUdevResourceType, FakeGreenCuda
from hypothesis import given
from hypothesis import strategies as st

from semipd_core.errors import InvalidSpec
from semipd_core.partition import Band, Partition, Role
from semipd_core.sm_splits import Layout, SmSplit, legal_splits
from semipd_engine.cuda.driver import CudaError
from semipd_engine.cuda.green import DECODE_PRIORITY, PREFILL_PRIORITY, GreenContexts
from semipd_engine.cuda.green_driver import LibcudaGreen
from semipd_engine.lane.split_streams import SplitStreams

ANY = Band(prefill_min_percent=1, prefill_max_percent=100, decode_min_percent=1, decode_max_percent=100)
NARROW = Band(prefill_min_percent=50, prefill_max_percent=70, decode_min_percent=30, decode_max_percent=60)


def contexts(cuda: FakeGreenCuda, bounds: Band = ANY, layout: Layout = Layout.DISJOINT) -> GreenContexts:
    return GreenContexts(LibcudaGreen(cuda), 0, bounds, layout)


@given(
    st.sampled_from([(132, 8, 8, (9, 0)), (148, 8, 8, (10, 0)), (108, 2, 4, (8, 0)), (80, 2, 2, (7, 5))]),
    st.sampled_from(Layout),
    st.booleans(),
)
def test_every_legal_split_gets_its_pair_and_nothing_is_left_after(gpu, layout, tells_rules):
    sm_count, granularity, minimum, capability = gpu
    cuda = FakeGreenCuda(
        sm_count=sm_count,
        granularity=granularity,
        minimum=minimum,
        capability=capability,
        tells_rules=tells_rules,
    )
    with contexts(cuda, layout=layout) as green:
        assert [pair.split for pair in green.pairs] == list(
            legal_splits(sm_count, granularity, minimum, ANY, layout)
        )
        for pair in green.pairs:
            prefill_context, priority = cuda.streams[pair.prefill_stream]
            assert priority == PREFILL_PRIORITY
            assert granted(cuda, prefill_context) == pair.split.prefill_sms
            decode_context, priority = cuda.streams[pair.decode_stream]
            assert priority == DECODE_PRIORITY
            if layout is Layout.ASYMMETRIC:
                assert decode_context is None, "decode keeps all SMs"
            else:
                assert granted(cuda, decode_context) == pair.split.decode_sms
    assert (cuda.contexts, cuda.streams, green.pairs) == ({}, {}, ())


def granted(cuda: FakeGreenCuda, context: int) -> int:
    _, found = cuda.cuGreenCtxGetDevResource(context, CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM)
    return found.sm.smCount


def test_one_stream_serves_all_splits_where_decode_keeps_all_sms():
    with contexts(FakeGreenCuda(), layout=Layout.ASYMMETRIC) as green:
        assert len({pair.decode_stream for pair in green.pairs}) == 1
        assert len({pair.prefill_stream for pair in green.pairs}) == len(green.pairs)


def test_what_was_granted_counts_not_what_was_asked_for():
    cuda = FakeGreenCuda(grants={72: 70, 60: 58})
    with contexts(cuda, NARROW) as green:
        assert green.pairs[0].split == SmSplit(prefill_sms=70, decode_sms=58, sm_count=132)


@pytest.mark.parametrize(
    ("cuda", "has_queues"),
    [
        pytest.param(FakeGreenCuda(), True, id="driver 13.1"),
        pytest.param(FakeGreenCuda(driver_version=12080), False, id="an older driver"),
        pytest.param(FakeGreenCuda(takes_queues=False), False, id="a driver that refuses them beside SMs"),
    ],
)
def test_work_queues_are_taken_where_the_driver_has_them(cuda, has_queues):
    with contexts(cuda, NARROW) as green:
        assert green.has_work_queues == has_queues
        kinds = [[each.kind for each in resources] for resources in cuda.contexts.values()]
    queue = CUdevResourceType.CU_DEV_RESOURCE_TYPE_WORKQUEUE_CONFIG
    assert all((queue in each) == has_queues for each in kinds)


@pytest.mark.parametrize("call", ["cuGreenCtxCreate", "cuGreenCtxStreamCreate"])
@pytest.mark.parametrize("after", range(6))
def test_a_failure_on_the_way_names_its_call_and_leaves_nothing(call, after):
    cuda = FakeGreenCuda(fail={call: after})
    with pytest.raises(CudaError) as failed, contexts(cuda, NARROW):
        pytest.fail("no pairs can be there")
    assert (failed.value.call, failed.value.code) == (call, "CUDA_ERROR_OUT_OF_MEMORY")
    assert (cuda.contexts, cuda.streams) == ({}, {})


def test_streams_end_before_their_contexts():
    cuda = FakeGreenCuda()
    with contexts(cuda, NARROW):
        cuda.calls.clear()
    assert cuda.calls == ["cuStreamDestroy", "cuGreenCtxDestroy"] * 6


def test_bounds_without_a_split_are_refused_before_anything_is_made():
    cuda = FakeGreenCuda()
    with (
        pytest.raises(InvalidSpec),
        contexts(cuda, Band.only(Partition(prefill_percent=99, decode_percent=1))),
    ):
        pass
    assert "cuDevSmResourceSplitByCount" not in cuda.calls


def test_a_resource_that_was_split_is_not_split_again():
    driver = LibcudaGreen(FakeGreenCuda())
    group, _ = driver.split(driver.sm_resource(0), 64)
    with pytest.raises(CudaError, match="cuDevSmResourceSplitByCount: CUDA_ERROR_INVALID_VALUE"):
        driver.split(group, 16)


def test_more_sms_than_the_device_has_is_the_drivers_refusal():
    driver = LibcudaGreen(FakeGreenCuda())
    with pytest.raises(CudaError, match="cuDevSmResourceSplitByCount"):
        driver.split(driver.sm_resource(0), 133)


class FakeStream:
    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.waited_for: list[FakeStream] = []
        self.is_idle = False

    def wait_stream(self, other: FakeStream) -> None:
        self.waited_for.append(other)

    def record_event(self) -> FakeStream:
        return self

    def query(self) -> bool:
        return self.is_idle


def test_a_change_of_split_keeps_the_order_of_launches():
    with contexts(FakeGreenCuda()) as green:
        streams = SplitStreams.of(green.pairs, Role.PREFILL, FakeStream)
        first = streams.current
        streams.select(None)
        streams.select(green.pairs[0].split)
        assert streams.current is first
        streams.select(green.pairs[3].split)
        assert streams.current.handle == green.pairs[3].prefill_stream
        assert streams.current.waited_for == [first]


def test_the_one_stream_of_an_unconfined_role_never_waits_for_itself():
    with contexts(FakeGreenCuda(), layout=Layout.ASYMMETRIC) as green:
        streams = SplitStreams.of(green.pairs, Role.DECODE, FakeStream)
        first = streams.current
        streams.select(green.pairs[-1].split)
        assert streams.current is first
        assert first.waited_for == []
        assert not streams.mark().is_done()


def test_a_split_without_streams_is_a_defect():
    with contexts(FakeGreenCuda(), NARROW) as green:
        streams = SplitStreams.of(green.pairs, Role.DECODE, FakeStream)
        with pytest.raises(KeyError):
            streams.select(SmSplit(prefill_sms=8, decode_sms=124, sm_count=132))
