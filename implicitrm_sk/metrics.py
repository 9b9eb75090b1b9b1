"""Metrics of how well a reward agrees with true preference, and scorers that get it by routing."""

from collections.abc import Callable
from inspect import signature
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import mean_absolute_error, r2_score, roc_auc_score, root_mean_squared_error
from sklearn.utils.metadata_routing import MetadataRequest

from ._keys import codes_of
from ._tables import as_numbers, as_values, first_no_number
from ._warnings import warn
from .exceptions import ImplicitRMError

__all__ = [
    "PREFERENCE_METRICS",
    "calibration_error",
    "make_preference_scorer",
    "paired_accuracy",
    "preference_nll",
    "preference_scorers",
    "reward_metrics",
]


def reward_metrics(
    true_preference: ArrayLike,
    reward: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    n_bins: int = 10,
    strategy: str = "uniform",
) -> dict[str, float]:
    """Compute all metrics of a reward against true preference.

    Parameters
    ----------
    true_preference : array-like of shape (n,)
        True preference: r* in {0, 1}, where 1 means preferred, or graded in [0, 1] (a win rate).
        Rows with NaN are unknown and left out.

    reward : array-like of shape (n,)
        Reward in [0, 1], the probability of preference.

    sample_weight : array-like of shape (n,), default=None
        Weight of each row, not negative.

    groups : array-like of shape (n,), default=None
        Prompt of each row, for the paired accuracy; without it this metric is left out.

    n_bins : int, default=10
        See :func:`calibration_error`.

    strategy : {"uniform", "quantile"}, default="uniform"
        See :func:`calibration_error`.

    Returns
    -------
    metrics : dict of str to float
        ``r2``, ``mae``, ``rmse``, ``nll``, ``auroc``, ``calibration_error`` and, if `groups` is
        given, ``paired_accuracy``. The AUROC is NaN if the known preference is graded, or has only
        one value. The paired accuracy is NaN if no group has two different preferences.

    Raises
    ------
    ValueError
        If the shapes differ, a value lies outside [0, 1] or fewer than two rows are known.

    Notes
    -----
    R2 = 1 - sum(w (t - r)^2) / sum(w (t - mean t)^2) for preference t, reward r and weight w.
    The MAE is not a proper score: it is lowest when every reward is rounded to 0 or 1. Read it
    together with RMSE, NLL and calibration error.

    Examples
    --------
    >>> from implicitrm_sk.metrics import reward_metrics
    >>> metrics = reward_metrics([1, 0, 1, 0], [0.9, 0.2, 0.6, 0.7], groups=["a", "a", "b", "b"])
    >>> {name: round(value, 3) for name, value in metrics.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'r2': 0.3, 'mae': 0.35, 'rmse': 0.418, 'nll': 0.511, 'auroc': 0.75,
    'calibration_error': 0.35, 'paired_accuracy': 0.5}
    """
    options = {"calibration_error": {"n_bins": n_bins, "strategy": strategy}}
    # Arguments are checked first, so that the errors of the metrics mean only "not defined".
    _check_unit_interval("reward", check_rewards(true_preference, reward, sample_weight, groups)[1])
    metrics = {}
    for name, metric in PREFERENCE_METRICS.items():
        kwargs = dict(options.get(name, {}))
        if name == "paired_accuracy":
            if groups is None:
                continue
            kwargs["groups"] = groups
        try:
            metrics[name] = metric(true_preference, reward, sample_weight=sample_weight, **kwargs)
        except _UndefinedMetricError:
            metrics[name] = float("nan")
    return metrics


