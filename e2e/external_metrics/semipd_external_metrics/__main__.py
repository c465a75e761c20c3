"""`python -m semipd_external_metrics`: serves, and prints what is to be applied so that the API server asks here."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

from aiohttp import web

from semipd_cluster.certificates import Authority
from semipd_external_metrics.objects import SERVER_NAME, build_objects
from semipd_external_metrics.server import build_app, build_tls


async def serve(metrics_url: str, host: str, port: int) -> None:
    """Until cancelled. The certificate is made anew at each start."""
    with tempfile.TemporaryDirectory(prefix="semipd-external-metrics-") as directory:
        authority = Authority(Path(directory))
        pair = authority.issue("server", "/CN=semipd-external-metrics", [f"DNS:{SERVER_NAME}"])
        runner = web.AppRunner(build_app(metrics_url))
        await runner.setup()
        try:
            site = web.TCPSite(runner, "0.0.0.0", port, ssl_context=build_tls(pair))
            await site.start()
            bound = runner.addresses[0][1]
            objects = build_objects(host, bound, authority.pair.certificate.read_bytes())
            print(json.dumps(objects), flush=True)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(prog="semipd_external_metrics", description=__doc__)
    parser.add_argument(
        "--metrics-url", required=True, help="the operator's, such as http://127.0.0.1:8080/metrics"
    )
    parser.add_argument(
        "--host", default="localhost", help="a name by which the API server reaches this process"
    )
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    given = parser.parse_args()
    try:
        asyncio.run(serve(given.metrics_url, given.host, given.port))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
