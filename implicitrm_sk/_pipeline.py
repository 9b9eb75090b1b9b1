"""A fitted estimator, alone or at the end of a pipeline."""

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ._estimator import ImplicitRewardEstimator


def split_pipeline(est):
    """Return the estimator, and the function that makes its input of X.

    Raises
    ------
    TypeError
        If `est` is neither an estimator nor a pipeline that ends with one.
    """
    if isinstance(est, Pipeline) and isinstance(est[-1], ImplicitRewardEstimator):
        check_is_fitted(est[-1], "model_")
        return est[-1], est[:-1].transform
    if not isinstance(est, ImplicitRewardEstimator):
        raise TypeError(
            f"est must be an ImplicitRewardEstimator, or a Pipeline that ends with one, got "
            f"{type(est).__name__}. Of a search, pass best_estimator_."
        )
    check_is_fitted(est, "model_")
    return est, lambda X: X
