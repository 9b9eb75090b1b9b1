"""What a type checker sees of the package: for mypy and pyright in `make lint`, never run."""

from collections.abc import Callable
from typing import Any, assert_type

import numpy as np
import torch
from numpy.typing import NDArray

from implicitrm_sk import ImplicitRewardEstimator, LLMEmbedder, identification_report
from implicitrm_sk.datasets import (
    FeedbackData,
    actions_from_events,
    read_feedback_log,
    simulate_feedback,
)
from implicitrm_sk.embedding import EmbeddingStore
from implicitrm_sk.inspection import (
    GroupComparison,
    IdentificationDisplay,
    IdentificationReport,
    ReliabilityDisplay,
    SensitivityReport,
    ShiftReport,
    compare_groups,
    label_queue,
    sensitivity_report,
    shift_report,
)
from implicitrm_sk.integrations import PairedAccuracy, Ranking, evaluate_pairs, rank
from implicitrm_sk.metrics import calibration_error, make_preference_scorer, reward_metrics
from implicitrm_sk.objectives import Batch, Naive
from implicitrm_sk.signals import Action, Choice


class HalfOfNaive(Naive):
    pairs = "any"

    def loss(
        self, reward_logit: torch.Tensor, propensity_logit: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        return 0.5 * super().loss(reward_logit, propensity_logit, batch)


Floats = NDArray[np.floating[Any]]

X = np.zeros((4, 2))
y = [1, 0, 0, 1]
texts = [("a prompt", "a response"), ("another", "one more")]
dicts = [{"prompt": "a prompt", "response": "a response"}]

est = ImplicitRewardEstimator(HalfOfNaive(), hidden_layer_sizes=(64, 32), random_state=0)
assert_type(est, ImplicitRewardEstimator)
assert_type(est.fit(X, y, labels=[1, 0, np.nan, np.nan]), ImplicitRewardEstimator)
assert_type(est.partial_fit(X, y), ImplicitRewardEstimator)
assert_type(est.predict(X), Floats)
assert_type(est.predict(X, return_std=True), tuple[Floats, Floats])
assert_type(est.predict(texts), Floats)
assert_type(est.predict(dicts), Floats)
assert_type(est.predict_proba(X, y), Floats)
assert_type(est.propensity(X), Floats)
assert_type(est.score(X, None, true_preference=y), float)
assert_type(est.history_, list[dict[str, list[float]]])
assert_type(ImplicitRewardEstimator.load("reward.zip"), ImplicitRewardEstimator)

thumb = Choice({"up": 1, "down": 0})
log = simulate_feedback([1, 0, 0, 1], signals={"copied": "positive", "rated": thumb})
assert_type(log, FeedbackData)
assert_type(log.fit_params(), dict[str, NDArray[Any]])
assert_type(read_feedback_log("log.jsonl", signals=["copied"]), FeedbackData)
assert_type(actions_from_events(None, None, {"copy": "positive"}, window="1h"), FeedbackData)
ImplicitRewardEstimator(signals=[Action(), Action(0, false_rate=0.1)]).fit(X, y, user_id=y)

embedder = LLMEmbedder("org/name", cache_dir=None)
assert_type(embedder.fit_transform(dicts), NDArray[Any])
assert_type(embedder.store, EmbeddingStore | None)

report = identification_report(est, X, y)
assert_type(report, IdentificationReport)
assert_type(report.verdict, str)
assert_type(report.bounds(X), Floats)
assert_type(shift_report(est, X, X), ShiftReport)
assert_type(compare_groups(est, X, y, by=["a", "b", "a", "b"], reference="a"), GroupComparison)
assert_type(sensitivity_report(est, X, y), SensitivityReport)
assert_type(label_queue(est, X, y, 2), NDArray[np.int64])
assert_type(IdentificationDisplay.from_report(report), IdentificationDisplay)
assert_type(ReliabilityDisplay.from_predictions(y, est.predict(X)).plot(), ReliabilityDisplay)

assert_type(rank(est, None, X), Ranking)
assert_type(evaluate_pairs(est, (X, X)), PairedAccuracy)
assert_type(reward_metrics(y, [0.9, 0.1, 0.2, 0.8]), dict[str, float])
assert_type(calibration_error(y, [0.9, 0.1, 0.2, 0.8]), float)
assert_type(make_preference_scorer(["r2", "auroc"]), Callable[..., Any])

ImplicitRewardEstimator(n_estimators="four")  # type: ignore[arg-type]
est.predict(X, std=True)  # type: ignore[call-overload]
est.score(X)  # type: ignore[call-arg]
calibration_error(y, [0.9, 0.1, 0.2, 0.8], bins=3)  # type: ignore[call-arg]
simulate_feedback(n_signals="two")  # type: ignore[arg-type]
label_queue(est, X, y)  # type: ignore[call-arg]
