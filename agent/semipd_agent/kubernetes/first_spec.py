"""What a pod's SemiPDPartition asks for before its engines start: they begin at that split, and need no switch to get there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from semipd_agent.run_directory import RunDirectory
from semipd_core.agent_config import AgentConfig, KubernetesSettings
from semipd_core.api import codec
from semipd_core.api.partition import PodPartitionSpec
from semipd_core.errors import InvalidSpec
from semipd_core.service_settings import slo_targets
from semipd_shell import files, log

if TYPE_CHECKING:
    from lightkube import Client

TIMEOUT_S = 5.0  # the operator makes the object as soon as it sees the pod; without it the pod starts as its template says
RETRY_S = 0.25

_log = log.logger(__name__)


def adopt_first_spec(config: AgentConfig, run_directory: RunDirectory) -> AgentConfig:
    """`config` with the split, the SLO and the policy of the object, kept in `service.json`.

    Only at the first start of a pod's agent: a later one goes by its journal. Raises: OSError.
    """
    if config.kubernetes is None or run_directory.journal.exists():
        return config
    spec = read_spec(config.kubernetes, TIMEOUT_S)
    if spec is None:
        _log.warning("no partition yet: starts as the pod's template says", waited_s=TIMEOUT_S)
        return config
    config = apply_spec(config, spec)
    files.write_atomically(run_directory.service_config, msgspec.json.encode(config))
    return config


def apply_spec(config: AgentConfig, spec: PodPartitionSpec) -> AgentConfig:
    partition = msgspec.structs.replace(
        config.partition,
        initial_prefill_percent=spec.target.prefill_percent,
        initial_decode_percent=spec.target.decode_percent,
        policy=config.partition.policy if spec.policy is None else spec.policy.value,
    )
    slo = config.slo if spec.slo is None else slo_targets(spec.slo)
    return msgspec.structs.replace(config, partition=partition, slo=slo)


def read_spec(settings: KubernetesSettings, timeout_s: float) -> PodPartitionSpec | None:
    """None where the object is not there in time, cannot be had or cannot be read: the agent says so later."""
    from lightkube import Client, ConfigError  # noqa: PLC0415 - an agent outside a cluster does without

    from semipd_shell.api_client import FAILURES  # noqa: PLC0415

    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            return _read(Client(), settings)
        except (*FAILURES, KeyError):  # lightkube's KeyError: an error that gives no Content-Type
            time.sleep(RETRY_S)
        except (ConfigError, InvalidSpec):
            return None
    return None


def _read(client: Client, settings: KubernetesSettings) -> PodPartitionSpec:
    from semipd_agent.kubernetes.partition_source import PARTITION  # noqa: PLC0415

    try:
        found = client.get(PARTITION, settings.name, namespace=settings.namespace)
        return codec.read_partition(found).spec
    finally:
        client.close()
