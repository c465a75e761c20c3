"""Wires the agent to its SemiPDPartition: wishes in, status out."""

from __future__ import annotations

import asyncio
from functools import partial

from semipd_agent.agent import Agent
from semipd_agent.device.cpu import CpuDevice
from semipd_agent.device.facts import Inventory
from semipd_agent.gpu_assignment import known_uuids, own_gpus
from semipd_agent.status import build_status as build_agent_status
from semipd_core.agent_config import KubernetesSettings
from semipd_core.api.partition import PodPartitionStatus
from semipd_core.errors import InvalidSpec


async def follow_partition(agent: Agent, settings: KubernetesSettings) -> None:
    """Until cancelled. Kubernetes' client is imported here: an agent outside a cluster does without."""
    from lightkube import ConfigError  # noqa: PLC0415

    from semipd_agent.kubernetes.partition_object import build_status  # noqa: PLC0415
    from semipd_agent.kubernetes.partition_source import PartitionSource  # noqa: PLC0415
    from semipd_agent.kubernetes.status_writer import StatusWriter  # noqa: PLC0415
    from semipd_shell.api_client import open_api_client  # noqa: PLC0415

    try:
        client = open_api_client()
    except ConfigError as error:
        raise InvalidSpec(
            "KUBECONFIG", str(error), "a cluster: the token of the pod's service account, or a kubeconfig"
        ) from None
    gpus = {name: known_uuids([own_gpus(each.supervisor.config)]) for name, each in agent.observers.items()}
    source = PartitionSource(client, settings.namespace, settings.name)

    def build(old: PodPartitionStatus, now: str) -> PodPartitionStatus:
        return build_status(
            build_agent_status(agent),
            _inventory(agent),
            generation=source.generation,
            refusal=source.refusal,
            old=old,
            now=now,
            gpus=gpus,
        )

    writer = StatusWriter(client, settings.namespace, settings.name, build, lambda: source.found)
    async with asyncio.TaskGroup() as tasks:
        for run in (partial(source.run, agent), writer.run):
            tasks.create_task(run())


def _inventory(agent: Agent) -> Inventory:
    """The GPUs as they were last seen; without any, what the host has."""
    return CpuDevice().inventory() if agent.gpus is None else agent.gpus.inventory
