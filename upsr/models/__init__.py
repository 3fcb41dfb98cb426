"""What is trained and how it restores: models in MODEL_REGISTRY."""

from upsr.models.auxiliary_sr_model import AuxiliarySRModel
from upsr.models.base import RestorationModel
from upsr.models.build import build_model
from upsr.models.distillation_model import UPSRDistillationModel
from upsr.models.upsr_model import UPSRModel

__all__ = ["AuxiliarySRModel", "RestorationModel", "UPSRDistillationModel", "UPSRModel", "build_model"]
