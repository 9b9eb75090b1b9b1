"""The fitted reward in other tools: TRL, transformers, preference data sets, best-of-n."""

from ._best_of_n import PairedAccuracy, Ranking, evaluate_pairs, rank
from ._datasets import to_preference_dataset
from ._fine_tune import fine_tune
from ._ray import predict_dataset
from ._transformers import TransformersExport, to_transformers
from ._trl import reward_function

__all__ = [
    "PairedAccuracy",
    "Ranking",
    "TransformersExport",
    "evaluate_pairs",
    "fine_tune",
    "predict_dataset",
    "rank",
    "reward_function",
    "to_preference_dataset",
    "to_transformers",
]
