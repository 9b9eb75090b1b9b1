"""The private names of scikit-learn, and what depends on how its searches work, in one place."""

import sys

from sklearn.base import _clone_parametrized as clone_parametrized
from sklearn.base import _fit_context as fit_context
from sklearn.metrics._scorer import _MultimetricScorer as MultimetricScorer
from sklearn.metrics._scorer import _PassthroughScorer as PassthroughScorer
from sklearn.model_selection._validation import _fit_and_score as fit_and_score
from sklearn.model_selection._validation import _insert_error_scores as insert_error_scores
from sklearn.model_selection._validation import _score as score_of
from sklearn.model_selection._validation import (
    _warn_or_raise_about_fit_failures as warn_or_raise_about_fit_failures,
)
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import _safe_split as safe_split
from sklearn.utils.validation import _check_feature_names as check_feature_names
from sklearn.utils.validation import _check_method_params as check_method_params
from sklearn.utils.validation import _check_n_features as check_n_features
from sklearn.utils.validation import _num_samples as num_samples

__all__ = [
    "ATTRIBUTES_OF_SKLEARN",
    "METADATA_REQUEST",
    "Interval",
    "MultimetricScorer",
    "StrOptions",
    "begin_callbacks",
    "callbacks_of",
    "check_feature_names",
    "check_method_params",
    "check_n_features",
    "clone_parametrized",
    "fit_and_score",
    "fit_context",
    "insert_error_scores",
    "num_samples",
    "parent_context",
    "safe_indexing",
    "safe_split",
    "score_of",
    "scorers_of",
    "searches_by_own_score",
    "validate_params",
    "warn_or_raise_about_fit_failures",
]

#: Holds the metadata that an estimator requests, once a request was set.
METADATA_REQUEST = "_metadata_request"
#: Attributes that are not learned: how to watch a fit, and what metadata to request.
ATTRIBUTES_OF_SKLEARN = ("_skl_callbacks", "_sklearn_version", METADATA_REQUEST)


def callbacks_of(estimator):
    """Return the callbacks that `set_callbacks` gave an estimator."""
    return list(getattr(estimator, "_skl_callbacks", ()))


def begin_callbacks(estimator, max_subtasks):
    """Return the callback context of a fit that begins; a search or pipeline is its parent."""
    return estimator._init_callback_context(max_subtasks=max_subtasks)


def scorers_of(scorer):
    """Return the scorers of several metrics by name, or the single scorer itself."""
    return scorer._scorers if isinstance(scorer, MultimetricScorer) else scorer


def validate_params(estimator):
    """Raise if a parameter of an estimator is of the wrong type or out of range."""
    estimator._validate_params()


def parent_context(estimator):
    """Return the callback context of the search or pipeline that fits an estimator, or None."""
    return getattr(estimator, "_parent_callback_ctx", None)


def searches_by_own_score(name, without):
    """Return whether the search that fits now compares values of parameter `name` by `score`.

    It is true only if the search does not pass the metadata `without` to `score`.

    The callback context shows that there is a search. As of scikit-learn 1.9.1 it holds names and
    numbers of tasks, but neither what the search varies, nor how it scores, nor the search itself.
    Only the function that fits one candidate has these, as local variables. `score` is called too
    late, when an error becomes a missing score, and the first candidate wins.
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is fit_and_score.__code__:
            values = frame.f_locals
            return (
                isinstance(values["scorer"], PassthroughScorer)
                and without not in (values["score_params"] or {})
                and any(key.split("__")[-1] == name for key in values["parameters"] or {})
            )
        frame = frame.f_back
    return False
