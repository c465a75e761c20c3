"""Cluster DNS: CoreDNS beside the control plane, behind the Service `kube-dns` that every pod asks.

It runs as a process of this machine, not as a pod: it needs no image, and losing a node does not lose it.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from semipd_cluster import network
from semipd_cluster.node_files import DNS_ADDRESS, DNS_DOMAIN

PORT = 1053  # of HOST_ADDRESS: a resolver of the machine may hold 53 of every address
READY_PORT = 8181
USER = "system:coredns"
NAME = "kube-dns"


def build_corefile(kubeconfig: Path) -> str:
    return f"""\
.:{PORT} {{
    bind {network.HOST_ADDRESS}
    errors
    ready {network.HOST_ADDRESS}:{READY_PORT}
    kubernetes {DNS_DOMAIN} in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
    }}
    cache 5
}}
"""


def is_ready() -> bool:
    """Whether CoreDNS has listed what it answers from."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{network.HOST_ADDRESS}:{READY_PORT}/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        pass
    return False


def build_objects() -> str:
    """A Service without selector, its one endpoint, and the right to read what names stand for; as input of kubectl."""
    items = [_service(), _endpoints(), _role(), _role_binding()]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _service() -> dict[str, Any]:
    ports = [{"name": name, "protocol": protocol, "port": 53} for name, protocol in _protocols()]
    metadata = {"name": NAME, "namespace": "kube-system", "labels": {"k8s-app": NAME}}
    spec = {"clusterIP": DNS_ADDRESS, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def _endpoints() -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": NAME,
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": NAME},
        },
        "addressType": "IPv4",
        "ports": [{"name": name, "protocol": protocol, "port": PORT} for name, protocol in _protocols()],
        "endpoints": [{"addresses": [network.HOST_ADDRESS], "conditions": {"ready": True}}],
    }


def _protocols() -> tuple[tuple[str, str], ...]:
    return (("dns", "UDP"), ("dns-tcp", "TCP"))


def _role() -> dict[str, Any]:
    read = ["list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": read},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
    ]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": USER},
        "rules": rules,
    }


def _role_binding() -> dict[str, Any]:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": USER},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": USER},
        "subjects": [{"apiGroup": group, "kind": "User", "name": USER}],
    }
