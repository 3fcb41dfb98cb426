"""LDM-SR: latent diffusion beside the LR image, from a folder of diffusers; nothing is trained here."""

METHOD = "upsr.methods.ldm.method:LatentDiffusionSR"
TRAININGS: dict[str, str] = {}
