"""Check green contexts on a GPU, one JSON line per question: what is granted, which SMs run what, order, graphs, costs.

    PYTHONPATH=engine:core python bench/gpu/green.py --out out/gpu/green.jsonl

Needs torch, triton, cuda-bindings and msgspec. Exit codes: 0 every answer is as the engine counts on, 1 one is not, 2 no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl

from semipd_core.partition import Band, Role
from semipd_engine.cuda.green import GreenContexts
from semipd_engine.cuda.green_driver import LibcudaGreen
from semipd_engine.cuda_model.graphs import CudaStepGraphs
from semipd_engine.lane.split_streams import SplitStreams

ANY = Band(prefill_min_percent=1, prefill_max_percent=100, decode_min_percent=1, decode_max_percent=100)
MAX_SMS = 1024
PROGRAMS = 8192
Answer = dict[str, Any]


@triton.jit
def note_sm(seen, rounds):  # noqa: ANN001, ANN201  Triton's language has no types
    """Marks the SM that it runs on, and stays there for a while so that others go elsewhere."""
    sm = tl.inline_asm_elementwise("mov.u32 $0, %smid;", "=r", [], dtype=tl.int32, is_pure=False, pack=1)
    for _round in range(rounds):
        tl.atomic_add(seen + sm, 1)


def run_on(stream: Any, launch: Callable[[], object]) -> None:
    with torch.cuda.stream(stream):
        launch()


def sms_of(launch: Callable[[torch.Tensor], object]) -> set[int]:
    """The SMs that what `launch` starts runs on."""
    seen = torch.zeros(MAX_SMS, dtype=torch.int32, device="cuda")
    torch.cuda.synchronize()
    launch(seen)
    torch.cuda.synchronize()
    return set(seen.nonzero().flatten().tolist())


def ask_confinement(green: GreenContexts) -> Answer:
    """Every pair: as many SMs as granted at most, and none of them in common."""
    rows = []
    for pair in green.pairs:
        found = [
            sms_of(
                lambda seen, handle=handle: run_on(
                    torch.cuda.ExternalStream(handle), lambda: note_sm[(PROGRAMS,)](seen, 64)
                )
            )
            for handle in (pair.prefill_stream, pair.decode_stream)
        ]
        granted = (pair.split.prefill_sms, pair.split.decode_sms)
        is_kept = not found[0] & found[1] and all(
            0 < len(sms) <= most for sms, most in zip(found, granted, strict=True)
        )
        rows.append({"granted": granted, "used": [len(sms) for sms in found], "right": is_kept})
    return {"right": all(row["right"] for row in rows), "pairs": rows}


def ask_graphs(green: GreenContexts) -> Answer:
    """A graph keeps the SMs of its capture, launched on whatever stream."""
    streams = SplitStreams.of(green.pairs, Role.DECODE)
    least, most = green.pairs[-1], green.pairs[0]
    seen = torch.zeros(MAX_SMS, dtype=torch.int32, device="cuda")
    graphs = CudaStepGraphs(streams.by_split[least.split])
    graphs.capture(1, lambda: note_sm[(PROGRAMS,)](seen, 64))
    torch.cuda.synchronize()
    used = []
    for split in (least.split, most.split):
        seen.zero_()
        torch.cuda.synchronize()
        run_on(streams.by_split[split], lambda: graphs.replay(1))
        torch.cuda.synchronize()
        used.append(int((seen > 0).sum()))
    return {"right": max(used) <= least.split.decode_sms, "captured_on": least.split.decode_sms, "used": used}


def ask_order(green: GreenContexts) -> Answer:
    """What is launched after a change of split sees what was launched before it, however long that takes."""
    streams = SplitStreams.of(green.pairs, Role.PREFILL)
    number = torch.zeros(1, dtype=torch.int64, device="cuda")
    work = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    for turn in range(200):
        streams.select(green.pairs[turn % len(green.pairs)].split)
        with torch.cuda.stream(streams.current):
            for _ in range(3):
                torch.mm(work, work)
            number.mul_(3).add_(turn)
    torch.cuda.synchronize()
    expected = 0
    for turn in range(200):
        expected = (expected * 3 + turn) % 2**64
    return {"right": number.item() % 2**64 == expected, "mark_is_done": streams.mark().is_done()}


def ask_change(green: GreenContexts) -> Answer:
    """Host time of a change of split."""
    streams = SplitStreams.of(green.pairs, Role.DECODE)
    begin = time.perf_counter()
    for turn in range(1000):
        streams.select(green.pairs[turn % len(green.pairs)].split)
    return {"right": True, "microseconds": round((time.perf_counter() - begin) * 1000, 2)}


Question = tuple[str, Callable[[GreenContexts], Answer]]
QUESTIONS: tuple[Question, ...] = (
    ("confinement", ask_confinement),
    ("graphs", ask_graphs),
    ("order", ask_order),
    ("change", ask_change),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines")
    out: Path = parser.parse_args().out
    if not torch.cuda.is_available():
        print("needs an NVIDIA GPU: torch.cuda.is_available() is False", file=sys.stderr)
        return 2
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.zeros(1, device="cuda")
    free_bytes, begin = torch.cuda.mem_get_info()[0], time.perf_counter()
    machine = {"gpu": torch.cuda.get_device_name(0), "torch": torch.__version__, "triton": triton.__version__}
    with GreenContexts(LibcudaGreen(), 0, ANY) as green:
        made = {
            "right": len(green.pairs) > 1,
            "splits": [str(pair.split) for pair in green.pairs],
            "work_queues": green.has_work_queues,
            "seconds": round(time.perf_counter() - begin, 3),
            "bytes": free_bytes - torch.cuda.mem_get_info()[0],
        }
        is_right = write_all(out, machine, [("make", lambda _: made), *QUESTIONS], green)
        torch.cuda.synchronize()
    return 0 if is_right else 1


def write_all(out: Path, machine: Answer, questions: Sequence[Question], green: GreenContexts) -> bool:
    """Each answer as soon as it is there: a question that hangs or kills the process costs no other. Whether all are right."""
    is_right = True
    with out.open("a", encoding="utf-8") as file:
        for name, question in questions:
            line = {"question": name, **answer(question, green)}
            file.write(json.dumps({**machine, **line}) + "\n")
            file.flush()
            print(line, flush=True)
            is_right = is_right and line["right"]
    return is_right


def answer(question: Callable[[GreenContexts], Answer], green: GreenContexts) -> Answer:
    try:
        return question(green)
    except Exception as error:  # an answer too
        return {"right": False, "error": repr(error), "trace": traceback.format_exc()[-1000:]}


if __name__ == "__main__":
    sys.exit(main())
