"""Diff-SR: an unconditional diffusion model restores from the noised upsampled image, at any scale; nothing is trained for SR."""

METHOD = "upsr.methods.diffsr.method:DiffSR"
TRAININGS = {"denoising": "upsr.methods.diffsr.training:DenoisingTraining"}
COMMANDS = {"calibrate": ("upsr.commands.calibrate", "noise levels for each scale")}
