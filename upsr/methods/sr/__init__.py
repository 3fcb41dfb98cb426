"""A plain SR network: stage one of UPSR, and any network that spandrel knows."""

METHOD = "upsr.methods.sr.method:SR"
TRAININGS = {"supervised": "upsr.methods.sr.training:SRTraining"}
NAMES = {"AuxiliarySRModel": "supervised"}
"""Older values of ``model_type``, and the trainings they mean."""
IMPORTS = (
    "upsr.methods.sr.import_basicsr:BASICSR",
    "upsr.methods.sr.import_basicsr:REAL_ESRGAN",
    "upsr.methods.sr.import_trainner:TRAINNER",
)
"""Formats of other projects' option files that are translated into those of this method."""
