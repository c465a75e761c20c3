"""What a script has found out on a GPU is kept: what fails, hangs or finds no time afterwards costs no other answer."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import memory
import probe
import pytest


def python(script):
    return [sys.executable, "-c", script]


def test_a_size_that_fails_says_so_and_ends_no_other():
    def at(want):
        if want == 16:
            raise RuntimeError("CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION")
        return [{"sms": want}]

    assert probe.each_size([8, 16, None], at) == [
        {"sms": 8},
        {"want": 16, "error": "RuntimeError('CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION')"},
        {"sms": None},
    ]


def test_an_experiment_that_was_cut_short_of_its_limit_has_no_result():
    endless = python("import time; time.sleep(600)")
    assert probe.run_experiment(endless, 0.0, 60) is None
    assert probe.run_experiment(endless, 0.0, 0.0)["error"] == "no result"


def test_an_experiment_says_its_result_or_why_there_is_none():
    assert probe.run_experiment(python("print('log'); print('RESULT [1]')"), 60, 60) == [1]
    assert "no driver" in probe.run_experiment(python("raise SystemExit('no driver')"), 60, 60)["tail"]


class Killed(BaseException):
    """Stands in for what ends a process between two answers."""


def killed(*_):
    raise Killed


def test_an_answer_about_green_contexts_is_written_before_the_next_question(tmp_path):
    green = pytest.importorskip("green", reason="triton is on Linux only")
    out = tmp_path / "green.jsonl"

    def fails(_):
        raise RuntimeError("no such resource")

    questions = [("make", lambda _: {"right": True}), ("order", fails), ("change", killed)]
    with pytest.raises(Killed):
        green.write_all(out, {"gpu": "a card"}, questions, None)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["question"], line["right"]) for line in lines] == [("make", True), ("order", False)]
    assert not green.write_all(out, {}, questions[:2], None)


def test_an_answer_about_memory_is_written_before_the_next_case_and_an_earlier_call_is_kept(
    tmp_path, monkeypatch
):
    def cases(_):
        yield "probe VMM", {"right": True}
        yield "seen", {"right": out.read_text().count("probe VMM") == 2}

    out = tmp_path / "memory.jsonl"
    out.write_text('{"case": "probe VMM"}\n')
    driver = SimpleNamespace(
        init=lambda: None, retain_context=lambda _: None, name=lambda _: "a card", version=lambda: 13000
    )
    monkeypatch.setattr(memory, "Libcuda", lambda: driver)
    monkeypatch.setattr(memory, "cases", cases)
    monkeypatch.setattr(sys, "argv", ["memory.py", "--out", str(out)])
    assert memory.main() == 0
