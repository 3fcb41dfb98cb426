"""LDM-SR: latent diffusion over a diffusers folder."""
