"""The controller manager and the scheduler: what makes a control plane reconcile."""

from __future__ import annotations

from semipd_cluster.control_plane import ControlPlane
from semipd_cluster.kubeconfig import write_kubeconfig

# Kubernetes' own 50 s are too short here: after an outage of 30 s, two cores that start the API server anew under load bring the
# kubelets' heartbeats back later, and a node that is not ready takes the endpoints of all its pods away.
NODE_GRACE_S = 120


def build_commands(control_plane: ControlPlane) -> dict[str, list[str]]:
    """They serve no port: nothing asks them, and the machine's ports are not theirs."""
    authority = control_plane.authority
    shared = ["--leader-elect=false", "--secure-port=0"]
    kubeconfigs = {
        name: write_kubeconfig(
            control_plane.directory / f"{name}.kubeconfig",
            control_plane.server,
            authority,
            authority.issue(name, f"/CN=system:{name}"),
        )
        for name in ("kube-controller-manager", "kube-scheduler")
    }
    own = {
        "kube-controller-manager": [
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={control_plane.token_signer.key}",
            f"--flex-volume-plugin-dir={control_plane.directory / 'volume-plugins'}",  # it creates the default one
            f"--root-ca-file={authority.pair.certificate}",
            f"--cluster-signing-cert-file={authority.pair.certificate}",
            f"--cluster-signing-key-file={authority.pair.key}",
            f"--node-monitor-grace-period={NODE_GRACE_S}s",
        ],
        "kube-scheduler": [],
    }
    return {
        name: [str(control_plane.programs / name), f"--kubeconfig={kubeconfig}", *shared, *own[name]]
        for name, kubeconfig in kubeconfigs.items()
    }
