"""Reward models from implicit preference data, in scikit-learn's manner."""

from ._estimator import ImplicitRewardEstimator

__all__ = ["ImplicitRewardEstimator"]
__version__ = "0.1.0.dev0"
