"""Numerical operations: pure functions of tensors, each a folder with its contract in `__init__` and plain PyTorch in `naive`."""
