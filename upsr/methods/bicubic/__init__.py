"""Bicubic upsampling, the baseline of every table."""

METHOD = "upsr.methods.bicubic.method:Bicubic"
TRAININGS: dict[str, str] = {}
