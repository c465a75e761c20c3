"""`semipd pod`: what an engine pod runs. `semipd up` without the cluster loop, which is the operator's."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from semipd_agent.run_directory import LOG_FILE_VARIABLE
from semipd_cli.arguments import integer
from semipd_cli.device import detect_device
from semipd_cli.profile_subject import find_profile
from semipd_cli.service_config import build_agent_config
from semipd_cli.settings import read_settings
from semipd_cli.up import AGENT_COMMAND, serve_config
from semipd_core.agent_config import KubernetesSettings
from semipd_core.api import codec
from semipd_core.api.service import SemiPDService
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Isolation

SERVICE_VARIABLE, NAME_VARIABLE, NAMESPACE_VARIABLE = "SEMIPD_SERVICE", "POD_NAME", "POD_NAMESPACE"
ISOLATIONS_VARIABLE = "SEMIPD_ISOLATIONS"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("pod", help="serve inside an engine pod (the operator's pods run this)")
    parser.add_argument("--run-dir", required=True, metavar="DIR", help="sockets, files and the journal")
    parser.add_argument("--port", type=integer("--port", 1, 65_535), default=8000)
    parser.add_argument("--agent-port", type=integer("--agent-port", 1, 65_535), default=8001)


def run(args: argparse.Namespace, agent_command: Sequence[str] = AGENT_COMMAND) -> int:
    """Serve. Raises: InvalidSpec, SemipdError, OSError."""
    started_s = time.monotonic()
    config = build_agent_config(
        read_service(os.environ),
        read_settings(),
        present=detect_device(),
        host="0.0.0.0",
        port=args.port,
        kubernetes=read_kubernetes(os.environ, args.agent_port),
        isolations=read_isolations(os.environ),
    )
    profile = find_profile(config, lambda line: print(line, file=sys.stderr, flush=True))
    config = msgspec.structs.replace(config, profile=profile)
    os.environ.setdefault(LOG_FILE_VARIABLE, f"/proc/{os.getpid()}/fd/1")
    return serve_config(
        config,
        Path(args.run_dir),
        agent_command=agent_command,
        cluster_period_s=None,
        keeps_files=True,
        started_s=started_s,
    )


def read_service(environment: Mapping[str, str]) -> SemiPDService:
    """The service as the operator wants this pod to serve it. Raises: InvalidSpec."""
    text = _variable(environment, SERVICE_VARIABLE)
    try:
        given = json.loads(text)
    except ValueError as error:
        raise InvalidSpec(SERVICE_VARIABLE, text[:80], f"a SemiPDService as JSON ({error})") from None
    return codec.decode_service(given)


def read_kubernetes(environment: Mapping[str, str], agent_port: int) -> KubernetesSettings:
    """Which object is this pod's. Raises: InvalidSpec."""
    return KubernetesSettings(
        namespace=_variable(environment, NAMESPACE_VARIABLE),
        name=_variable(environment, NAME_VARIABLE),
        agent_port=agent_port,
    )


def read_isolations(environment: Mapping[str, str]) -> tuple[Isolation, ...]:
    """Among which `Auto` chooses: all, where the class says nothing else. Raises: InvalidSpec."""
    given = environment.get(ISOLATIONS_VARIABLE)
    if given is None:
        return tuple(Isolation)
    try:
        return tuple(Isolation(name) for name in given.split(","))
    except ValueError:
        raise InvalidSpec(ISOLATIONS_VARIABLE, given, f"some of {','.join(Isolation)}, with commas") from None


def _variable(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise InvalidSpec(name, value, "set: the operator's pods have it")
    return value
