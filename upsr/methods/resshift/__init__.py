"""ResShift: a residual-shifting diffusion in the latent of a VQ autoencoder (NeurIPS 2023), and its one-step student SinSR."""

METHOD = "upsr.methods.resshift.method:ResShift"
TRAININGS = {
    "supervised": "upsr.methods.resshift.training:ResShiftTraining",
    "distillation": "upsr.methods.resshift.distillation:SinSRTraining",
}
IMPORTS = ("upsr.methods.resshift.imports:RESSHIFT",)
"""Formats of other projects' option files that are translated into those of this method."""
