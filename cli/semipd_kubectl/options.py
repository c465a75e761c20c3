"""Options that commands share, with the names that kubectl gives them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from semipd_core.errors import InvalidSpec

if TYPE_CHECKING:
    from semipd_kubectl.api.connection import Connection

DEFAULT_TIMEOUT = "15s"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def add_connection(parser: argparse.ArgumentParser, *, everywhere: bool = False) -> None:
    """`everywhere`: with `-A`."""
    group = parser.add_argument_group("connection")
    group.add_argument("-n", "--namespace", metavar="NAMESPACE", help="default: that of the context")
    if everywhere:
        group.add_argument("-A", "--all-namespaces", action="store_true")
    group.add_argument("--context", metavar="NAME", help="of the kubeconfig (default: its current one)")
    group.add_argument("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, then ~/.kube/config")
    group.add_argument(
        "--request-timeout",
        metavar="DURATION",
        type=duration("--request-timeout"),
        default=DEFAULT_TIMEOUT,
        help=f"of one request, as 5s or 2m; 0: without end (default: {DEFAULT_TIMEOUT})",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")


def duration(flag: str) -> Callable[[str], float]:
    """A converter to seconds. Raises (the converter): InvalidSpec naming `flag`."""

    def convert(text: str) -> float:
        if text == "0":
            return 0.0
        if text.isdecimal():
            return float(text)
        if not _DURATION.fullmatch(text):
            raise InvalidSpec(flag, text, "a duration such as 500ms, 30s, 2m or 1h30m")
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))

    return convert


def open_connection(args: argparse.Namespace) -> Connection:
    """Raises: ApiError."""
    from semipd_kubectl.api.connection import connect  # noqa: PLC0415 - the client takes a second to import

    return connect(
        kubeconfig=args.kubeconfig,
        context=args.context,
        namespace=args.namespace,
        timeout_s=args.request_timeout or None,
    )
