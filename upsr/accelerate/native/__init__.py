"""Kernels of this package in C++ for x86-64 processors, compiled at installation where there is a compiler.

`library.py` loads them or says why there are none; `attention.py` and `winograd.py` call them with tensors. Where there are none,
or for tensors that they do not take, torch computes the same up to rounding.
"""