def preference_nll(
    true_preference: ArrayLike, reward: ArrayLike, *, sample_weight: ArrayLike | None = None
) -> float:
    """Compute the negative log-likelihood of true preference under a reward.

    It is the mean over the rows of ``-(t log r + (1 - t) log(1 - r))`` for preference t and reward
    r. This is the log loss of :func:`sklearn.metrics.log_loss`, and the cross-entropy if t is
    graded.

    Parameters
    ----------
    true_preference : array-like of shape (n,)
        True preference in [0, 1], binary or graded. Rows with NaN are unknown and left out.

    reward : array-like of shape (n,)
        Reward in [0, 1]. Values are clipped to [eps, 1 - eps], where eps is the machine epsilon of
        their dtype, as in scikit-learn. A wrong 0 or 1 costs about 16 in float32 and 36 in float64,
        never infinity.

    sample_weight : array-like of shape (n,), default=None
        Weight of each row, not negative.

    Returns
    -------
    nll : float
        Mean negative log-likelihood in nats, lower is better.

    Raises
    ------
    ValueError
        If the shapes differ, a value lies outside [0, 1] or fewer than two rows are known.

    Examples
    --------
    >>> from implicitrm_sk.metrics import preference_nll
    >>> round(preference_nll([1, 0], [0.8, 0.4]), 3)
    0.367
    """
    t, reward, weight, _ = check_rewards(true_preference, reward, sample_weight)
    _check_unit_interval("reward", reward)
    eps = np.finfo(reward.dtype).eps
    r = np.clip(reward, eps, 1 - eps).astype(np.float64)
    losses = -(t * np.log(r) + (1 - t) * np.log1p(-r))
    return float(np.average(losses, weights=weight))


def calibration_error(
    true_preference: ArrayLike,
    reward: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    n_bins: int = 10,
    strategy: str = "uniform",
) -> float:
    """Compute the expected calibration error of a reward.

    Rows are grouped into bins by their reward. The error is the mean over the bins of ``|mean
    preference - mean reward|``, weighted by their share of the rows [1]_.

    Parameters
    ----------
    true_preference : array-like of shape (n,)
        True preference in [0, 1], binary or graded. Rows with NaN are unknown and left out.

    reward : array-like of shape (n,)
        Reward in [0, 1].

    sample_weight : array-like of shape (n,), default=None
        Weight of each row, not negative.

    n_bins : int, default=10
        Number of bins.

    strategy : {"uniform", "quantile"}, default="uniform"
        ``"uniform"`` cuts [0, 1] into bins of equal width, open on the left except the first.
        ``"quantile"`` cuts the rows into bins of about equal weight; rows of equal reward share a
        bin.

    Returns
    -------
    error : float
        Calibration error in [0, 1], lower is better. It is not a proper score: a constant equal to
        the rate of preference has error 0. In small samples, finite bins bias it upwards.

    Raises
    ------
    ValueError
        If the shapes differ, a value lies outside [0, 1], fewer than two rows are known, or
        `n_bins` or `strategy` is out of range.

    References
    ----------
    .. [1] Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
       equation 3.

    Examples
    --------
    >>> from implicitrm_sk.metrics import calibration_error
    >>> round(calibration_error([1, 0, 1, 1], [0.95, 0.95, 0.55, 0.55]), 3)
    0.45
    """
    true_preference, reward, weight, _ = check_rewards(true_preference, reward, sample_weight)
    bins = reward_bins(reward, weight, n_bins, strategy)
    gap = np.bincount(bins, weight * (true_preference - reward.astype(np.float64)))
    return float(np.abs(gap).sum() / weight.sum())


def reward_bins(reward, weight, n_bins, strategy):
    """Return the bin of each row, for :func:`calibration_error` and the reliability curve."""
    if not isinstance(n_bins, (int, np.integer)) or isinstance(n_bins, bool) or n_bins < 1:
        raise ImplicitRMError(f"n_bins must be an integer of at least 1, got {n_bins!r}. Pass 10.")
    if strategy not in ("uniform", "quantile"):
        raise ImplicitRMError(
            f"strategy must be 'uniform' or 'quantile', got {strategy!r}. Pass one of them."
        )
    _check_unit_interval("reward", reward)
    reward = reward.astype(np.float64)
    if strategy == "uniform":
        return np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], reward)
    _, code = np.unique(reward, return_inverse=True)
    mass = np.bincount(code, weight)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    return np.minimum((middle * n_bins).astype(int), n_bins - 1)[code]


