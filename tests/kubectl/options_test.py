"""The command line itself: what it refuses, and in which words."""

from __future__ import annotations

import http.server
import itertools
import json
import signal
import socket
import threading
from pathlib import Path

import pytest
from plugin_process import Plugin

from semipd_core.errors import InvalidSpec
from semipd_kubectl.__main__ import main
from semipd_kubectl.api.failures import failure_of
from semipd_kubectl.errors import ApiError, Forbidden, NoSuchKind, NotThere
from semipd_kubectl.options import duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0.0), ("5", 5.0), ("500ms", 0.5), ("30s", 30.0), ("2m", 120.0), ("1h30m", 5400.0), ("1.5s", 1.5)],
)
def test_durations_are_those_of_kubectl(text: str, seconds: float) -> None:
    assert duration("--since")(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "fast", "5x", "-5s", "5 s", "s5"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        duration("--since")(text)
    assert refused.value.path == "--since"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pin", "chat", "70"], "PREFILL/DECODE: got '70'"),
        (["pin", "chat", "0/50"], "prefill percent of 0/50: got 0"),
        (["logs", "chat", "--tail", "-2"], "--tail: got '-2'"),
        (["top", "--window", "10m"], "--window: got '10m', allowed: 2s..120s"),
        (["top", "chat", "-A"], "--all-namespaces: got 'chat'"),
        (["status", "--request-timeout", "soon"], "--request-timeout: got 'soon'"),
    ],
)
def test_a_wrong_command_line_is_refused_before_any_request(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["explain"], ["status", "--output", "yaml"]])
def test_a_usage_error_ends_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


STATUS = b'{"kind": "Status", "message": "%s", "details": {%s}}'


@pytest.mark.parametrize(
    ("code", "body", "path", "kind", "words"),
    [
        pytest.param(
            404,
            b"404 page not found",
            "/apis/semipd.io/v1alpha1/semipdservices",
            NoSuchKind,
            "kubectl apply --server-side -k",
            id="no CRDs",
        ),
        pytest.param(
            404, b"404 page not found", "/apis/apps/v2/x", NoSuchKind, "no /apis/apps/v2/x", id="another kind"
        ),
        pytest.param(
            404,
            STATUS % (b"gone", b'"name": "chat"'),
            "/apis/semipd.io/v1alpha1/x",
            NotThere,
            "gone",
            id="an object",
        ),
        pytest.param(403, STATUS % (b"you may not", b""), "/x", Forbidden, "you may not", id="forbidden"),
        pytest.param(401, STATUS % (b"Unauthorized", b""), "/x", ApiError, "log in again", id="unauthorized"),
        pytest.param(500, b"a\nb", "/x", ApiError, "answered 500: a b", id="more than one line"),
        pytest.param(503, b"", "/x", ApiError, "HTTP 503", id="nothing said"),
    ],
)
def test_refusals_of_the_api_server_are_one_line_with_what_to_do(
    code: int, body: bytes, path: str, kind: type[ApiError], words: str
) -> None:
    found = failure_of(code, body, path)
    assert type(found) is kind
    assert words in str(found)
    assert "\n" not in str(found)


def test_an_api_server_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    asked: list[str] = []
    numbers = itertools.count()

    class Busy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            is_first = next(numbers) == 0
            body = b"{}" if is_first else b'{"items": []}'
            self.send_response(429 if is_first else 200)
            if is_first:
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = write_config(tmp_path, f"http://127.0.0.1:{server.server_address[1]}")
        done = Plugin(path).run("status")
        server.shutdown()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no SemiPDService here")
    assert len(asked) == 5  # four lists, one of them twice


def write_config(directory: Path, server: str) -> Path:
    config = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (directory / "kubeconfig").write_text(json.dumps(config))
    return directory / "kubeconfig"


def test_ctrl_c_waits_for_no_answer(tmp_path: Path) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    path = write_config(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
    process = Plugin(path).start("status", "--request-timeout", "10m")
    silent.settimeout(60)
    connection, _ = silent.accept()
    connection.recv(1)  # it waits for the answer from here on
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    connection.close()
    silent.close()
    assert (process.returncode, out, error) == (130, "", "")
