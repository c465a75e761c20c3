"""What the MPS controller does next, for one state of the world each."""

from __future__ import annotations

from signal import SIGKILL, SIGTERM

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_agent.mps import plan
from semipd_agent.mps.plan import Step
from semipd_agent.mps.preflight import Refusal
from semipd_agent.mps.replies import ServerStatus
from semipd_agent.mps.view import LaneClient, MpsState, MpsView, ServerView
from semipd_agent.supervision.view import ChildView

ALIVE = ChildView(is_alive=True)
DEAD = ChildView()
TERMINATED = ChildView(is_alive=True, signalled=SIGTERM, signalled_age_s=plan.QUIT_DEADLINE_S + 1)
LANE = LaneClient(pid=20, lane_id="prefill-1", percent=60, granted_percent=60)
FORKED = LaneClient(pid=20, lane_id="prefill-1", percent=60)
READY = ServerView(pid=10, status=ServerStatus.ACTIVE, client_pids=(20,))
FAULTY = ServerView(pid=10, status=ServerStatus.FAULT)
LATE_FAULT = ServerView(pid=10, status=ServerStatus.FAULT, status_age_s=plan.FAULT_DEADLINE_S + 1)
COMING = ServerView(pid=10, status=ServerStatus.INITIALIZING)
LATE = ServerView(pid=10, status=ServerStatus.INITIALIZING, status_age_s=plan.INITIALIZING_DEADLINE_S + 1)
ALONE = ServerView(pid=10, status=ServerStatus.ACTIVE, client_pids=())


def up(*servers: ServerView, **changes: object) -> MpsView:
    settings: dict[str, object] = {"daemon": ALIVE, "has_answered": True, "servers": servers}
    return MpsView(**{**settings, **changes})  # type: ignore[arg-type]


def down(**changes: object) -> MpsView:
    return MpsView(**{"daemon": DEAD, **changes})  # type: ignore[arg-type]


REFUSAL = Refusal(reason="WrongComputeMode", message="GPU-1: compute mode: got PROHIBITED")
CASES = [
    pytest.param(down(), MpsState.ABSENT, Step.START_DAEMON, "", id="without a daemon one is started"),
    pytest.param(
        down(daemon=ChildView(is_due=False)), MpsState.ABSENT, Step.WAIT, "", id="after its back-off"
    ),
    pytest.param(down(refusal=REFUSAL), MpsState.REFUSED, Step.WAIT, "", id="not on a GPU that is refused"),
    pytest.param(
        down(daemon_failures=5),
        MpsState.GIVEN_UP,
        Step.START_DAEMON,
        "",
        id="one that ends at every try is given up, and tried at its slowest back-off",
    ),
    pytest.param(
        down(lanes=(LANE,), orphan_pids=(10,)),
        MpsState.ABSENT,
        Step.WAIT,
        "end",
        id="lanes of a lost daemon end first",
    ),
    pytest.param(
        down(orphan_pids=(10,)),
        MpsState.ABSENT,
        Step.END_SERVERS,
        "",
        id="then the servers that it left behind",
    ),
    pytest.param(
        up(has_answered=False), MpsState.STARTING, Step.WAIT, "", id="a new daemon is given time to answer"
    ),
    pytest.param(
        up(READY, silent_s=10.0, lanes=(LANE,)),
        MpsState.ACTIVE,
        Step.WAIT,
        "start",
        id="a moment's silence changes nothing",
    ),
    pytest.param(
        up(READY, silent_s=31.0, lanes=(LANE,)),
        MpsState.HUNG,
        Step.WAIT,
        "end",
        id="a daemon that hangs loses its lanes",
    ),
    pytest.param(
        up(READY, silent_s=31.0), MpsState.HUNG, Step.KILL_DAEMON, "", id="and is killed once they are gone"
    ),
    pytest.param(
        up(silent_s=31.0, daemon=ChildView(is_alive=True, signalled=SIGKILL)),
        MpsState.HUNG,
        Step.WAIT,
        "",
        id="once",
    ),
    pytest.param(up(), MpsState.STARTING, Step.START_SERVER, "", id="without a server one is started"),
    pytest.param(up(server_due=False), MpsState.STARTING, Step.WAIT, "", id="that too after its back-off"),
    pytest.param(
        up(server_failures=5),
        MpsState.GIVEN_UP,
        Step.START_SERVER,
        "",
        id="a server that ends at every try is given up",
    ),
    pytest.param(
        up(orphan_pids=(9,)),
        MpsState.STARTING,
        Step.END_SERVERS,
        "",
        id="servers of another daemon are not shared with",
    ),
    pytest.param(up(COMING), MpsState.STARTING, Step.WAIT, "", id="a server initializes"),
    pytest.param(
        up(LATE), MpsState.STARTING, Step.SHUT_DOWN_SERVERS, "", id="one that never becomes ready is ended"
    ),
    pytest.param(up(ALONE), MpsState.ACTIVE, Step.WAIT, "start", id="lanes may start on an active server"),
    pytest.param(
        up(READY, lanes=(LANE,)), MpsState.ACTIVE, Step.WAIT, "start", id="a lane that is a client is well"
    ),
    pytest.param(
        up(ALONE, lanes=(FORKED,)),
        MpsState.ACTIVE,
        Step.WAIT,
        "start",
        id="one that attaches need not be one",
    ),
    pytest.param(
        up(ALONE, lanes=(LANE,)),
        MpsState.BYPASSED,
        Step.WAIT,
        "start",
        id="one that has attached and is no client runs without MPS",
    ),
    pytest.param(
        up(lanes=(LANE,)), MpsState.BYPASSED, Step.WAIT, "start", id="so does one without any server"
    ),
    pytest.param(
        up(READY, lanes=(LaneClient(pid=20, lane_id="prefill-1", percent=60, granted_percent=100),)),
        MpsState.BYPASSED,
        Step.WAIT,
        "start",
        id="so does one that was granted the whole GPU",
    ),
    pytest.param(
        up(FAULTY, lanes=(LANE,)), MpsState.FAULT, Step.WAIT, "end", id="after a fault every lane ends"
    ),
    pytest.param(up(FAULTY), MpsState.FAULT, Step.WAIT, "", id="then the server is waited for"),
    pytest.param(
        up(LATE_FAULT), MpsState.FAULT, Step.SHUT_DOWN_SERVERS, "", id="then ended if it does not recover"
    ),
    pytest.param(up(READY, is_ending=True), MpsState.STOPPED, Step.QUIT, "", id="at the end it quits"),
    pytest.param(
        up(READY, is_ending=True, is_quit_sent=True),
        MpsState.STOPPED,
        Step.TERMINATE_DAEMON,
        "",
        id="or is told by signal",
    ),
    pytest.param(
        up(READY, is_ending=True, is_quit_sent=True, daemon=TERMINATED),
        MpsState.STOPPED,
        Step.KILL_DAEMON,
        "",
        id="or is killed",
    ),
    pytest.param(
        down(is_ending=True, orphan_pids=(10,)),
        MpsState.STOPPED,
        Step.END_SERVERS,
        "",
        id="and leaves no server",
    ),
    pytest.param(down(is_ending=True), MpsState.STOPPED, Step.WAIT, "", id="the end"),
]


