"""A real Kubernetes for the end-to-end tests: no Docker, no systemd, no registry, only Debian packages and one Go binary."""
