"""The Kubernetes operator: observe services and partitions, plan their children and status, apply."""
