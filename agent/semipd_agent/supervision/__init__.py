"""One engine's processes: observe (`view`), decide (`plan`), apply (`engine`)."""
