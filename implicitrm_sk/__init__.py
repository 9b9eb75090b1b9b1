"""Reward models from implicit preference data, in scikit-learn's manner."""

from ._estimator import ImplicitRewardEstimator
from .exceptions import IdentificationWarning

__all__ = ["IdentificationWarning", "ImplicitRewardEstimator"]
__version__ = "0.1.0.dev0"
