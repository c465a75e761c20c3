"""`semipd simulate` tries splits by a profile: its step costs, its curves, and nothing of this machine."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
import yaml
from measured_law import LIMITS, SUBJECT, Law, profile_of

from semipd_bench.lanes_model import simulate
from semipd_bench.profiled_machine import ProfiledMachine
from semipd_bench.trace import Trace, TraceRequest
from semipd_cli.__main__ import main
from semipd_core.latency.share_curve import ShareCurve
from semipd_core.partition import Partition, Role
from semipd_core.profile.start import start_from

GPU = Law(
    curves={
        Role.PREFILL: ShareCurve(saturation_percent=60, slope_beyond=0.5),
        Role.DECODE: ShareCurve(saturation_percent=30, slope_beyond=0.1, bandwidth_slowdown=0.2),
    },
    takes_turns=False,
)  # fmt: skip
SLO = {
    "ttft": {"percentile": 90, "targetMilliseconds": 300}, "tpot": {"percentile": 90, "targetMilliseconds": 12},
}  # fmt: skip


def machine(law: Law = GPU) -> ProfiledMachine:
    return ProfiledMachine(
        steps=start_from(profile_of(law)).steps, engines=1, chunk_tokens=LIMITS.chunk_tokens, max_rows=256,
        aging_tokens_per_s=0.0,
    )  # fmt: skip


def split(prefill: int, decode: int) -> Partition:
    return Partition(prefill_percent=prefill, decode_percent=decode)


def one_request(prompt: int, output: int) -> Trace:
    request = TraceRequest(at_s=0.0, prompt_tokens=prompt, output_tokens=output)
    return Trace(name="t", requests=(request,), duration_s=1.0)


@pytest.mark.parametrize("share", [30, 60, 100])
def test_a_lone_request_takes_what_the_law_says_at_the_share_of_each_phase(share):
    (found,) = simulate(machine(), split(share, share), one_request(1000, 101))
    prefill_ms = (900 + 18 * 1000 + 0.0005 * 1000 * 1000) / 1000
    assert found.ttft_ms == pytest.approx(prefill_ms / GPU.curves[Role.PREFILL].lone_speed(share), rel=0.05)
    decode_ms = (4_500 + 15 + 0.03 * 1050) / 1000
    assert found.tpot_ms == pytest.approx(decode_ms / GPU.curves[Role.DECODE].lone_speed(share), rel=0.05)


@pytest.mark.parametrize("law", [GPU, Law()])
def test_two_busy_lanes_are_as_fast_as_the_curves_say_and_an_idle_one_does_nothing(law):
    speeds = machine(law).speeds(split(60, 40), prefill_busy=True, decode_busy=True)
    expected = (
        law.curves[Role.PREFILL].contended_speed(60, 40), law.curves[Role.DECODE].contended_speed(40, 60),
    )  # fmt: skip
    assert speeds == pytest.approx(expected, rel=0.1)
    assert machine(law).speeds(split(60, 40), prefill_busy=True, decode_busy=False)[1] == 0.0


def files(
    tmp_path, law: Law = GPU, device: str = "CUDA", requests: int = 60, isolation: str = "MPS", **profile
):
    service = {
        "apiVersion": "semipd.io/v1alpha1", "kind": "SemiPDService", "metadata": {"name": "tiny"},
        "spec": {
            "model": {"uri": f"file://{tmp_path}", "maxContextTokens": 8192}, "replicas": 1, "slo": SLO,
            "resources": {"device": device}, "partition": {"isolation": isolation},
        },
    }  # fmt: skip
    (tmp_path / "service.yaml").write_text(yaml.safe_dump(service))
    subject = msgspec.structs.replace(SUBJECT, device_kind=device, device_name="some card")
    (tmp_path / "profile.json").write_bytes(msgspec.json.encode(profile_of(law, subject=subject, **profile)))
    lines = [f"2023-11-16 18:17:{number * 0.5:09.6f},1000,80" for number in range(requests)]
    (tmp_path / "trace.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]) + "\n")
    return [
        "simulate", "-f", str(tmp_path / "service.yaml"), "--profile", str(tmp_path / "profile.json"),
        "--trace", str(tmp_path / "trace.csv"),
    ]  # fmt: skip


def test_the_command_tells_each_split_and_the_best(tmp_path, capsys):
    assert main(files(tmp_path)) == 0
    told = capsys.readouterr().out
    assert "some card: 60 requests of trace.csv, simulated" in told
    assert told.count("best") == 1
    assert told.count("initial") == 1
    assert "100.0 %" in told


def test_where_no_split_attains_the_slo_the_exit_code_says_so(tmp_path):
    slow = replace(GPU, decode_us=(45_000.0, 15.0, 0.03))
    assert main(files(tmp_path, slow)) == 1


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        pytest.param({"points": []}, "a profile with enough points for a fit", id="no points"),
        pytest.param({"version": 9}, "version 9", id="of another version"),
    ],
)
def test_a_profile_that_says_nothing_is_refused(profile, words, tmp_path, capsys):
    assert main(files(tmp_path, **profile)) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["profile.json", "trace.csv"])
def test_a_file_that_is_not_there_is_named_with_its_flag(name, tmp_path, capsys):
    arguments = files(tmp_path)
    (tmp_path / name).unlink()
    assert main(arguments) == 2
    assert f"--{name.split('.')[0]}: got " in capsys.readouterr().err


def test_a_service_with_one_lane_is_refused_rather_than_answered_for_two(tmp_path, capsys):
    assert main(files(tmp_path, isolation="Unified")) == 2
    assert "spec.partition.isolation: got 'Unified', allowed: one with two lanes" in capsys.readouterr().err
