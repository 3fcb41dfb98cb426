"""ResShift: a residual-shifting diffusion in the latent of a VQ autoencoder (NeurIPS 2023), and its one-step student SinSR."""

METHOD = "upsr.methods.resshift.method:ResShift"
TRAININGS = {
    "supervised": "upsr.methods.resshift.training:ResShiftTraining",
    "distillation": "upsr.methods.resshift.distillation:SinSRTraining",
}
