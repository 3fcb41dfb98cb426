"""Benchmarks, measuring protocols, methods, and the evaluation of all of one on all of the other."""
