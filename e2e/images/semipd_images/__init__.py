"""The container images of this tree as archives, without Docker and without an image registry."""
