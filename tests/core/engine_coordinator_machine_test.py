"""The coordinator under arbitrary histories: whatever happens in whatever order, each request gets its own tokens."""

from __future__ import annotations

from engine_simulation import MIXED_ROLES, SPLIT_ROLES, VOCABULARY, Simulation, build_config
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

prompts = st.one_of(
    st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=14),
    st.integers(1, 14).map(lambda length: ([1, 2, 3, 4, 5, 6] * 3)[:length]),  # share prefixes
)


class CoordinatorMachine(RuleBasedStateMachine):
    """Submits, aborts, steps in any order across lanes, swaps, losses with steps still executing, exits."""

    roles = SPLIT_ROLES

    @initialize(
        num_blocks=st.integers(7, 16),
        block_tokens=st.integers(1, 4),
        budget=st.integers(1, 12),
        run_ahead=st.integers(1, 3),
        max_rows=st.integers(1, 4),
        num_slots=st.integers(1, 6),
        policy=st.sampled_from(["SPF", "FCFS"]),
        prefix_cache=st.booleans(),
    )
    def start(self, num_blocks, block_tokens, budget, run_ahead, max_rows, num_slots, policy, prefix_cache):
        self.simulation = Simulation(
            build_config(
                roles=self.roles,
                num_blocks=num_blocks,
                block_tokens=block_tokens,
                max_context_tokens=24,
                prefill_budget_tokens=budget,
                mixed_budget_tokens=budget,
                run_ahead=run_ahead,
                max_rows=max_rows,
                num_slots=num_slots,
                prefill_policy=policy,
                prefix_cache=prefix_cache,
            )
        )
        self.num_requests = 0
        self.simulation.start_all_lanes()

    @rule(
        prompt=prompts,
        max_tokens=st.integers(1, 10),
        stops=st.booleans(),
        seed=st.integers(0, 2),
    )
    def submit(self, prompt, max_tokens, stops, seed):
        self.num_requests += 1
        self.simulation.submit(
            f"r{self.num_requests}", prompt, max_tokens, seed=seed, stop_token_ids=[3] if stops else []
        )

    @precondition(lambda self: self.simulation.open_ids)
    @rule(data=st.data())
    def abort(self, data):
        self.simulation.abort(data.draw(st.sampled_from(self.simulation.open_ids)))

    @rule()
    def front_end_gone(self):
        self.simulation.front_end_gone()

    @precondition(lambda self: any(lane.plans for lane in self.simulation.lanes.values()))
    @rule(data=st.data(), times=st.integers(1, 5))
    def step(self, data, times):
        for _ in range(times):
            busy = [lane.lane_id for lane in self.simulation.lanes.values() if lane.plans]
            if busy:
                self.simulation.step(data.draw(st.sampled_from(busy)))

    @rule(data=st.data())
    def start_lane(self, data):
        self.simulation.start_lane(data.draw(st.sampled_from(self.simulation.config.roles)))

    @precondition(lambda self: self.simulation.lanes)
    @rule(data=st.data(), keeps_old=st.booleans())
    def swap(self, data, keeps_old):
        self.simulation.swap(data.draw(st.sampled_from(sorted(self.simulation.lanes))), keeps_old=keeps_old)

    @precondition(lambda self: self.simulation.lanes)
    @rule(data=st.data())
    def disconnect(self, data):
        self.simulation.disconnect(data.draw(st.sampled_from(sorted(self.simulation.lanes))))

    @precondition(lambda self: any(lane.plans for lane in self.simulation.zombies.values()))
    @rule(data=st.data())
    def lost_lane_executes_on(self, data):
        busy = [lane.lane_id for lane in self.simulation.zombies.values() if lane.plans]
        self.simulation.execute(self.simulation.zombies[data.draw(st.sampled_from(busy))])

    @precondition(lambda self: self.simulation.zombies or self.simulation.lanes)
    @rule(data=st.data())
    def exit_lane(self, data):
        lanes = sorted(self.simulation.zombies) or sorted(self.simulation.lanes)
        self.simulation.exit_lane(data.draw(st.sampled_from(lanes)))

    def teardown(self):
        """With every exit confirmed and every role served, all requests end and nothing stays in use."""
        if not hasattr(self, "simulation"):
            return
        simulation = self.simulation
        for lane_id in list(simulation.zombies):
            simulation.exit_lane(lane_id)
        simulation.start_all_lanes()
        simulation.run()
        assert not simulation.open_ids, f"never finished: {simulation.open_ids}"
        report = simulation.coordinator.report(simulation.now_ns)
        assert (report.waiting, report.prefilling, report.decoding) == (0, 0, 0)
        assert report.kv_blocks_used == 0
        assert all(failed.status in {400, 500} for failed in simulation.failed.values())


class MixedMachine(CoordinatorMachine):
    roles = MIXED_ROLES


bounds = settings(
    max_examples=100,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
CoordinatorMachine.TestCase.settings = bounds
MixedMachine.TestCase.settings = bounds


class TestSplitLanes(CoordinatorMachine.TestCase):
    pass


class TestMixedLane(MixedMachine.TestCase):
    pass
