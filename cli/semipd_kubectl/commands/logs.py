"""`kubectl semipd logs NAME`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from semipd_core.errors import InvalidSpec
from semipd_kubectl.errors import ApiError, Forbidden, NotThere
from semipd_kubectl.options import add_connection, add_output, duration, open_connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from semipd_kubectl.api.connection import Connection
    from semipd_kubectl.logs.lines import LogLine
    from semipd_kubectl.logs.streams import Container, Extent

DEFAULT_TAIL = 100
ALL = -1


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of a service")
    parser.add_argument("--pod", default="", metavar="PREFIX", help="only pods whose names begin so")
    parser.add_argument("-f", "--follow", action="store_true", help="go on, also with pods that come and go")
    parser.add_argument("--since", metavar="DURATION", type=duration("--since"), help="as 10m")
    parser.add_argument(
        "--tail",
        metavar="LINES",
        type=_tail,
        help=f"of each container; -1: all (default: {DEFAULT_TAIL}; with --since: all)",
    )
    add_output(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """What is not a line (a container without a log, one that comes or goes) is said on stderr."""
    with open_connection(args) as api:
        return _run(api, args)


def _run(api: Connection, args: argparse.Namespace) -> int:
    from semipd_kubectl.logs.follow import Follower  # noqa: PLC0415
    from semipd_kubectl.logs.merge import merge  # noqa: PLC0415
    from semipd_kubectl.logs.streams import Extent, list_containers  # noqa: PLC0415

    def look() -> list[Container]:
        return list_containers(api, api.namespace, args.name, args.pod)

    containers = look()
    if not containers and not args.follow:
        raise _nothing(api, args.name, args.pod)
    tail = args.tail if args.tail is not None else None if args.since else DEFAULT_TAIL
    extent = Extent(tail=None if tail == ALL else tail, since_s=args.since)
    show = _printer(args.output, max((len(container.pod) for container in containers), default=0))
    read_until = {(container.uid, container.name): 0 for container in containers if not container.waits}

    def read(container: Container) -> Iterator[LogLine]:
        for line in _read_past(api, container, extent):
            read_until[container.uid, container.name] = line.time_ns
            yield line

    for line in merge(read(container) for container in containers):
        show(line)
    if args.follow:
        first = Extent(tail=extent.tail, since_s=extent.since_s)
        for line in Follower(api, api.namespace, look, first, read_until, _say).lines():
            show(line)
    return 0


def _read_past(api: Connection, container: Container, extent: Extent) -> Iterator[LogLine]:
    from semipd_kubectl.logs.streams import read_log  # noqa: PLC0415

    if container.waits is not None:
        _say(f"{container.pod} {container.name} has no log yet: {container.waits}")
        return
    try:
        yield from read_log(api, api.namespace, container, extent)
    except Forbidden:
        raise
    except ApiError as error:
        _say(f"{container.pod} {container.name}: {error}")


def _nothing(api: Connection, name: str, prefix: str) -> ApiError:
    """Raises: NotThere if the service itself is missing."""
    from semipd_kubectl.observe.fleet import observe_service  # noqa: PLC0415

    view = observe_service(api, api.namespace, name)
    pods = ", ".join(pod.name for pod in view.pods)
    wanted = f" whose name begins with {prefix!r}" if prefix else ""
    return NotThere(f"{name} has no pod{wanted}" + (f"; there are: {pods}" if pods else ""))


def _printer(output: str, width: int) -> Callable[[LogLine], None]:
    from semipd_kubectl.logs.lines import json_text, readable  # noqa: PLC0415

    if output == "json":
        return lambda line: print(json_text(line), flush=True)
    from semipd_kubectl.draw.output import console  # noqa: PLC0415

    out = console()
    return lambda line: out.print(readable(line, width), soft_wrap=True)


def _say(text: str) -> None:
    print(f"# {text}", file=sys.stderr, flush=True)


def _tail(text: str) -> int:
    try:
        lines = int(text)
    except ValueError:
        lines = ALL - 1
    if lines < ALL:
        raise InvalidSpec("--tail", text, "an integer of 0 or more, or -1 for all")
    return lines
