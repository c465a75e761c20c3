"""The decoder on an NVIDIA GPU: the kernels in place of `semipd_engine.model`'s torch calls, CUDA graphs, steps in flight.

Same weights, same cache, same plans as on CPU. See docs/design/0006-cuda-lane.md.
"""
