"""The cluster loop without I/O: windows in, wishes out. `semipd up`, the operator and the simulator run the same one."""
