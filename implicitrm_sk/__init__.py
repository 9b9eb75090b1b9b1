"""Reward models from implicit preference data, with the interface of scikit-learn."""

from typing import TYPE_CHECKING

from ._lazy import lazy

if TYPE_CHECKING:
    from ._checkpoint import Checkpoint
    from ._estimator import ImplicitRewardEstimator
    from ._search import BatchedSearchCV
    from .embedding import LLMEmbedder
    from .exceptions import (
        IdentificationWarning,
        ImplicitRMError,
        ModelFileError,
        ShiftWarning,
    )
    from .inspection import identification_report

__all__ = [
    "BatchedSearchCV",
    "Checkpoint",
    "IdentificationWarning",
    "ImplicitRMError",
    "ImplicitRewardEstimator",
    "LLMEmbedder",
    "ModelFileError",
    "ShiftWarning",
    "identification_report",
]
__version__ = "0.1.0"
__getattr__, __dir__ = lazy(
    __name__,
    {
        "_checkpoint": ("Checkpoint",),
        "_estimator": ("ImplicitRewardEstimator",),
        "_search": ("BatchedSearchCV",),
        "embedding": ("LLMEmbedder",),
        "exceptions": (
            "IdentificationWarning",
            "ImplicitRMError",
            "ModelFileError",
            "ShiftWarning",
        ),
        "inspection": ("identification_report",),
    },
    modules=(
        "cli",
        "datasets",
        "embedding",
        "exceptions",
        "inspection",
        "integrations",
        "metrics",
        "objectives",
        "signals",
    ),
)
