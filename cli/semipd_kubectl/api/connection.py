"""Requests to the API server on the official client, which knows every way to log in; objects stay plain mappings.

The client is imported when a connection is opened: `--help` must not wait for it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Self

import kubernetes.client
import kubernetes.config
import urllib3
import yaml
from kubernetes.config.config_exception import ConfigException

from semipd_kubectl.api.failures import failure_of
from semipd_kubectl.errors import ApiError

PAGE = 500
IN_POD = "KUBERNETES_SERVICE_HOST"  # set by the kubelet
MERGE_PATCH = "application/merge-patch+json"
POOL_SIZE = 32  # connections; as many requests run at once
# An API server that is busy, or has just learned of a kind, says when to come back; client-go does so too.
TOO_MANY = 429
RETRIES = 10
MAX_RETRY_S = 5.0
_JSON = "application/json"

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`date_s`: the clock of who answered, unix time; None if the answer has no Date."""

    code: int
    body: bytes
    date_s: float | None


class Connection:
    """Raises, from every method: ApiError, of which Forbidden, NotThere and NoSuchKind are kinds."""

    def __init__(self, client: kubernetes.client.ApiClient, namespace: str, timeout_s: float | None) -> None:
        self._client = client
        self.namespace = namespace  # of the context
        self.timeout_s = timeout_s  # of one request; None: without end
        self.server: str = client.configuration.host
        self._offset_s = 0.0  # of the API server's clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def now_s(self) -> float:
        """Unix time by the API server's clock, as of its last answer: what it stamps is not to be judged by ours."""
        return time.time() + self._offset_s

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Object:
        return self._object("GET", path, query)

    def list(self, path: str, query: Mapping[str, str] | None = None) -> list[Object]:
        """All pages."""
        items: list[Object] = []
        asked = {"limit": str(PAGE), **(query or {})}
        while True:
            page = self._object("GET", path, asked)
            items += page.get("items") or []
            following = page.get("metadata", {}).get("continue")
            if not following:
                return items
            asked["continue"] = following

    def create(self, path: str, body: Object) -> Object:
        return self._object("POST", path, None, body)

    def patch(self, path: str, body: Object) -> Object:
        """A JSON merge patch: what is null goes."""
        return self._object("PATCH", path, {"fieldManager": "kubectl-semipd"}, body)

    def fetch(self, path: str, timeout_s: float | None = None) -> Answer:
        """The answer as it is, whatever its code. `timeout_s`: with what is asked again."""
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        response = self._send("GET", path, None, None, timeout_s or self.timeout_s, until_s)
        with _released(response):
            return Answer(code=response.status, body=_read(response, path), date_s=_date_s(response))

    @contextmanager
    def stream(self, path: str, query: Mapping[str, str], read_timeout_s: float | None) -> Iterator[Any]:
        """The open response of urllib3, to be read while it grows."""
        response = self._send("GET", path, query, None, (self.timeout_s or 30.0, read_timeout_s))
        with _released(response):
            if not 200 <= response.status < 300:
                raise failure_of(response.status, _read(response, path), path)
            yield response

    def _object(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Object | None = None
    ) -> Object:
        response = self._send(method, path, query, body, self.timeout_s)
        date_s = _date_s(response)
        if date_s is not None:
            self._offset_s = date_s - time.time()
        with _released(response):
            data = _read(response, path)
            if not 200 <= response.status < 300:
                raise failure_of(response.status, data, path)
        found: Object = json.loads(data)
        return found

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Object | None,
        timeout: Any,
        until_s: float | None = None,
    ) -> Any:
        """`timeout`: of each attempt. `until_s`, by the monotonic clock: of all of them, in its place."""
        headers = {"Accept": f"{_JSON}, */*"}
        if body is not None:
            headers["Content-Type"] = MERGE_PATCH if method == "PATCH" else _JSON
        asked = self._client.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            for _ in range(RETRIES):
                left = timeout if until_s is None else max(0.001, until_s - time.monotonic())
                response = self._client.call_api(*asked, _request_timeout=left).response
                if response.status != TOO_MANY or "Retry-After" not in response.headers:
                    return response
                pause_s = min(_seconds(response.headers["Retry-After"]), MAX_RETRY_S)
                if until_s is not None and time.monotonic() + pause_s >= until_s:
                    return response
                response.drain_conn()
                time.sleep(pause_s)
            return self._client.call_api(*asked, _request_timeout=left).response
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(f"cannot reach the API server at {self.server}: {_reason(error)}") from None
        except kubernetes.client.ApiException as error:  # what the client makes of TLS that fails
            raise ApiError(f"cannot reach the API server at {self.server}: {_tls_reason(error)}") from None


def connect(
    *, kubeconfig: str | None, context: str | None, namespace: str | None, timeout_s: float | None
) -> Connection:
    """By kubeconfig ($KUBECONFIG, ~/.kube/config), or in a pod by its service account. Raises: ApiError."""
    configuration = kubernetes.client.Configuration()
    try:
        if kubeconfig is None and context is None and IN_POD in os.environ and "KUBECONFIG" not in os.environ:
            kubernetes.config.load_incluster_config(client_configuration=configuration)
        else:
            kubernetes.config.load_kube_config(kubeconfig, context, configuration)
            namespace = namespace or _namespace_of(kubeconfig, context)
    except yaml.YAMLError as error:
        raise ApiError(
            f"no way to a cluster: the kubeconfig is no YAML: {' '.join(str(error).split())}"
        ) from None
    except (ConfigException, OSError, TypeError, ValueError) as error:
        raise ApiError(f"no way to a cluster: {' '.join(str(error).split())}") from None
    configuration.retries = False
    configuration.connection_pool_maxsize = POOL_SIZE
    return Connection(kubernetes.client.ApiClient(configuration), namespace or "default", timeout_s)


def _namespace_of(kubeconfig: str | None, context: str | None) -> str | None:
    contexts, active = kubernetes.config.list_kube_config_contexts(config_file=kubeconfig)
    chosen = next((each for each in contexts if each["name"] == context), active) if context else active
    found: str | None = chosen.get("context", {}).get("namespace")
    return found


@contextmanager
def _released(response: Any) -> Iterator[None]:
    """A response that was read to its end gives its connection back; another one closes it."""
    try:
        yield
    finally:
        response.release_conn() if response.isclosed() else response.close()


def _read(response: Any, path: str) -> bytes:
    try:
        data: bytes = response.read()
    except urllib3.exceptions.HTTPError as error:
        raise ApiError(f"the answer to {path} broke off: {_reason(error)}") from None
    return data


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.isdecimal() else 1.0


def _date_s(response: Any) -> float | None:
    try:
        return parsedate_to_datetime(response.headers.get("Date", "")).timestamp()
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    """The words of the innermost cause, without the objects that urllib3 prints before them."""
    text = " ".join(str(error).split())
    if "Connection refused" in text:
        return "connection refused"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return text.rsplit(">: ", 1)[-1]


def _tls_reason(error: kubernetes.client.ApiException) -> str:
    """The client puts the name of urllib3's error on a line before its words."""
    text = " ".join(str(error.reason).partition("\n")[2].split())
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"{text}: is the certificate-authority of the kubeconfig that of this cluster?"
    return text
