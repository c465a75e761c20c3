"""The operator's metrics as `external.metrics.k8s.io`, so that an HPA can be tried without Prometheus and its adapter.

For tests: it asks nobody who they are. In a cluster that serves people, prometheus-adapter or KEDA has this place.
"""
