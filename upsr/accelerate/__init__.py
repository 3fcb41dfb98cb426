"""Faster forms of networks for inference."""
