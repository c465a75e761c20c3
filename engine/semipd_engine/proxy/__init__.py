"""The proxy before the engines of one pod, or before the pods of one service.

On one machine its upstreams are the front ends' sockets, asked for their readiness; in a cluster they are the addresses in a
Service's EndpointSlices, with the load that each pod's agent tells. The choice is `semipd_core.routing`; `upstreams` holds what
is known, `forwarding` moves bytes and gives a request to another upstream while it has no token yet.
"""
