"""Triton kernels of the engine on NVIDIA GPUs: pure functions over torch tensors, in the layouts of the engine on CPU.

They run as they are on CPU tensors when TRITON_INTERPRET=1 is set before triton is imported. See docs/design/0003-kernels.md.
"""