def paired_accuracy(
    true_preference: ArrayLike,
    reward: ArrayLike,
    groups: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Compute the share of pairs within groups that a reward orders like the true preference.

    All pairs of rows of one group (the responses to one prompt) with different true preference have
    the same weight, in every group. A pair of equal rewards counts half. With one group and binary
    preference, this is the area under the ROC curve.

    Parameters
    ----------
    true_preference : array-like of shape (n,)
        True preference on any ordered scale: r*, a win rate, a rating. Rows with NaN are unknown
        and left out.

    reward : array-like of shape (n,)
        Reward, on any ordered scale: a probability or a logit.

    groups : array-like of shape (n,)
        Group (prompt) of each row, any labels.

    sample_weight : array-like of shape (n,), default=None
        Weight of each row, not negative. The weight of a pair is the product of its two rows, as if
        rows were repeated.

    Returns
    -------
    accuracy : float
        Share in [0, 1], higher is better, 0.5 for a constant reward.

    Raises
    ------
    ValueError
        If the shapes differ, fewer than two rows are known or no group has two rows of different
        true preference.

    Notes
    -----
    Pairs are counted by sorting, not one by one. It takes O(n log(n) log(m)) for groups of at most
    m rows.

    Examples
    --------
    >>> from implicitrm_sk.metrics import paired_accuracy
    >>> paired_accuracy([1, 0, 1, 0], [0.9, 0.2, 0.6, 0.7], ["a", "a", "b", "b"])
    0.5
    """
    if groups is None:
        raise ImplicitRMError("groups must be given, got None. Pass the prompt of each row.")
    truth, reward, weight, groups = check_rewards(
        true_preference, reward, sample_weight, groups, unit_interval=False
    )
    used = weight > 0
    truth, reward, weight, groups = truth[used], reward[used], weight[used], groups[used]
    pairs = _pair_weight(weight, groups) - _pair_weight(weight, _joint_codes(groups, truth))
    if not _has_different(truth, groups).any():
        raise _UndefinedMetricError(
            "paired_accuracy needs a group with at least two rows of different true_preference; "
            f"found none among {len(np.unique(groups))} group(s) of {len(truth)} row(s). Pass the "
            "prompt of each row as groups, not an identifier of the row."
        )
    by_reward = _joint_codes(groups, reward)
    ties = _pair_weight(weight, by_reward) - _pair_weight(weight, _joint_codes(by_reward, truth))
    return float((_concordant_weight(truth, by_reward, weight, groups) + ties / 2) / pairs)


def make_preference_scorer(metric: str | list[str] = "r2", **kwargs: Any) -> Callable[..., Any]:
    """Make a scorer that compares the predicted reward with the true preference.

    The scorer is used as ``scoring=`` of :class:`~sklearn.model_selection.GridSearchCV`,
    :func:`~sklearn.model_selection.cross_validate` and so on. Metadata routing passes the true
    preference to it, and to no ``fit``. It ignores the `y` of the search, the actions.

    Parameters
    ----------
    metric : str or list of str, default="r2"
        Name(s) in :data:`PREFERENCE_METRICS`. A list makes one scorer that predicts once and
        returns a dict of scores, with the keys of :func:`preference_scorers`.

    **kwargs : dict
        Options of the metric, for example ``n_bins=20`` of the calibration error.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y, *, true_preference, sample_weight=None, groups=None)`` returns
        the score of ``estimator.predict(X)``; greater is better, so errors (MAE, RMSE, NLL,
        calibration error) have a negative sign. `groups` is accepted for ``paired_accuracy`` only.
        Rows whose true preference is NaN are left out. At least two known rows are needed.

        It requests ``true_preference``, ``sample_weight`` (and ``groups``) by itself;
        ``scorer.set_score_request(sample_weight=False)`` changes that.

    Raises
    ------
    ValueError
        If a name is unknown, or the metric does not have an option. When called: if the true
        preference was not passed.

    See Also
    --------
    preference_scorers : Returns all scorers by name.

    Notes
    -----
    A search catches errors of its scorer, warns and continues with NaN. With
    ``error_score="raise"`` it stops.

    Examples
    --------
    >>> import numpy as np
    >>> import sklearn
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.model_selection import cross_validate
    >>> from implicitrm_sk.datasets import simulate_feedback
    >>> from implicitrm_sk.metrics import make_preference_scorer
    >>> X = np.random.default_rng(0).normal(size=(300, 3))
    >>> log = simulate_feedback((X[:, 0] > 0).astype(int), X=X, random_state=0)
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     result = cross_validate(
    ...         Ridge(),
    ...         X,
    ...         log.actions,
    ...         scoring=make_preference_scorer("auroc"),
    ...         params={"true_preference": log.true_preference},
    ...     )
    >>> bool(result["test_score"].mean() > 0.9)
    True
    """
    return _PreferenceScorer(metric, kwargs)


def preference_scorers() -> dict[str, Callable[..., Any]]:
    """Make the scorers of all metrics, for scoring with several metrics at once.

    Returns
    -------
    scorers : dict of str to callable
        ``r2``, ``neg_mae``, ``neg_rmse``, ``neg_nll``, ``auroc``, ``neg_calibration_error`` and
        ``paired_accuracy``, see :func:`make_preference_scorer`. The last one needs ``groups``;
        remove it if you have none.

    Examples
    --------
    >>> from implicitrm_sk.metrics import preference_scorers
    >>> preference_scorers()["neg_mae"]
    make_preference_scorer('mae')
    """
    return {_score_name(name): make_preference_scorer(name) for name in PREFERENCE_METRICS}


class _UndefinedMetricError(ImplicitRMError):
    """The arguments are right, but the metric is not defined for these data."""


class _PreferenceScorer:
    """Scorer with its own metadata request, built on scikit-learn's public routing classes."""

    def __init__(self, metric, kwargs):
        names = [metric] if isinstance(metric, str) else metric
        if (
            not isinstance(names, (list, tuple))
            or not names
            or not all(isinstance(name, str) and name in PREFERENCE_METRICS for name in names)
        ):
            raise ImplicitRMError(
                f"metric must be one of {list(PREFERENCE_METRICS)} or a list of them, got "
                f"{metric!r}. Correct the name."
            )
        options = {name: _options(name) for name in names}
        for key in kwargs:
            if not any(key in known for known in options.values()):
                raise ImplicitRMError(
                    f"{key!r} is not an option of metric={metric!r}. Options by metric: {options}. "
                    "Correct the name."
                )
        self._metric = metric
        self._names = tuple(names)
        self._kwargs = dict(kwargs)
        self._request = {"true_preference": True, "sample_weight": True}
        if "paired_accuracy" in names:
            self._request["groups"] = True

    def __repr__(self):
        options = "".join(f", {key}={value!r}" for key, value in self._kwargs.items())
        return f"make_preference_scorer({self._metric!r}{options})"

    def __call__(
        self, estimator, X, y=None, *, true_preference=None, sample_weight=None, groups=None
    ):
        if true_preference is None:
            raise ImplicitRMError(
                f"{self!r} did not get true_preference. Turn routing on with "
                "sklearn.set_config(enable_metadata_routing=True), then pass the truth: "
                'cross_validate(..., params={"true_preference": truth}), '
                "GridSearchCV(...).fit(X, actions, true_preference=truth) or "
                "scorer(estimator, X, actions, true_preference=truth)."
            )
        if groups is None and "paired_accuracy" in self._names:
            raise ImplicitRMError(
                f"{self!r} did not get groups, the prompt of each row. Pass them like "
                'true_preference, for example params={"true_preference": truth, "groups": prompts}.'
            )
        reward = estimator.predict(X)
        scores = {}
        for name in self._names:
            known = _options(name)
            kwargs = {key: value for key, value in self._kwargs.items() if key in known}
            if name == "paired_accuracy":
                kwargs["groups"] = groups
            value = PREFERENCE_METRICS[name](
                true_preference, reward, sample_weight=sample_weight, **kwargs
            )
            scores[_score_name(name)] = -value if name in _LOSSES else value
        return next(iter(scores.values())) if isinstance(self._metric, str) else scores

    def set_score_request(self, **requests):
        """Change which metadata the scorer requests.

        Parameters
        ----------
        **requests : dict
            ``true_preference``, ``sample_weight`` or ``groups`` = True, False, None or the name
            under which it is passed.

        Returns
        -------
        scorer : object
            The scorer itself.
        """
        unknown = sorted(set(requests) - set(self._request))
        if unknown:
            raise TypeError(
                f"{self!r} takes only {sorted(self._request)}, got {unknown}. Correct the name."
            )
        self._request.update(requests)
        return self

    def get_metadata_routing(self):
        """Get the metadata request of the scorer.

        Returns
        -------
        routing : :class:`~sklearn.utils.metadata_routing.MetadataRequest`
            The request of ``score``.
        """
        routing = MetadataRequest(owner=self)
        for param, alias in self._request.items():
            routing.score.add_request(param=param, alias=alias)
        return routing

    def _accept_sample_weight(self):
        # Searches ask this of a scorer if they get sample_weight and routing is off.
        return True


