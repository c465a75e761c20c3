"""The decisions of semipd, without I/O: API types, SLO windows, latency models, policies, schedulers.

Nothing in here reads a clock, a file, a socket or an environment variable, and nothing imports torch or kopf.
"""
