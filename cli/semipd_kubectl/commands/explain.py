"""`kubectl semipd explain NAME`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from semipd_kubectl.options import add_connection, add_output, open_connection

if TYPE_CHECKING:
    from semipd_kubectl.api.connection import Connection

WINDOW_S = 60.0


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of a service")
    parser.add_argument(
        "--no-live", action="store_true", help="from the API's objects alone: do not ask the agents"
    )
    add_output(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    with open_connection(args) as api:
        return _run(api, args)


def _run(api: Connection, args: argparse.Namespace) -> int:
    from semipd_kubectl.draw.explain import draw_explanation  # noqa: PLC0415
    from semipd_kubectl.draw.output import print_json, print_lines  # noqa: PLC0415
    from semipd_kubectl.observe.fleet import observe_service  # noqa: PLC0415
    from semipd_kubectl.observe.windows import fetch_windows  # noqa: PLC0415
    from semipd_kubectl.reports.explain import build_explanation  # noqa: PLC0415
    from semipd_kubectl.reports.live import build_live  # noqa: PLC0415

    view = observe_service(api, api.namespace, args.name)
    live = None
    if not args.no_live:
        windows = fetch_windows(api, [(view.namespace, pod) for pod in view.pods])
        live = build_live(view, windows, WINDOW_S)
    report = build_explanation(view, live, api.now_s())
    if args.output == "json":
        print_json(report)
    else:
        print_lines(draw_explanation(report, api.now_s()))
    return 0
