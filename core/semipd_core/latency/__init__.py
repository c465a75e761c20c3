"""How latency depends on the split: the step cost model, the share curve, semi-PD's curves, and forecasts per split."""
