"""The way to the API server: kubeconfig, requests, and its refusals in words."""