@pytest.mark.parametrize(("view", "state", "step", "lanes"), CASES)
def test_what_comes_next(view: MpsView, state: MpsState, step: Step, lanes: str) -> None:
    verdict = plan.decide(view)
    said = "start" if verdict.lanes_allowed else "end" if verdict.lanes_must_end else ""
    assert (verdict.state, verdict.step, said) == (state, step, lanes)
    assert verdict.reason


CHILDREN = st.sampled_from([ALIVE, DEAD, ChildView(is_due=False), TERMINATED])
LANES = st.sampled_from([(), (LANE,), (FORKED,)])
SERVERS = st.lists(st.sampled_from([READY, FAULTY, LATE_FAULT, COMING, LATE, ALONE]), max_size=2).map(tuple)
VIEWS = st.builds(
    MpsView,
    daemon=CHILDREN,
    daemon_failures=st.integers(0, 9),
    server_failures=st.integers(0, 9),
    has_answered=st.booleans(),
    silent_s=st.sampled_from([0.0, 10.0, 31.0]),
    servers=SERVERS,
    orphan_pids=st.sampled_from([(), (9,)]),
    server_due=st.booleans(),
    lanes=LANES,
    refusal=st.sampled_from([None, REFUSAL]),
    is_ending=st.booleans(),
    is_quit_sent=st.booleans(),
)


@given(VIEWS)
def test_lanes_are_never_both_let_in_and_sent_away(view: MpsView) -> None:
    verdict = plan.decide(view)
    assert not (verdict.lanes_allowed and verdict.lanes_must_end)


@given(VIEWS)
def test_nothing_is_ended_under_a_living_lane_that_was_not_told_to_go(view: MpsView) -> None:
    """A killed server takes its clients' work with it. While the agent ends, its lanes have ended before."""
    step = plan.decide(view).step
    if view.lanes and not view.is_ending:
        ending = {Step.KILL_DAEMON, Step.QUIT, Step.TERMINATE_DAEMON, Step.END_SERVERS}
        assert step not in ending | {Step.START_DAEMON}


@given(VIEWS)
def test_a_faulty_server_never_gets_a_new_client(view: MpsView) -> None:
    if any(server.status is ServerStatus.FAULT for server in view.servers):
        assert not plan.decide(view).lanes_allowed
