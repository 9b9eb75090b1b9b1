"""scikit-learn's own estimator checks."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_param_validation,
    estimator_checks_generator,
    parametrize_with_checks,
)
from sklearn.utils.metaestimators import available_if

from implicitrm_sk import ImplicitRewardEstimator
from implicitrm_sk.objectives import OBJECTIVES

# Small data of the checks: the split has too few rows, and naming that is right.
pytestmark = pytest.mark.filterwarnings(
    "ignore:early_stopping needs at least:UserWarning",
)

STOCHASTIC = "minibatches and the split are drawn by row, a weight of 2 is not a row twice"
NOT_ACTIONS = "y must be an action in {0,1}"
CHECKS_WITH_OTHER_Y = (
    "check_dict_unchanged",
    "check_dont_overwrite_parameters",
    "check_dtype_object",
    "check_estimators_dtypes",
    "check_estimators_fit_returns_self",
    "check_estimators_overwrite_params",
    "check_f_contiguous_array_estimator",
    "check_fit2d_1feature",
    "check_fit2d_predict1d",
    "check_fit_score_takes_y",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_n_features_in_after_fitting",
    "check_positive_only_tag_during_fit",
    "check_readonly_memmap_input",
    "check_sample_weights_list",
    "check_sample_weights_not_an_array",
    "check_sample_weights_not_overwritten",
    "check_sample_weights_pandas_series",
    "check_sample_weights_shape",
)


class ThresholdedActions(ImplicitRewardEstimator):
    """The estimator on any numeric y: in the upper half of its range means acted."""

    def fit(self, X, y, sample_weight=None, groups=None):
        return super().fit(X, _acted(y), sample_weight, groups)

    @available_if(lambda estimator: hasattr(super(), "partial_fit"))
    def partial_fit(self, X, y, sample_weight=None):
        return super().partial_fit(X, _acted(y), sample_weight)

    def score(self, X, y, true_preference=None, sample_weight=None):
        return super().score(X, _acted(y), true_preference, sample_weight)


class ScoredByTruth(ThresholdedActions):
    """For objectives without P(y | x), whose score needs the truth: here the actions."""

    def score(self, X, y, true_preference=None, sample_weight=None):
        return super().score(X, y, _acted(y), sample_weight)


def _acted(y):
    values = np.asarray(y)
    if values.dtype.kind not in "biufO" or not values.size or values.ravel()[0] is None:
        return y  # for the estimator's own checks
    try:
        values = values.astype(float)
    except ValueError:
        return y
    return (values > (values.min() + values.max()) / 2).astype(float)


#: Objectives with all checks, beside "stratified": a weighted risk and a loss of pairs.
WITH_ALL_CHECKS = ("ips", "bpr")
#: Of the others only these: their outcome depends on what an objective computes from the data. The
#: rest is about parameters, tags and validation, which all objectives share.
DEPEND_ON_THE_OBJECTIVE = {
    "check_all_zero_sample_weights_error",
    "check_dict_unchanged",
    "check_dont_overwrite_parameters",
    "check_estimators_dtypes",
    "check_estimators_fit_returns_self",
    "check_estimators_pickle",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit_idempotent",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_pipeline_consistency",
    "check_readonly_memmap_input",
    "check_sample_weights_not_overwritten",
}

SMALL = {
    "n_estimators": 2,
    "hidden_layer_sizes": (8,),
    "learning_rate_init": 0.03,
    "random_state": 0,
}


def of_objective(name):
    """The estimator with an objective of the literature, a class prior where it needs one."""
    cls = ThresholdedActions if OBJECTIVES[name].models_actions else ScoredByTruth
    rate = {"preference_rate": 0.9} if OBJECTIVES[name].needs_preference_rate else {}
    return cls(name, **SMALL, **rate, max_epochs=5)


def expected_failures(estimator):
    return {"check_sample_weight_equivalence_on_dense_data": STOCHASTIC}


# For any number of columns.
SELECTION = {"reward_features": slice(None), "propensity_features": slice(0, 1)}


@parametrize_with_checks(
    [ThresholdedActions(**SMALL), ThresholdedActions(**SMALL, **SELECTION)],
    expected_failed_checks=expected_failures,
)
def test_any_y(estimator, check):
    check(estimator)


def checks_of_objectives():
    """Return an estimator of each objective with its checks."""
    found = []
    for name, cls in sorted(OBJECTIVES.items()):
        if name == "stratified" or cls.needs_both_polarities:
            continue
        for estimator, check in estimator_checks_generator(of_objective(name)):
            called = getattr(check, "func", check).__name__
            if name in WITH_ALL_CHECKS or called in DEPEND_ON_THE_OBJECTIVE:
                reason = expected_failures(estimator).get(called)
                marks = () if reason is None else pytest.mark.xfail(reason=reason)
                found.append(pytest.param(estimator, check, id=f"{name}-{called}", marks=marks))
    return found


@pytest.mark.filterwarnings("ignore:.*were still improving", "ignore:.*contradict")
@pytest.mark.parametrize(("estimator", "check"), checks_of_objectives())
def test_objectives(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [ImplicitRewardEstimator(**SMALL)],
    expected_failed_checks=lambda estimator: (
        dict.fromkeys(CHECKS_WITH_OTHER_Y, NOT_ACTIONS)
        | {"check_sample_weight_equivalence_on_dense_data": STOCHASTIC}
    ),
)
def test_public_class(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", [ThresholdedActions(**SMALL), ImplicitRewardEstimator()])
@pytest.mark.parametrize(
    "check", [check_param_validation, check_dataframe_column_names_consistency]
)
def test_checks_that_scikit_learn_keeps_to_itself(estimator, check):
    check(type(estimator).__name__, estimator)
