"""The configuration of one node's containerd, CNI plugins, kubelet and kube-proxy, as text to write."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semipd_cluster import network
from semipd_cluster.certificates import KeyPair

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CNI_DIRECTORY = "/var/lib/cni/net.d"
PAUSE_IMAGE = "localhost/semipd/pause:1"
DNS_ADDRESS = "10.96.0.10"
DNS_DOMAIN = "cluster.local"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePaths:
    """Seen alike from inside and outside of the node."""

    directory: Path  # becomes the node's /var/lib and /var/log, below "lib" and "log"
    authority: Path  # certificate that signs every client
    serving: KeyPair  # the kubelet's
    kubelet_kubeconfig: Path
    proxy_kubeconfig: Path


def build_files(index: int, paths: NodePaths) -> dict[Path, str]:
    return {
        paths.directory / "containerd.toml": build_containerd(),
        paths.directory / "lib/cni/net.d/10-semipd.conflist": json.dumps(build_cni(index)),
        paths.directory / "kubelet.json": json.dumps(build_kubelet(paths)),
        paths.directory / "kube-proxy.json": json.dumps(build_proxy(index, paths)),
        paths.directory / "resolv.conf": f"nameserver {DNS_ADDRESS}\n",
    }


def build_containerd() -> str:
    """Lowering a score below zero, and AppArmor, need what a machine without systemd may not have."""
    return f"""\
version = 2
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{CNI_DIRECTORY}"
"""


def build_cni(index: int) -> dict[str, Any]:
    """Routed pairs instead of a bridge: traffic between pods of one node needs no br_netfilter for its Services."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": network.pod_range(index)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    pairs = {"type": "ptp", "ipMasq": False, "ipam": addresses}
    ports = {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "semipd", "plugins": [pairs, ports]}


def build_kubelet(paths: NodePaths) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(paths.authority)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(paths.serving.certificate),
        "tlsPrivateKeyFile": str(paths.serving.key),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": DNS_DOMAIN,
        "resolvConf": str(paths.directory / "resolv.conf"),
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "serializeImagePulls": False,
        "maxOpenFiles": 20000,
        "imageGCHighThresholdPercent": 100,  # never: what it removes, no registry brings back
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }


def build_proxy(index: int, paths: NodePaths) -> dict[str, Any]:
    """Limits of connection tracking belong to the whole machine: none is set."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(paths.proxy_kubeconfig)},
        "hostnameOverride": network.node_name(index),
        "mode": "iptables",
        "clusterCIDR": network.POD_RANGE,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
