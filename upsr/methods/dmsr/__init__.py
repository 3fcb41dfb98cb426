"""DM-SR: an encoder puts the LR image among the noisy latents that SD-Turbo denoises in one step; both of its trainings."""

METHOD = "upsr.methods.dmsr.method:DMSR"
TRAININGS = {
    "dm": "upsr.methods.dmsr.training:DistributionMatching",
    "timestep": "upsr.methods.dmsr.training_timestep:TimestepTraining",
}
