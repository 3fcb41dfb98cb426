"""UPSR: uncertainty-guided perturbation in a residual-shifting diffusion (CVPR 2025)."""
