"""`semipd profile` measures an engine's lanes and goes on where it stopped; `semipd up` refuses what is about something else."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import yaml
from measured_law import Law, profile_of
from tiny_llama import write_tiny_llama

from semipd_agent.device.facts import DeviceUnit, Inventory
from semipd_agent.mps.preflight import GpuSharing
from semipd_agent.mps.processes import MpsProcesses
from semipd_agent.run_directory import RunDirectory
from semipd_cli import pod, profile, profile_subject, profiled_engine, profiled_mps
from semipd_cli.__main__ import main
from semipd_cli.profile_subject import find_profile, subject_of
from semipd_cli.profiled_engine import refuse_shareless
from semipd_cli.profiled_lanes import why_ended
from semipd_cli.service_config import build_agent_config
from semipd_cli.service_file import read_service
from semipd_cli.settings import read_settings
from semipd_core.api.fields import Device
from semipd_core.errors import DeviceError, InvalidSpec
from semipd_core.partition import Isolation, Role
from semipd_core.profile.format import decode_profile, difference
from semipd_engine.model import sources
from semipd_engine.profiling.lane_link import LaneLost
from semipd_engine.profiling.measuring import extended


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model"))


def write_service(path: Path, model: Path, isolation: str = "Auto") -> Path:
    service = {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDService",
        "metadata": {"name": "tiny"},
        "spec": {
            "model": {"uri": f"file://{model}", "dtype": "FP32"},
            "replicas": 1,
            "slo": {
                "ttft": {"percentile": 90, "targetMilliseconds": 2000},
                "tpot": {"percentile": 90, "targetMilliseconds": 250},
            },
            "partition": {"isolation": isolation},
        },
    }
    path.write_text(yaml.safe_dump(service))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["MPS", "GreenContext"])
def test_real_lanes_are_measured_at_their_shares_and_no_point_twice(isolation, model, tmp_path, monkeypatch):
    file, out = write_service(tmp_path / "service.yaml", model, isolation), tmp_path / "profile.json"
    command = [
        "profile",
        "-f",
        str(file),
        "--out",
        str(out),
        "--point-seconds",
        "0.05",
        "--budget-seconds",
        "3600",
    ]
    handler = signal.getsignal(signal.SIGTERM)
    whole = profile.plan_measurements
    chosen = [0, 1, 8, 12]  # decode, prefill, decode beside prefill, decode at 25 %
    try:
        for count in (2, 4):
            monkeypatch.setattr(
                profile, "plan_measurements", lambda limits, n=count: [whole(limits)[i] for i in chosen[:n]]
            )
            assert main(command) in (0, 1)  # 1: too few points for a fit
            found = decode_profile(out.read_bytes(), "--out", str(out))
            assert len(found.points) == count
            if count == 2:
                first = found
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert found.points[:2] == first.points
    decode, prefill, beside, quarter = found.points
    assert [point.setting.load.role for point in (decode, prefill)] == [Role.DECODE, Role.PREFILL]
    assert decode.contended_permille == 0
    assert beside.contended_permille > 0
    assert quarter.wall_us >= quarter.compute_us
    assert quarter.setting.caps.decode_percent == 25
    assert found.subject.model["numLayers"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["--budget-seconds", "1"], "--budget-seconds: got '1', allowed: seconds 5..3600", id="budget"
        ),
        pytest.param(
            ["--out", "/nowhere/p.json"], "--out: got '/nowhere/p.json', allowed: a file in", id="folder"
        ),
    ],
)
def test_a_wrong_argument_is_refused_before_a_model_is_loaded(arguments, message, model, tmp_path, capsys):
    file = write_service(tmp_path / "service.yaml", model)
    assert main(["profile", "-f", str(file), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_half_file_of_something_else_is_refused_and_left_alone(model, tmp_path, capsys):
    file, out = write_service(tmp_path / "service.yaml", model), tmp_path / "profile.json"
    out.write_text('{"version": 1, "subj')
    assert main(["profile", "-f", str(file), "--out", str(out)]) == 2
    assert "allowed: a profile of version 1, as `semipd profile` writes it" in capsys.readouterr().err
    assert out.read_text() == '{"version": 1, "subj'


def test_isolation_without_shares_has_no_profile(model, tmp_path, capsys):
    file = write_service(tmp_path / "service.yaml", model, "Unified")
    assert main(["profile", "-f", str(file), "--out", str(tmp_path / "p.json")]) == 2
    assert (
        "spec.partition.isolation: got 'Unified', allowed: Auto, MPS or GreenContext"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("device", "isolation", "refusal"),
    [
        pytest.param("CUDA", Isolation.MPS, None, id="MPS on a GPU"),
        pytest.param("CPU", Isolation.GREEN_CONTEXT, None, id="what stands in for green contexts on a CPU"),
        pytest.param(
            "CUDA",
            Isolation.GREEN_CONTEXT,
            "got 'GreenContext on CUDA', allowed: MPS, for a profile",
            id="green contexts",
        ),
        pytest.param(
            "CUDA", Isolation.NONE, "got 'None', allowed: Auto or MPS, for a profile", id="none on a GPU"
        ),
    ],
)
def test_only_shares_that_a_lane_of_its_own_can_have_are_measured(device, isolation, refusal, here):
    config, _ = here
    partition = msgspec.structs.replace(config.partition, isolation=isolation)
    asked = msgspec.structs.replace(config, device=device, partition=partition)
    with contextlib.nullcontext() if refusal is None else pytest.raises(InvalidSpec, match=refusal):
        refuse_shareless(asked)


@pytest.mark.parametrize(
    ("present", "gpus"),
    [
        pytest.param(["GPU-a", "GPU-b", "GPU-c"], ["GPU-a", "GPU-b"], id="more than enough"),
        pytest.param(["GPU-a"], None, id="too few"),
    ],
)
def test_each_rank_of_a_measured_lane_has_a_gpu(present, gpus, here, tmp_path, monkeypatch):
    units = [
        DeviceUnit(uuid=uuid, name="H200", num_cores=132, memory_bytes=1, percent_step=7, healthy=True)
        for uuid in present
    ]
    device = SimpleNamespace(inventory=lambda: Inventory(kind="CUDA", units=units))
    monkeypatch.setattr(profiled_engine, "open_device", lambda _kind: device)
    config = msgspec.structs.replace(here[0], device="CUDA", num_ranks=2, engines=3)
    if gpus is None:
        with pytest.raises(InvalidSpec, match="gpusPerEngine"):
            profiled_engine.write_engine(config, RunDirectory(tmp_path))
        return
    engine = profiled_engine.write_engine(config, RunDirectory(tmp_path))
    assert [engine.gpu_of(rank) for rank in range(2)] == gpus


def test_a_lane_that_ended_says_why_by_its_log_or_by_the_error_that_it_left(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.logs.mkdir()
    directory.engine("engine-0").mkdir()
    directory.log("decode-1").write_text("".join(f"line {number}\n" for number in range(9)))
    assert str(why_ended(directory, "decode-1")) == "\n".join(
        ["decode-1 has ended", *(f"line {number}" for number in range(4, 9))]
    )
    assert isinstance(why_ended(directory, "decode-2"), LaneLost)
    error = {"path": "spec.model.dtype", "given": "FP8", "allowed": "BF16 on this GPU"}
    (directory.engine("engine-0") / "error.json").write_bytes(msgspec.json.encode(error))
    assert isinstance(why_ended(directory, "decode-1"), InvalidSpec)


@pytest.mark.parametrize(
    ("mode", "clients", "foreign", "words"),
    [
        pytest.param(
            "EXCLUSIVE_PROCESS", (), (), "compute mode: got EXCLUSIVE_PROCESS", id="one process only"
        ),
        pytest.param("DEFAULT", (7,), (), "its clients are PID 7", id="shared by another container"),
        pytest.param("DEFAULT", (), (8,), "of another pipe directory lives: PID 8", id="a foreign server"),
    ],
)
def test_gpus_that_may_not_be_shared_get_no_mps_daemon(
    mode, clients, foreign, words, here, tmp_path, monkeypatch
):
    sharing = [GpuSharing(uuid="GPU-a", compute_mode=mode, mps_pids=clients)]
    monkeypatch.setattr(profiled_mps, "open_device", lambda _kind: SimpleNamespace(sharing=lambda: sharing))
    found = MpsProcesses(daemons=(), servers=(), foreign_server_pids=foreign)
    monkeypatch.setattr(profiled_mps.processes, "find", lambda _pipes: found)
    started = tmp_path / "started"
    config = msgspec.structs.replace(here[0], device="CUDA")
    daemon = profiled_mps.mps_daemon(config, RunDirectory(tmp_path / "run"), ["touch", str(started)])
    with pytest.raises(DeviceError, match=words), daemon:
        pass
    assert not started.exists()


# --- reading it ------------------------------------------------------------------------------------------------


@pytest.fixture
def here(model, tmp_path):
    """A profile of this machine and model, by a law; and the config of the service."""
    service = read_service(str(write_service(tmp_path / "service.yaml", model)))
    config = build_agent_config(service, read_settings(), present=Device.CPU, host="127.0.0.1", port=8000)
    subject = subject_of(config, sources.open_source(config.model_uri).read_config("FP32", None))
    full = profile_of(Law(), subject=subject)
    return config, extended(msgspec.structs.replace(full, points=full.points[:-1]), full.points[-1])


def test_a_profile_of_this_device_and_model_is_what_the_loops_start_from(here, tmp_path):
    config, written = here
    (tmp_path / "p.json").write_bytes(msgspec.json.encode(written))
    assert profile_subject.read_profile(str(tmp_path / "p.json"), config) == written


@pytest.mark.parametrize(
    ("changed", "dtype", "ranks"),
    [
        pytest.param({}, "FP32", 1, id="one rank, weights as they are computed with"),
        pytest.param({"dtype": "FP8"}, "FP8", 1, id="weights in FP8"),
        pytest.param({"num_ranks": 2}, "FP32", 2, id="two ranks"),
    ],
)
def test_a_profile_is_of_a_type_of_weights_and_of_a_number_of_ranks(changed, dtype, ranks, here):
    config, written = here
    model = sources.open_source(config.model_uri).read_config("FP32", None)
    subject = subject_of(msgspec.structs.replace(config, **changed), model)
    assert (subject.dtype, subject.ranks) == (dtype, ranks)
    assert (difference(written.subject, subject) is None) is (changed == {})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param(
            {"device_name": "NVIDIA H200"}, "it is of deviceName 'NVIDIA H200', here", id="another device"
        ),
        pytest.param({"ranks": 2}, "it is of ranks 2, here 1", id="more ranks"),
        pytest.param({"dtype": "BF16"}, "it is of dtype 'BF16', here 'FP32'", id="another dtype"),
        pytest.param({"model": {"numLayers": 32}}, "model.numLayers 32, here 2", id="another model"),
    ],
)
def test_up_refuses_a_profile_of_something_else_by_name(here, tmp_path, capsys, changed, message):
    _, written = here
    other = msgspec.structs.replace(written, subject=msgspec.structs.replace(written.subject, **changed))
    path = tmp_path / "p.json"
    path.write_bytes(msgspec.json.encode(other))
    assert main(["up", "-f", str(tmp_path / "service.yaml"), "--profile", str(path)]) == 2
    refusal = capsys.readouterr().err
    assert f"--profile: got '{path}', allowed: a profile of this device and model" in refusal
    assert message in refusal


def test_a_pod_takes_the_profile_of_its_device_from_the_folder_of_the_model(here, model, tmp_path):
    config, written = here
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    config = msgspec.structs.replace(config, model_uri=f"file://{folder}")
    said: list[str] = []
    assert find_profile(config, said.append) is None
    other = msgspec.structs.replace(written.subject, device_name="NVIDIA H200")
    for name, subject in (("a", other), ("b", written.subject)):
        profile_of_it = msgspec.structs.replace(written, subject=subject)
        (folder / f"semipd-profile-{name}.json").write_bytes(msgspec.json.encode(profile_of_it))
    assert find_profile(config, said.append) == written
    assert [f"it is of deviceName {other.device_name!r}" in line for line in said] == [True]
    assert (
        find_profile(msgspec.structs.replace(config, model_uri="builtin://smollm2-135m"), said.append) is None
    )


def test_a_pod_starts_from_what_it_finds(here, tmp_path, monkeypatch):
    _, written = here
    served = []
    monkeypatch.setattr(pod, "serve_config", lambda config, *_rest, **_more: served.append(config) or 0)
    monkeypatch.setattr(pod, "find_profile", lambda _config, _say: written)
    service = yaml.safe_load((tmp_path / "service.yaml").read_text())
    monkeypatch.setenv("SEMIPD_SERVICE", json.dumps(service))
    monkeypatch.setenv("POD_NAME", "tiny-1")
    monkeypatch.setenv("POD_NAMESPACE", "default")
    monkeypatch.setenv("SEMIPD_LOG_FILE", str(tmp_path / "log"))
    assert pod.run(SimpleNamespace(run_dir=str(tmp_path / "run"), port=8000, agent_port=8001)) == 0
    assert [config.profile for config in served] == [written]


def test_up_refuses_a_profile_without_enough_points(here, tmp_path, capsys):
    _, written = here
    path = tmp_path / "p.json"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(written, points=[], fits=None, planned=60)))
    assert main(["up", "-f", str(tmp_path / "service.yaml"), "--profile", str(path)]) == 2
    assert "a profile with enough points; it has 0 of 60" in capsys.readouterr().err
