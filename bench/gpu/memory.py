"""Ask a GPU how its memory can be shared between processes: each transport, with MPS and without, one JSON line per case.

    PYTHONPATH=engine:core python bench/gpu/memory.py --out out/gpu/memory.jsonl

Needs torch, cuda-bindings, msgspec and structlog; the cases of MPS need nvidia-cuda-mps-control. Takes about a minute.
Exit codes: 0 every case is as docs/design/0005-cuda.md has it, 1 one is not, 2 no GPU. A case that is not is an answer too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from semipd_core.errors import SemipdError
from semipd_engine.cuda.driver import CudaError
from semipd_engine.cuda.imported import import_ipc, import_vmm
from semipd_engine.cuda.libcuda import Libcuda
from semipd_engine.cuda.owned import allocate
from semipd_engine.cuda.probing import Prober
from semipd_engine.memory.manifest import Transport

NUM_BYTES = 64 << 20
BYTE = 7
DAEMON_WITHIN_S = 20.0
NO_MPS = "/nonexistent"


def main() -> int:
    if sys.argv[1:2] == ["lane"]:
        return lane(json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines")
    out = parser.parse_args().out
    driver = Libcuda()
    try:
        driver.init()
        driver.retain_context(0)
    except CudaError as error:
        print(f"needs an NVIDIA GPU: {error}", file=sys.stderr)
        return 2
    out.parent.mkdir(parents=True, exist_ok=True)
    is_as_said = True
    with out.open("a", encoding="utf-8") as file:
        for case, result in cases(driver):
            line = json.dumps(
                {"case": case, "gpu": driver.name(0), "driver_cuda": driver.version(), **result}
            )
            print(line, flush=True)
            file.write(line + "\n")
            file.flush()
            is_as_said = is_as_said and result["right"]
    return 0 if is_as_said else 1


def cases(driver: Libcuda) -> Iterator[tuple[str, dict[str, Any]]]:
    plain = {**os.environ, "CUDA_MPS_PIPE_DIRECTORY": NO_MPS}
    for transport in (Transport.VMM, Transport.IPC):
        yield f"probe {transport}", probe(driver, transport, plain, wants_mps=False)
        yield f"tensor {transport}", share(driver, transport, plain, "read")
    yield "write to read-only memory", share(driver, Transport.VMM, plain, "write")
    try:
        with mps_daemon() as environment:
            for transport in (Transport.VMM, Transport.IPC):
                yield f"probe {transport} under MPS", probe(driver, transport, environment, wants_mps=True)
                yield f"tensor {transport} under MPS", share(driver, transport, environment, "read")
    except OSError as error:
        yield "MPS", {"right": False, "error": str(error)}
    yield "memory without a context", share(driver, Transport.VMM, plain, "read", keeps_context=False)


def probe(
    driver: Libcuda, transport: Transport, environment: Mapping[str, str], *, wants_mps: bool
) -> dict[str, Any]:
    """What the memory server would find."""
    started_s = time.monotonic()
    prober = Prober(
        driver=driver,
        device_index=0,
        gpu=driver.uuid(0),
        command=(sys.executable, "-m", "semipd_engine.cuda.probe"),
        environment=environment,
        wants_mps=wants_mps,
    )
    attempt = prober.attempt(transport)
    return {
        "right": attempt.error is None and attempt.is_mps_client is wants_mps,
        "error": attempt.error,
        "is_mps_client": attempt.is_mps_client,
        "seconds": round(time.monotonic() - started_s, 2),
    }


def share(
    driver: Libcuda,
    transport: Transport,
    environment: Mapping[str, str],
    action: str,
    *,
    keeps_context: bool = True,
) -> dict[str, Any]:
    """Another process wraps the memory as a tensor and does `action`. Without a context the driver is of no more use here."""
    try:
        with closing(allocate(transport, driver, 0, NUM_BYTES)) as memory:
            driver.fill(memory.address, BYTE, memory.num_bytes)
            offer = memory.offer()
            memory.unmap()
            if not keeps_context:
                driver.release_context(0)
            order = {
                "action": action,
                "num_bytes": memory.num_bytes,
                "fd": offer.fd,
                "handle": offer.ipc_handle.hex(),
                "gpu": driver.uuid(0),
            }
            done = subprocess.run(
                [sys.executable, __file__, "lane", json.dumps(order)],
                env=dict(environment),
                pass_fds=[] if offer.fd is None else [offer.fd],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
    except (SemipdError, OSError, subprocess.TimeoutExpired) as error:
        return {"right": False, "error": str(error)}
    expected = "refused" if action == "write" else "seen"
    said = done.stdout.strip()
    return {
        "right": said == expected,
        "said": said,
        "error": done.stderr[-400:] if said != expected else None,
    }


def lane(order: dict[str, Any]) -> int:
    """As a lane maps weights: read-only where that is possible."""
    import torch  # noqa: PLC0415

    from semipd_engine.cuda.arenas import wrap_device_memory  # noqa: PLC0415
    from semipd_engine.cuda.devices import find_device  # noqa: PLC0415

    driver = Libcuda()
    driver.init()
    index = find_device(driver, order["gpu"])
    torch.cuda.set_device(index)
    driver.retain_context(index)
    with ExitStack() as undo:
        if order["fd"] is None:
            address = import_ipc(driver, undo, bytes.fromhex(order["handle"]))
        else:
            address = import_vmm(driver, undo, order["fd"], order["num_bytes"], index, writable=False)
        tensor = wrap_device_memory(address, order["num_bytes"], index)
        if order["action"] == "read":
            print("seen" if bool((tensor == BYTE).all()) else "other bytes", flush=True)
            return 0
        try:
            tensor.fill_(1)
            torch.cuda.synchronize()
        except (
            RuntimeError
        ):  # torch.AcceleratorError: the context is lost, and with it the rest of this process
            print("refused", flush=True)
            os._exit(0)
        print("written", flush=True)
    return 0


@contextmanager
def mps_daemon() -> Iterator[dict[str, str]]:
    """The environment of a client. Raises: OSError without a daemon that answers."""
    command = shutil.which("nvidia-cuda-mps-control")
    if command is None:
        raise OSError("no nvidia-cuda-mps-control on this machine")
    with tempfile.TemporaryDirectory(prefix="mps-") as directory:
        environment = {
            **os.environ,
            "CUDA_MPS_PIPE_DIRECTORY": f"{directory}/pipe",
            "CUDA_MPS_LOG_DIRECTORY": f"{directory}/log",
        }
        for name in ("pipe", "log"):
            os.mkdir(f"{directory}/{name}")
        with subprocess.Popen([command, "-f"], env=environment, stdout=subprocess.DEVNULL) as daemon:
            try:
                _await_control(Path(directory, "pipe", "control"), daemon)
                yield environment
            finally:
                subprocess.run(
                    [command], input="quit -t 5\n", text=True, env=environment, timeout=30, check=False
                )
                daemon.terminate()


def _await_control(socket: Path, daemon: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + DAEMON_WITHIN_S
    while not socket.exists():
        if daemon.poll() is not None or time.monotonic() > deadline_s:
            raise OSError(f"nvidia-cuda-mps-control does not listen (exit code {daemon.poll()})")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
