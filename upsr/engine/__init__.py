"""Runs: distribution, training, evaluation, checkpoints. Nothing below the entry points imports it."""
