"""What each fault does and asks for: the tables of `docs/gpu-faults.md`, which are made from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from semipd_agent.device.xid import ECHO_S, KNOWN_XIDS, ReactionKind, decide
from semipd_agent.faults import FaultReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`state`: what the agent does meanwhile. `log`: how its line begins, or the words in it. `remedy`: what a person does."""

    when: str
    state: str
    log: str
    remedy: str


AT_START = "At the start under Auto: no fault, another isolation"

FAULTS: Mapping[FaultReason, Row] = MappingProxyType(
    {
        FaultReason.GPU_LOST: Row(
            when="Xid 79, NVML says that the GPU is lost, or three looks in a row do not find it",
            state="not ready; lanes, coordinator and memory server end, nothing starts; the front end keeps what it holds "
            "until it gives up. When the GPU answers again (after Xid 79: for 30 s) everything starts anew",
            log="`gpu state` Lost",
            remedy="move the work (delete the pod, cordon the node); reset or reboot; look at power and PCIe",
        ),
        FaultReason.NO_DRIVER: Row(
            when="NVML does not start: no driver, or one that does not fit its library after an update; or it lists no GPU",
            state="what runs goes on; nothing starts, no split moves",
            log="`gpu state` NoDriver",
            remedy="install or reload the driver; after an update of a running node: drain and reboot it",
        ),
        FaultReason.GPU_NEEDS_RESET: Row(
            when="Xid 46, 48, 62, 64, 95, 119 or 120, a row that could not be remapped, or the driver asks for it",
            state="not ready; open requests go on, nothing starts, no split moves, until the agent is replaced",
            log="`xid`, `gpu state` NeedsReset",
            remedy="cordon the node, delete the pod, `nvidia-smi --gpu-reset` or reboot; replace the card if it returns",
        ),
        FaultReason.GPU_UNHEALTHY: Row(
            when="an Xid that this release does not know",
            state="not ready; open requests go on, lost lanes are replaced, no split moves, until the agent is replaced",
            log="`xid`, `gpu state` Unhealthy",
            remedy="look the Xid up in NVIDIA's catalogue; delete the pod once the GPU is known to be well",
        ),
        FaultReason.UNSUPPORTED_GPU: Row(
            when="the memory server finds a compute capability that the kernels do not serve",
            state="the engine is Failed: everything of it has ended and is not restarted",
            log="`phase` Failed",
            remedy="let the service ask for another kind of GPU (`scheduling.nodeSelector`)",
        ),
        FaultReason.WRONG_CUDA: Row(
            when="the driver is older than the CUDA of the image",
            state="the engine is Failed",
            log="`phase` Failed",
            remedy="a newer driver on the node, or an image made for an older CUDA",
        ),
        FaultReason.TOO_LITTLE_MEMORY: Row(
            when="weights or the KV cache that is asked for do not fit; or lanes run out of memory",
            state="the engine is Failed; lanes are started again, with back-off, until every role has one",
            log="`phase` Failed; `lane exited`, and `out of GPU memory` in the lane's",
            remedy="the message has the bytes: a smaller `resources.kvCache` or model, or find who else holds memory",
        ),
        FaultReason.INVALID_INPUT: Row(
            when="a process of the engine refuses what it was told",
            state="the engine is Failed",
            log="`phase` Failed",
            remedy="the message has the field, what was given and what is allowed",
        ),
        FaultReason.NO_MPS_BINARY: Row(
            when="isolation MPS, and `nvidia-cuda-mps-control` or `-server` is not on PATH",
            state=f"no lane starts; looked for again. {AT_START}",
            log="`mps` Refused",
            remedy="NVIDIA_DRIVER_CAPABILITIES=compute,utility, or a driver with MPS; else isolation Auto or GreenContext",
        ),
        FaultReason.MPS_REFUSED: Row(
            when="another compute mode than DEFAULT, a foreign MPS server, or too long a path",
            state=f"no lane starts; looked at again. {AT_START}, but for the compute mode, in which no isolation can run",
            log="`mps` Refused",
            remedy="the message says which; switch the device plugin's MPS sharing off for this node",
        ),
        FaultReason.MPS_GIVEN_UP: Row(
            when="daemon or server ended five times in a row",
            state=f"no lane starts; tried again every 10 s. {AT_START}",
            log="`mps` GivenUp",
            remedy="the message has the daemon's own words; is there a driver, and the same UID everywhere?",
        ),
        FaultReason.MPS_FAULT: Row(
            when="a fault of one lane has hit all (server in FAULT)",
            state="every lane ends, the server recovers, lanes start again; requests run again",
            log="`mps` Fault",
            remedy="nothing, once; if it returns, look for Xids and report the lane's log",
        ),
        FaultReason.MPS_HUNG: Row(
            when="the control daemon has not answered for 30 s",
            state="every lane ends, the daemon is killed and started anew",
            log="`mps` Hung",
            remedy="nothing, once; if it returns, reboot the node",
        ),
        FaultReason.MPS_LOST: Row(
            when="the control daemon has ended while lanes live",
            state="every lane ends, leftover servers end, the daemon starts again",
            log="`mps` Absent",
            remedy="nothing, once",
        ),
        FaultReason.MPS_BYPASSED: Row(
            when="a lane runs without MPS",
            state="serves; the shares are not enforced",
            log="`mps` Bypassed",
            remedy="delete the pod; report it if it returns",
        ),
        FaultReason.GPU_DEGRADED: Row(
            when="uncorrected memory errors, a row that waits for its remapping, or NVML hangs",
            state="serves as before",
            log="`gpu state` Degraded",
            remedy="plan a reset of the GPU",
        ),
    }
)


REACTIONS: Mapping[ReactionKind, str] = MappingProxyType(
    {
        ReactionKind.RECORD: "counts and logs it",
        ReactionKind.RESTART_LANES: "replaces every lane of the pod, since under MPS a fault of one hits all; not within "
        f"{ECHO_S:.0f} s after lanes were ended by force: then it is an echo of that",
        ReactionKind.RESTART_ENGINE: "replaces memory server, coordinator and lanes: what they held may be damaged",
        ReactionKind.CORDON: f"`{FaultReason.GPU_UNHEALTHY}`",
        ReactionKind.RESET: f"`{FaultReason.GPU_NEEDS_RESET}`",
        ReactionKind.LOST: f"`{FaultReason.GPU_LOST}`",
    }
)


def xid_table() -> str:
    """A row per reaction, with the Xids that it answers."""
    xids_by_kind = {kind: [n for n in KNOWN_XIDS if decide(n).kind is kind] for kind in ReactionKind}
    rows = (
        f"| {', '.join(map(str, xids_by_kind[kind])) or 'any other'} | {text} |"
        for kind, text in REACTIONS.items()
    )
    return "| Xid | the agent |\n|---|---|\n" + "\n".join(rows) + "\n"


def markdown_table() -> str:
    """A row per fault, in the order of their gravity."""
    head = "| reason | when | the agent | its log | what to do |\n|---|---|---|---|---|\n"
    rows = (
        f"| `{reason}` | {row.when} | {row.state} | {row.log} | {row.remedy} |"
        for reason, row in FAULTS.items()
    )
    return head + "\n".join(rows) + "\n"
