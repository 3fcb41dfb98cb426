"""StableSR: Stable Diffusion restores under time-aware features of the LR image; both of its training stages."""

METHOD = "upsr.methods.stablesr.method:StableSR"
TRAININGS = {
    "sft": "upsr.methods.stablesr.training_sft:SFTTraining",
    "cfw": "upsr.methods.stablesr.training_cfw:CFWTraining",
}
COMMANDS = {
    "convert": ("upsr.methods.stablesr.convert_command", "a released checkpoint in this package's files"),
    "triples": ("upsr.commands.triples", "the training set of stage two: LR images, ground truths, sampled latents"),
}
