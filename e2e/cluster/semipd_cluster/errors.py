"""What a caller of this package may catch."""

from __future__ import annotations


class ClusterError(RuntimeError):
    """The cluster cannot be built, started or used; the message says what the reader can do."""
