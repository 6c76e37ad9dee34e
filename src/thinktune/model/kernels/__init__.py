"""Triton kernels of the model; to be imported only where Triton is installed."""
