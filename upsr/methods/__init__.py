"""Methods of super-resolution, a folder each, and their trainings."""

from upsr.methods.base import Facts, Knob, Method, Player, Seen, Training
from upsr.methods.bicubic.method import Bicubic
from upsr.methods.build import build_method, build_training
from upsr.methods.sr.training import SRTraining
from upsr.methods.upsr.distillation import UPSRDistillation
from upsr.methods.upsr.training import UPSRTraining

__all__ = [
    "Bicubic",
    "Facts",
    "Knob",
    "Method",
    "Player",
    "SRTraining",
    "Seen",
    "Training",
    "UPSRDistillation",
    "UPSRTraining",
    "build_method",
    "build_training",
]
