"""The pod's MPS control daemon: observe (`control`, `processes`), decide (`plan`, `preflight`), apply (`controller`)."""
