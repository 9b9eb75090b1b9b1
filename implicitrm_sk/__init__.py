"""Reward models from implicit preference data, in scikit-learn's manner."""

from ._checkpoint import Checkpoint
from ._estimator import ImplicitRewardEstimator
from ._search import BatchedSearchCV
from .embedding import LLMEmbedder
from .exceptions import IdentificationWarning, ModelFileError, ShiftWarning
from .inspection import identification_report

__all__ = [
    "BatchedSearchCV",
    "Checkpoint",
    "IdentificationWarning",
    "ImplicitRewardEstimator",
    "LLMEmbedder",
    "ModelFileError",
    "ShiftWarning",
    "identification_report",
]
__version__ = "0.1.0.dev0"
