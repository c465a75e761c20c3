"""`python -m semipd_cluster up | down | status | images ARCHIVE… | build | break-api-server`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from semipd_cluster import build, daemon, images, machine_lock
from semipd_cluster.cluster import NODES, read_containerd_sockets
from semipd_cluster.errors import ClusterError

EXIT_NONE_RUNS = 3


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    try:
        return _run(arguments)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="semipd_cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "serve"):
        command = commands.add_parser(name)
        command.add_argument("--nodes", type=int, default=NODES)
        command.add_argument(
            "--gpus", type=int, default=0, help="what each node advertises as nvidia.com/gpu"
        )
    commands.add_parser("down")
    commands.add_parser("status")
    commands.add_parser("build")
    commands.add_parser("break-api-server", help="kill -9; it comes back after 30 s")
    commands.add_parser("images").add_argument("archives", nargs="+", type=Path)
    return parser.parse_args(argv)


def _run(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "up":
            _print_access(daemon.up(arguments.nodes, arguments.gpus))
        case "serve":
            daemon.serve(arguments.nodes, arguments.gpus)
        case "down":
            daemon.down()
        case "break-api-server":
            daemon.break_api_server()
        case "build":
            print(build.ensure_programs())
        case "images":
            images.import_archives(read_containerd_sockets(_running_directory()), arguments.archives)
        case "status":
            return _print_status()
    return 0


def _print_status() -> int:
    holder = machine_lock.find_holder()
    if holder is None:
        print("no cluster runs")
        return EXIT_NONE_RUNS
    print(f"process {holder.pid}")
    _print_access(holder.directory)
    return 0


def _print_access(directory: Path) -> None:
    print(f"export KUBECONFIG={directory / 'kubeconfig'} PATH={build.programs_directory()}:$PATH")


def _running_directory() -> Path:
    holder = machine_lock.find_holder()
    if holder is None:
        raise ClusterError("no cluster runs: `make cluster-up` starts one")
    return holder.directory


if __name__ == "__main__":
    sys.exit(main())
