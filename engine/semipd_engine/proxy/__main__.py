"""`python -m semipd_engine.proxy --config proxy.json`, or `--service NAME --namespace NAMESPACE` in a cluster."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import msgspec
import uvloop

from semipd_core.engine_config import SpecError
from semipd_core.errors import InvalidSpec
from semipd_core.proxy_config import ProxyConfig
from semipd_core.routing.choice import Bounds
from semipd_engine.proxy.serving import Drain
from semipd_shell import log
from semipd_shell.files import write_atomically

_log = log.logger(__name__)


def main(argv: list[str] | None = None) -> int:
    """0 after SIGTERM, or without an agent; 2 if the user must change something (with `--config`: the error file says what)."""
    arguments = _parser().parse_args(argv)
    log.configure("proxy")
    for name in ("httpx", "httpx2"):  # a line for each request
        logging.getLogger(name).setLevel(logging.WARNING)
    return _run_local(arguments.config) if arguments.config else _run_in_cluster(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="semipd_engine.proxy", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--config", type=Path, help="proxy.json: the engines of one machine")
    where.add_argument("--service", help="the Service whose endpoints are the engine pods")
    parser.add_argument("--namespace", default="default", help="of --service")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--lag-s", type=float, default=0.0, help="serve for so long after SIGTERM as before")
    parser.add_argument("--drain-s", type=float, default=120.0, help="then finish what is open, for so long")
    parser.add_argument("--slack", type=int, default=Bounds().slack, help="requests that a prefix may cost")
    parser.add_argument("--imbalance-percent", type=int, default=Bounds().percent)
    return parser


def _run_local(path: Path) -> int:
    from semipd_engine.proxy.local import run_local  # noqa: PLC0415 - each mode without the other's libraries

    config = msgspec.json.decode(path.read_bytes(), type=ProxyConfig)
    try:
        uvloop.run(run_local(config))
    except InvalidSpec as error:
        _log.error("cannot start", error=str(error))
        spec_error = SpecError(path=error.path, given=str(error.given), allowed=error.allowed)
        write_atomically(Path(config.error_file), msgspec.json.encode(spec_error))
        return 2
    return 0


def _run_in_cluster(arguments: argparse.Namespace) -> int:
    from semipd_engine.proxy.cluster import ClusterSettings, run_in_cluster  # noqa: PLC0415

    settings = ClusterSettings(
        namespace=arguments.namespace,
        service=arguments.service,
        host=arguments.host,
        port=arguments.port,
        drain=Drain(lag_s=arguments.lag_s, timeout_s=arguments.drain_s),
        bounds=Bounds(slack=arguments.slack, percent=arguments.imbalance_percent),
    )
    try:
        uvloop.run(run_in_cluster(settings))
    except InvalidSpec as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
