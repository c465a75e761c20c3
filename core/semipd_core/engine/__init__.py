"""The coordinator of one engine without I/O: requests, KV blocks, prefix cache, schedulers, lanes. Events in, effects out."""
