"""Training objectives: one class each, chosen by name or passed as an object."""

from ._base import Batch, Objective, any_action
from ._naive import Naive
from ._stratified import Stratified

__all__ = ["OBJECTIVES", "Batch", "Naive", "Objective", "Stratified", "any_action"]

#: Objectives by the name that `ImplicitRewardEstimator(objective=...)` takes.
OBJECTIVES = {"stratified": Stratified, "naive": Naive}
