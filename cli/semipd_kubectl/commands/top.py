"""`kubectl semipd top`: refreshes on a terminal, speaks once elsewhere."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from semipd_core.errors import InvalidSpec
from semipd_core.telemetry import SLOT_SECONDS, SLOTS_KEPT
from semipd_kubectl.errors import ApiError
from semipd_kubectl.options import add_connection, add_output, duration, open_connection

if TYPE_CHECKING:
    from semipd_kubectl.api.connection import Connection
    from semipd_kubectl.reports.live import TopReport

MAX_WINDOW_S = SLOT_SECONDS * SLOTS_KEPT  # what front ends keep


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="of a service (default: all in the namespace)"
    )
    parser.add_argument("--once", action="store_true", help="one table, as where stdout is no terminal")
    parser.add_argument(
        "--interval", metavar="DURATION", type=duration("--interval"), default="2s", help="default: 2s"
    )
    parser.add_argument(
        "--window",
        metavar="DURATION",
        type=_window,
        default="60s",
        help=f"what figures are over, at most {MAX_WINDOW_S}s (default: 60s)",
    )
    add_output(parser)
    add_connection(parser, everywhere=True)


def run(args: argparse.Namespace) -> int:
    if args.name is not None and args.all_namespaces:
        raise InvalidSpec("--all-namespaces", args.name, "without a NAME, or a NAME with --namespace")
    with open_connection(args) as api:
        return _run(api, args)


def _run(api: Connection, args: argparse.Namespace) -> int:
    if args.output == "json":
        return _print_documents(api, args)
    from semipd_kubectl.draw.output import print_lines  # noqa: PLC0415
    from semipd_kubectl.draw.top import draw_top  # noqa: PLC0415

    if _is_one_shot(args):
        print_lines(draw_top(_look(api, args)))
        return 0
    return _refresh(api, args)


def _refresh(api: Connection, args: argparse.Namespace) -> int:
    """Until Ctrl-C. A look that fails is said below the last table; the first one's error ends the command."""
    from rich.console import Group  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    from semipd_kubectl.draw.lines import BAD, toned  # noqa: PLC0415
    from semipd_kubectl.draw.output import console  # noqa: PLC0415
    from semipd_kubectl.draw.top import draw_top  # noqa: PLC0415

    lines = list(draw_top(_look(api, args)))
    with Live(Group(*lines), console=console(), auto_refresh=False) as live:
        while True:
            time.sleep(args.interval)
            try:
                lines = list(draw_top(_look(api, args)))
                live.update(Group(*lines), refresh=True)
            except ApiError as error:
                live.update(Group(*lines, toned(str(error), BAD)), refresh=True)


def _print_documents(api: Connection, args: argparse.Namespace) -> int:
    """One JSON document a line while it goes on; one indented document where it speaks once."""
    from semipd_kubectl.draw.output import print_json  # noqa: PLC0415

    if _is_one_shot(args):
        print_json(_look(api, args))
        return 0
    while True:
        print_json(_look(api, args), one_line=True)
        time.sleep(args.interval)


def _is_one_shot(args: argparse.Namespace) -> bool:
    return args.once or not sys.stdout.isatty()


def _look(api: Connection, args: argparse.Namespace) -> TopReport:
    from semipd_kubectl.observe.fleet import observe_fleet, observe_service  # noqa: PLC0415
    from semipd_kubectl.observe.objects import Fleet  # noqa: PLC0415
    from semipd_kubectl.observe.windows import fetch_windows  # noqa: PLC0415
    from semipd_kubectl.reports.live import build_top  # noqa: PLC0415

    if args.name is not None:
        fleet = Fleet(services=(observe_service(api, api.namespace, args.name),))
    else:
        fleet = observe_fleet(api, None if args.all_namespaces else api.namespace)
    asked = [(view.namespace, pod) for view in fleet.services for pod in view.pods]
    return build_top(fleet, fetch_windows(api, asked), args.window)


def _window(text: str) -> float:
    seconds = duration("--window")(text)
    if not SLOT_SECONDS <= seconds <= MAX_WINDOW_S:
        raise InvalidSpec("--window", text, f"{SLOT_SECONDS}s..{MAX_WINDOW_S}s, as long as front ends keep")
    return seconds
