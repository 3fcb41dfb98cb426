"""What is trained and how it restores: models in MODEL_REGISTRY."""

from upsr.methods.base import RestorationModel
from upsr.methods.build import build_model
from upsr.methods.sr.method import AuxiliarySRModel
from upsr.methods.upsr.distillation import UPSRDistillationModel
from upsr.methods.upsr.method import UPSRModel

__all__ = ["AuxiliarySRModel", "RestorationModel", "UPSRDistillationModel", "UPSRModel", "build_model"]