def _r2(true_preference, reward, *, sample_weight=None):
    """Coefficient of determination, :func:`sklearn.metrics.r2_score`, of the known rows."""
    t, r, w, _ = check_rewards(true_preference, reward, sample_weight)
    value = float(r2_score(t, r, sample_weight=w))
    counted = t[w > 0]
    if (counted == counted[0]).all():
        warn(
            f"R2 is not defined: all {len(counted)} known values of true_preference are "
            f"{counted[0]:g}; expected different ones. {value:g} is returned, as r2_score of "
            "scikit-learn does. Pass rows of both kinds, or use the metric mae.",
            UndefinedMetricWarning,
        )
    return value


def _mae(true_preference, reward, *, sample_weight=None):
    """Mean absolute error of the known rows."""
    t, r, w, _ = check_rewards(true_preference, reward, sample_weight)
    return float(mean_absolute_error(t, r, sample_weight=w))


def _rmse(true_preference, reward, *, sample_weight=None):
    """Root mean squared error of the known rows."""
    t, r, w, _ = check_rewards(true_preference, reward, sample_weight)
    return float(root_mean_squared_error(t, r, sample_weight=w))


def _auroc(true_preference, reward, *, sample_weight=None):
    """Area under the ROC curve of the known rows, whose preference must be binary."""
    t, r, w, _ = check_rewards(true_preference, reward, sample_weight)
    if not np.isin(t, (0, 1)).all():
        raise _UndefinedMetricError(
            f"auroc needs a binary true_preference, got graded values (such as "
            f"{t[~np.isin(t, (0, 1))][0]:g}). Threshold it, or use r2 or paired_accuracy."
        )
    if len(np.unique(t[w > 0])) < 2:
        raise _UndefinedMetricError(
            f"auroc needs both kinds of true_preference, but all {len(t)} known rows are "
            f"{t[w > 0][0]:g}. Evaluate on more rows, or use stratified folds."
        )
    return float(roc_auc_score(t, r, sample_weight=w))


