"""What can go wrong here, said in one line for whoever runs the build."""

from __future__ import annotations


class ImagesError(Exception):
    pass
