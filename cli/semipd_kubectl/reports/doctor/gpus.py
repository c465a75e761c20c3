"""GPUs, as far as the API shows them, and what the MPS daemons of our agents need: whole GPUs, Volta or younger.

Labels are those of NVIDIA's GPU feature discovery: https://github.com/NVIDIA/k8s-device-plugin/tree/main/docs/gpu-feature-discovery.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from semipd_core.api.fields import Device
from semipd_kubectl.errors import ApiError
from semipd_kubectl.observe.objects import Fleet, ServiceView
from semipd_kubectl.reports.doctor.findings import Check, Findings, Object, failed, passed, unknown, warned

GPU = "nvidia.com/gpu"
STRATEGY = "nvidia.com/gpu.sharing-strategy"  # none | mps | time-slicing
REPLICAS = "nvidia.com/gpu.replicas"
MPS_CAPABLE = "nvidia.com/mps.capable"  # "true" where the device plugin shares by MPS itself
COMPUTE_MAJOR = "nvidia.com/gpu.compute.major"
VOLTA = 7
RUNTIME_CLASS = "nvidia"
OVER = ("Succeeded", "Failed")


def check_gpus(found: Findings) -> Check:
    """Nodes with GPUs, and what of them is free."""
    name = "GPUs"
    if isinstance(found.nodes, ApiError):
        return unknown(name, found.nodes)
    nodes = gpu_nodes(found.nodes)
    if not nodes:
        asking = _asking_for_gpus(found.fleet)
        remedy = "install NVIDIA's device plugin on GPU nodes, or choose `resources.device: CPU`"
        if asking:
            return failed(name, f"no node has {GPU} allocatable; {_some(asking)} need it", remedy)
        return warned(name, f"no node has {GPU} allocatable: only services on the CPU can run", remedy)
    total = sum(gpus(node) for node in nodes)
    said = f"{total} on {len(nodes)} nodes" if len(nodes) > 1 else f"{total} on {_name(nodes[0])}"
    if isinstance(found.pods, ApiError):
        return passed(name, f"{said}; what is free is not known: {found.pods}")
    free = {_name(node): gpus(node) - requested_on(_name(node), found.pods) for node in nodes}
    shown = ", ".join(f"{node} {count}" for node, count in sorted(free.items())[:8])
    message = f"{said}; free: {sum(free.values())} ({shown})"
    if sum(free.values()) > 0:
        return passed(name, message)
    return warned(name, message, "a new pod, a surge of a rollout too, waits until one is free")


def check_sharing(found: Findings) -> Iterator[Check]:
    if isinstance(found.nodes, ApiError):
        return
    nodes = gpu_nodes(found.nodes)
    if not nodes:
        return
    name = "GPUs for MPS"
    shared = [f"{_name(node)} ({how})" for node in nodes if (how := sharing_of(labels(node)))]
    old = [_name(node) for node in nodes if _is_older_than_volta(labels(node))]
    if shared:
        yield failed(
            name,
            f"the device plugin shares the GPUs of {_some(shared)}: an agent runs its own MPS daemon and needs whole GPUs",
            "turn sharing off in the device plugin's configuration of these nodes",
        )
    elif old:
        yield failed(
            name,
            f"the GPUs of {_some(old)} are older than Volta: MPS limits no shares there",
            "keep services off them with a node selector in the class",
        )
    elif any(STRATEGY not in labels(node) for node in nodes):
        yield warned(
            name,
            "some GPU nodes have no labels of GPU feature discovery: whether their GPUs are shared is not known",
            "deploy the device plugin with `gfd.enabled=true`",
        )
    else:
        yield passed(name, f"whole GPUs on {_some([_name(node) for node in nodes])}")


def check_runtime_class(found: Findings) -> Check:
    """Named ones must be there; without a name the nodes' default runtime must be NVIDIA's."""
    name = "runtime class"
    if isinstance(found.runtime_classes, ApiError):
        return unknown(name, found.runtime_classes)
    there = {_name(each) for each in found.runtime_classes}
    asked = set() if isinstance(found.fleet, ApiError) else _asked_runtime_classes(found.fleet)
    missing = sorted(asked - there)
    if missing:
        return failed(
            name,
            f"services name {', '.join(missing)}, which is not there",
            "install NVIDIA's GPU operator, or name another",
        )
    if RUNTIME_CLASS in there:
        return passed(name, f"{RUNTIME_CLASS} is there")
    has_gpus = not isinstance(found.nodes, ApiError) and bool(gpu_nodes(found.nodes))
    if has_gpus:
        return warned(
            name,
            f"no RuntimeClass {RUNTIME_CLASS}: pods see GPUs only where it is the nodes' default runtime",
            "install NVIDIA's GPU operator or its container toolkit",
        )
    return passed(name, f"none named, none needed (there are: {', '.join(sorted(there)) or 'none'})")


def gpu_nodes(nodes: Sequence[Object]) -> list[Object]:
    return [node for node in nodes if gpus(node) > 0]


def gpus(node: Object) -> int:
    return int(((node.get("status") or {}).get("allocatable") or {}).get(GPU, 0))


def requested_on(node: str, pods: Sequence[Object]) -> int:
    """GPUs that pods on `node` hold: the sum of their containers', or the largest of their init containers'."""
    return sum(
        _requested(pod["spec"])
        for pod in pods
        if pod["spec"].get("nodeName") == node and (pod.get("status") or {}).get("phase") not in OVER
    )


def _requested(spec: Object) -> int:
    main = sum(_of_container(container) for container in spec.get("containers") or [])
    first = max((_of_container(container) for container in spec.get("initContainers") or []), default=0)
    return max(main, first)


def _of_container(container: Object) -> int:
    resources = container.get("resources") or {}
    wanted = (resources.get("requests") or {}).get(GPU) or (resources.get("limits") or {}).get(GPU) or 0
    return int(wanted)


def labels(node: Object) -> Mapping[str, str]:
    return node["metadata"].get("labels") or {}


def sharing_of(found: Mapping[str, str]) -> str | None:
    """How the device plugin shares the node's GPUs; None if it does not, or does not say."""
    if found.get(STRATEGY, "none") != "none":
        return found[STRATEGY]
    if found.get(MPS_CAPABLE) == "true":
        return "mps"
    replicas = found.get(REPLICAS, "1")
    return f"{replicas} replicas" if replicas.isdecimal() and int(replicas) > 1 else None


def _is_older_than_volta(found: Mapping[str, str]) -> bool:
    major = found.get(COMPUTE_MAJOR, "")
    return major.isdecimal() and int(major) < VOLTA


def _asking_for_gpus(fleet: Fleet | ApiError) -> list[str]:
    if isinstance(fleet, ApiError):
        return []
    return [f"{view.namespace}/{view.name}" for view in fleet.services if _device(view) is Device.CUDA]


def _device(view: ServiceView) -> Device:
    device = view.service.spec.resources.device
    cls = view.class_spec
    return cls.device if device is Device.AUTO and cls is not None else device


def _asked_runtime_classes(fleet: Fleet) -> set[str]:
    found = set()
    for view in fleet.services:
        cls = view.class_spec
        own = view.service.spec.scheduling.runtime_class_name
        found.add(own or (cls.runtime_class_name if cls is not None else None))
    return {name for name in found if name is not None}


def _name(found: Object) -> str:
    return str(found["metadata"]["name"])


def _some(names: list[str], shown: int = 3) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
