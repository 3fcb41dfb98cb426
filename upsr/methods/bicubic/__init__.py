"""Bicubic upsampling, the baseline of every table."""