#: Metrics by name, each called as ``metric(true_preference, reward, sample_weight=None)``;
#: ``paired_accuracy`` also needs ``groups``. They leave out rows whose true preference is NaN.
PREFERENCE_METRICS = MappingProxyType(
    {
        "r2": _r2,
        "mae": _mae,
        "rmse": _rmse,
        "nll": preference_nll,
        "auroc": _auroc,
        "calibration_error": calibration_error,
        "paired_accuracy": paired_accuracy,
    }
)
_LOSSES = ("mae", "rmse", "nll", "calibration_error")


def _score_name(name):
    return f"neg_{name}" if name in _LOSSES else name


def _options(name):
    passed = ("true_preference", "reward", "sample_weight", "groups")
    return [key for key in signature(PREFERENCE_METRICS[name]).parameters if key not in passed]


def check_rewards(true_preference, reward, sample_weight=None, groups=None, *, unit_interval=True):
    """Check the arguments of a metric and leave out the rows of unknown preference."""
    truth = _float_vector("true_preference", true_preference)
    reward = _float_vector("reward", reward)
    truth = truth.astype(np.float64)
    weight = np.ones(len(truth))
    if sample_weight is not None:
        weight = _float_vector("sample_weight", sample_weight).astype(np.float64)
    if groups is not None:
        groups = as_values(groups)
        if groups.ndim != 1:
            raise ImplicitRMError(
                f"groups must be one-dimensional, got shape {groups.shape}. Pass the prompt of "
                "each row."
            )
    others = {"reward": reward, "sample_weight": weight, "groups": groups}
    for name, array in others.items():
        if array is not None and len(array) != len(truth):
            raise ImplicitRMError(
                f"{name} has {len(array)} rows but true_preference has {len(truth)}. "
                "Pass one value for each row, in the same order."
            )
    if np.isinf(truth).any():
        raise ImplicitRMError(
            "true_preference holds infinity. Pass finite values, and NaN where it is unknown."
        )
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise ImplicitRMError(
            "sample_weight must be finite and not negative. Give weight 0 to rows to leave out."
        )
    if not np.isfinite(reward).all():
        raise ImplicitRMError(
            "reward holds NaN or infinity. Pass the predictions of a fitted model."
        )

    known = ~np.isnan(truth)
    if known.sum() < 2:
        raise ImplicitRMError(
            f"true_preference is known (not NaN) in {int(known.sum())} of {len(truth)} rows; "
            "expected at least 2. Evaluate on more rows."
        )
    truth, reward, weight = truth[known], reward[known], weight[known]
    if weight.sum() == 0:
        raise ImplicitRMError(
            "sample_weight is 0 in every row of known true_preference; expected a positive "
            "weight. Give some row a weight."
        )
    if unit_interval:
        _check_unit_interval("true_preference", truth)
    if groups is not None:
        groups = codes_of(groups[known])
    return truth, reward, weight, groups


