"""UPSR: uncertainty-guided perturbation in a residual-shifting diffusion (CVPR 2025)."""

METHOD = "upsr.methods.upsr.method:UPSR"
TRAININGS = {
    "supervised": "upsr.methods.upsr.training:UPSRTraining",
    "distillation": "upsr.methods.upsr.distillation:UPSRDistillation",
}
NAMES = {"UPSRModel": "supervised", "UPSRDistillationModel": "distillation"}
"""Older values of ``model_type``, and the trainings they mean."""
IMPORTS = ("upsr.methods.upsr.imports:UPSR",)
"""Formats of other projects' option files that are translated into those of this method."""
