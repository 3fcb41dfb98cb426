"""LDM-SR: latent diffusion over a diffusers folder."""

METHOD = "upsr.methods.ldm.method:LatentDiffusionSR"
TRAININGS: dict[str, str] = {}
