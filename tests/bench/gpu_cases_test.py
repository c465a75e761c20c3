"""Cases of a script on a GPU: each once until it is right, and a CUDA error never condemns those that come after it."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("triton", reason="triton is on Linux only")

import case_results
from case_results import TIME_IS_UP, run_cases

MACHINE = {"device": "a card"}


def fault():
    raise RuntimeError("an illegal memory access was encountered")


def call(out, **measures):
    """Its exit code, and the cases that it ran."""
    ran = []

    def of(name, measure):
        return lambda: (ran.append(name), measure())[1]

    code = run_cases(((name, of(name, each)) for name, each in measures.items()), out, MACHINE, float("inf"))
    return code, ran


def right():
    return {"right": True}


def wrong():
    return {"right": False}


def test_after_a_cuda_error_another_process_goes_on_and_the_case_that_failed_comes_last(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(case_results, "has_faulted", lambda error: "illegal" in str(error))
    out = tmp_path / "cases.jsonl"
    cases = {"a": right, "b": fault, "c": right, "d": wrong}
    assert call(out, **cases) == (TIME_IS_UP, ["a", "b"])
    assert call(out, **cases) == (1, ["c", "d", "b"]), "nothing is left that never ran"
    assert call(out, **cases | {"b": right}) == (1, ["b", "d"])
    assert call(out, **cases | {"d": right}) == (0, ["d"])
    first = [json.loads(line) for line in out.read_text().splitlines()][1]
    assert "illegal memory access" in first["failed"]


def test_an_error_that_is_not_of_cuda_ends_nothing_and_what_is_skipped_is_no_result(tmp_path):
    out = tmp_path / "cases.jsonl"
    cases = {"a": fault, "b": lambda: {"skipped": "not here"}, "c": right}
    assert call(out, **cases) == (1, ["a", "b", "c"])
    assert [json.loads(line)["case"] for line in out.read_text().splitlines()] == ["a", "c"]


def test_another_machine_runs_every_case_again(tmp_path):
    out = tmp_path / "cases.jsonl"
    out.write_text(json.dumps({"device": "another", "case": "a", "right": True}) + '\n{"device": "a ca')
    assert call(out, a=right) == (0, ["a"])


def test_no_case_is_begun_when_the_time_is_up(tmp_path):
    assert run_cases([("a", fault)], tmp_path / "cases.jsonl", MACHINE, 0.0) == TIME_IS_UP
