"""What a lane on a GPU runs before it is ready: the largest step of each kind that no graph's capture runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_engine import build_engine_config

from semipd_core.partition import Role
from semipd_engine.cuda_model.limits import LaneLimits, largest_steps, smaller_steps

MAX_ROWS, BUDGET, CONTEXT = 4, 24, 64
SMALLEST = [[(0, 1)], [(0, 1)]]  # one row without cuts of the distribution, one with


@pytest.mark.parametrize(
    ("role", "asks_host", "has_latents", "context_tokens", "expected"),
    [
        pytest.param(Role.PREFILL, False, False, CONTEXT, [[(0, 24)], *SMALLEST], id="prompts"),
        pytest.param(Role.MIXED, False, False, CONTEXT, [[(0, 24)], *SMALLEST], id="prompts and graphs"),
        pytest.param(Role.DECODE, False, True, CONTEXT, [], id="graphs alone"),
        pytest.param(
            Role.PREFILL, False, True, CONTEXT, [[(0, 24)], [(40, 24)], *SMALLEST], id="latents with a past"
        ),
        pytest.param(
            Role.PREFILL, False, True, 20, [[(0, 20)], *SMALLEST], id="a context below the budget has no past"
        ),
        pytest.param(
            Role.DECODE, True, True, CONTEXT, [[(0, 1)] * MAX_ROWS, *SMALLEST], id="rows without a graph"
        ),
        pytest.param(
            Role.MIXED,
            True,
            True,
            CONTEXT,
            [[(0, 24)], [(40, 24)], [(0, 1)] * MAX_ROWS, *SMALLEST],
            id="prompts, and rows without a graph",
        ),
    ],
)
def test_the_largest_step_of_each_kind_is_run_first(
    tmp_path: Path,
    role: Role,
    asks_host: bool,
    has_latents: bool,
    context_tokens: int,
    expected: list[list[tuple[int, int]]],
) -> None:
    config = build_engine_config(
        tmp_path, "", max_rows=MAX_ROWS, prefill_budget_tokens=BUDGET, mixed_budget_tokens=BUDGET
    )
    limits = LaneLimits.of_role(config, role, asks_host=asks_host)
    largest = largest_steps(limits, context_tokens, has_latents=has_latents)
    steps = [*largest, *smaller_steps(limits, context_tokens)]
    assert [[(row.start, row.num_tokens) for row in rows] for rows in steps] == expected
    assert all(len(rows) <= limits.max_rows for rows in steps)


def test_each_form_of_a_product_is_run_first(tmp_path: Path) -> None:
    config = build_engine_config(
        tmp_path, "", max_rows=MAX_ROWS, prefill_budget_tokens=BUDGET, mixed_budget_tokens=BUDGET
    )
    limits = LaneLimits.of_role(config, Role.PREFILL, asks_host=False)
    steps = smaller_steps(limits, CONTEXT, product_tokens=(16, BUDGET))
    assert [[(row.start, row.num_tokens) for row in rows] for rows in steps] == [
        [(0, 16)],
        *SMALLEST,
    ]
