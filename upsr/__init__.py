"""UPSR: uncertainty-guided perturbation for diffusion super-resolution of real photos."""

__version__ = "0.1.0"