def _float_vector(name, values):
    array = np.asarray(as_numbers(values))
    wrong = first_no_number(array)
    if wrong is not None:
        raise ImplicitRMError(
            f"{name} must hold numbers, but holds {wrong[1]!r} of {type(wrong[1]).__name__}. "
            "Convert it first."
        )
    if array.dtype.kind != "f":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ImplicitRMError(f"{name} must hold numbers: {error}") from error
    if array.ndim != 1:
        raise ImplicitRMError(
            f"{name} must be one-dimensional, got shape {array.shape}. Pass one value for each row."
        )
    return array


def _check_unit_interval(name, array):
    if array.min() < 0 or array.max() > 1:
        hint = (
            "Pass the probability that predict returns, not a logit."
            if name == "reward"
            else "Rescale it, or turn ratings into preference with a threshold."
        )
        raise ImplicitRMError(
            f"{name} must lie in [0, 1], got values from {array.min():g} to {array.max():g}. {hint}"
        )


def _joint_codes(codes, values):
    """Return codes of the pairs (codes, values), in the order of the codes, then of the values."""
    rank = np.unique(values, return_inverse=True)[1].astype(np.int64)
    joint = codes.astype(np.int64) * (rank.max() + 1) + rank
    return np.unique(joint, return_inverse=True)[1]


def _pair_weight(weight, codes):
    """Return the total weight of the pairs of rows with the same code."""
    total = np.bincount(codes, weight)
    squares = np.bincount(codes, weight**2)
    return float((total**2 - squares).sum() / 2)


def _has_different(truth, groups):
    order = np.lexsort((truth, groups))
    same_group = np.diff(groups[order]) == 0
    return same_group & (np.diff(truth[order]) > 0)


def _concordant_weight(truth, by_reward, weight, groups):
    """Return the total weight of the pairs of one group whose reward rises strictly with the truth.

    Rows are sorted by truth within each group, so such a pair is a rise of the reward. Two ranks a
    < b first differ in one bit, which is 0 in a and 1 in b. For each bit, the rows that agree in
    the group and the higher bits are put together. The weight of the zeros before each one is then
    added up.
    """
    # Equal truth is sorted by falling reward, so that none of its pairs is a rise.
    order = np.lexsort((-by_reward, truth, groups))
    groups, weight = groups[order], weight[order]
    first = np.full(groups.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, groups, by_reward[order])
    rank = by_reward[order] - first[groups]

    total = 0.0
    n_bits = int(rank.max()).bit_length()
    for bit in range(n_bits):
        block = (groups << (n_bits - bit - 1)) + (rank >> (bit + 1))
        order = np.argsort(block, kind="stable")
        block, w, one = block[order], weight[order], (rank[order] >> bit) & 1 == 1
        zeros_before = np.cumsum(np.where(one, 0.0, w))
        start = np.flatnonzero(np.r_[True, block[1:] != block[:-1]])
        before_block = np.r_[0.0, zeros_before][start]
        size = np.diff(np.r_[start, len(block)])
        total += float((w * (zeros_before - np.repeat(before_block, size)))[one].sum())
    return total
