"""The way to the API server: what fails on it is one line for who reads it, and nothing on it takes longer than it may."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_process import Done, Plugin

from semipd_cluster.certificates import Authority, KeyPair
from semipd_kubectl.api.connection import connect


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "of-the-cluster")


@pytest.fixture
def server(authority: Authority) -> Iterator[str]:
    pair = authority.issue("server", "/CN=server", ["IP:127.0.0.1"])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as running:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair.certificate, pair.key)
        running.socket = context.wrap_socket(running.socket, server_side=True)
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def run(tmp_path: Path, kubeconfig: str) -> Done:
    path = tmp_path / "kubeconfig"
    path.write_text(kubeconfig)
    return Plugin(path).run("status")


def trusting(ca: KeyPair, server: str) -> str:
    return config_of({"server": server, "certificate-authority": str(ca.certificate)})


def config_of(cluster: dict[str, str]) -> str:
    config = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    return json.dumps(config)


def test_a_server_whose_certificate_another_authority_has_signed(tmp_path: Path, server: str) -> None:
    done = run(tmp_path, trusting(Authority(tmp_path / "old").pair, server))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"kubectl semipd: cannot reach the API server at {server}: [SSL: CERTIF")
    assert done.stderr.endswith(": is the certificate-authority of the kubeconfig that of this cluster?\n")
    assert done.stderr.count("\n") == 1


def test_an_authority_that_is_none(tmp_path: Path, server: str) -> None:
    (tmp_path / "none.crt").write_text("no certificate")
    done = run(tmp_path, trusting(KeyPair(tmp_path / "none.crt", tmp_path / "none.key"), server))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"kubectl semipd: cannot reach the API server at {server}: [")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("clusters: [", id="cut off"),
        pytest.param("clusters:\n\t- x", id="with tabs"),
        pytest.param("clusters:\x01", id="with what is no text"),
    ],
)
def test_a_kubeconfig_that_is_no_yaml(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, text)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("kubectl semipd: no way to a cluster: the kubeconfig is no YAML: ")
    assert str(tmp_path / "kubeconfig") in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_api_server_that_stays_busy_is_asked_again_only_as_long_as_a_fetch_may_take(
    tmp_path: Path,
) -> None:
    class Busy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(429)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "kubeconfig").write_text(config_of({"server": f"http://127.0.0.1:{server.server_port}"}))
        start_s = time.monotonic()
        with connect(
            kubeconfig=str(tmp_path / "kubeconfig"), context=None, namespace=None, timeout_s=15
        ) as api:
            assert api.fetch("/any", 1.5).code == 429
        assert time.monotonic() - start_s < 5  # else there are ten pauses of a second
        server.shutdown()
