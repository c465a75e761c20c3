"""What the local proxy of a pod with several engines is told at start (`proxy.json`, written by the agent). JSON, camelCase."""

from __future__ import annotations

from semipd_core.telemetry import Wire


class ProxyConfig(Wire, frozen=True, kw_only=True):
    """`python -m semipd_engine.proxy --config proxy.json`: one address before the front ends of several engines."""

    host: str
    port: int  # TCP; 0 lets the kernel choose
    upstreams: list[str]  # `EngineConfig.front_socket` of each engine, absolute
    served_name: str
    drain_lag_s: float = 0.0  # new requests are served for so long after SIGTERM
    agent_lock: str  # flocked by the living agent; the proxy stops when it has been free for 30 s
    error_file: str  # where a proxy that exits with code 2 leaves its `SpecError` as JSON
