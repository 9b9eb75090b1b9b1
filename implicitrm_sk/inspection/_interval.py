"""Bootstrap intervals of single rewards."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import t as student
from sklearn.base import clone

from .._estimator import ImplicitRewardEstimator
from .._features import embed_text, read_features, set_embedder
from .._fit import begin_fit, run_plan
from .._identification import BOUNDED, IDENTIFIED, Identification
from .._log import number_responses
from .._optional import import_optional
from .._prediction import HEADS, FittedMixture
from .._sklearn import validate_params
from .._sources import StreamedX, chunks
from .._typing import Floats, Rows
from .._validation import check_same_rows
from ..exceptions import IdentificationWarning, ImplicitRMError
from ..measurement import _mixture
from ..objectives import OBJECTIVES
from ._arguments import of_fit, without_single_rows

#: Replicates train this many times as long as early stopping would let them. A network stopped at
#: its best epoch predicts well because it is pulled towards the middle. Where the reward is near 0
#: or 1, this error is as large as the spread of the replicates, and an interval must include it.
UNDERSMOOTHING = 3.0
#: Rewards are kept so far from 0 and 1 where their logits are taken.
NEAREST = 1e-9
#: Rows for which the rewards of all replicates are held at a time.
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class RewardInterval:
    """Rewards of single responses with intervals, made by `reward_interval`.

    Attributes
    ----------
    reward : ndarray of shape (n_samples,)
        The reward from the fit on the original log.
    low, high : ndarray of shape (n_samples,)
        Ends of the intervals.
    confidence : float
        Confidence of each interval separately, not of all of them together.
    n_bootstrap : int
        Number of replicates.
    identification : Identification
        The verdict on the log, like `identification_` of a fit.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.inspection import reward_interval
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(800, 2))
    >>> y = ((X[:, 0] > 0) & (rng.random(800) < 0.5)).astype(int)
    >>> est = ImplicitRewardEstimator(max_epochs=10, early_stopping=False, random_state=0)
    >>> found = reward_interval(est, X, y, [[2.0, 0.0], [-2.0, 0.0]], n_bootstrap=10)
    >>> bool((found.low <= found.reward).all() and (found.reward <= found.high).all())
    True
    """

    reward: Floats
    low: Floats
    high: Floats
    confidence: float
    n_bootstrap: int
    identification: Identification

    def __repr__(self):
        width = (self.high - self.low).mean()
        lines = [
            f"{self.confidence:.0%} intervals of {len(self.reward)} rewards, "
            f"{self.n_bootstrap} replicates",
            f"mean reward {self.reward.mean():.3f}, mean width {width:.3f}",
            f"{self.identification}",
        ]
        if self.identification.level == IDENTIFIED:
            lines.append("The intervals cover chance in the log and in training.")
        else:
            lines.append(
                "The intervals cover chance in the log and in training, and all rewards that the "
                "actions leave open."
            )
        if self.identification.assumptions:
            lines.append("They do not cover a wrong assumption.")
        return "\n".join(lines)

    def to_frame(self) -> Any:
        """Return the rewards and their intervals as a DataFrame.

        Returns
        -------
        frame : DataFrame
            One row per response, with columns "reward", "reward_low" and "reward_high".

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import reward_interval
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(400, 2))
        >>> y = ((X[:, 0] > 0) & (rng.random(400) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0)
        >>> reward_interval(est, X, y, X[:3], n_bootstrap=5).to_frame().shape
        (3, 3)
        """
        pandas = import_optional("pandas", "data", "The DataFrame form of intervals")
        columns = {"reward": self.reward, "reward_low": self.low, "reward_high": self.high}
        return pandas.DataFrame(columns)


def reward_interval(
    est: Any,
    X: Rows,
    y: ArrayLike,
    X_new: Rows,
    *,
    n_bootstrap: int = 50,
    confidence: float = 0.9,
    groups: ArrayLike | None = None,
    user_id: ArrayLike | None = None,
    **fit_params: Any,
) -> RewardInterval:
    """Return the reward of each response with a bootstrap interval.

    The interval covers differences between logs of the same users: the rows that happened to be
    logged, the split, and the start values. It does not cover a wrong assumption. If the level is
    "identified (assuming ...)", the interval is right only if the assumption is.

    Parameters
    ----------
    est : ImplicitRewardEstimator
        The settings of the fits. It need not be fitted and is not changed.
    X : array-like of shape (n_samples, n_features), or text of n_samples rows
        The responses of the log.
    y : array-like of shape (n_samples,) or (n_samples, n_signals)
        Actions, as in `fit`.
    X_new : array-like of shape (n_new, n_features), or text of n_new rows
        The responses whose reward is requested.
    n_bootstrap : int, default=50
        Number of replicates, at least 2. With fewer the intervals are wider, and below 10 they vary
        a lot.
    confidence : float, default=0.9
        Probability that the interval of a response contains its reward.
    groups : array-like of shape (n_samples,), default=None
        As in `fit`. Rows of one group are also resampled together. Otherwise, similar rows of one
        prompt make the intervals too narrow.
    user_id : array-like of shape (n_samples,), default=None
        As in `fit`. Rows of one user are then resampled together, instead of those of a group.
    **fit_params : dict
        Further arguments of `fit`: sample_weight, response_id, exposures, labels, propensity, age,
        delay.

    Returns
    -------
    interval : RewardInterval
        It has `reward`, `low` and `high`, each of shape (n_new,).

    Raises
    ------
    TypeError
        If `est` is not an `ImplicitRewardEstimator`, or an argument is not one of `fit`.
    ValueError
        If `n_bootstrap` or `confidence` is out of range, if X is in files, or if the objective is
        not the likelihood of each row.

    Notes
    -----
    Each replicate is one member with its own weights, drawn from an exponential distribution for
    each user, group or row (Bayesian bootstrap [1]_). All replicates train side by side. Each has
    its own validation split, where its weights also count for early stopping. It trains three times
    as long as to its best epoch, because the bias must be small compared with the width of an
    interval (undersmoothing [2]_). If false-action rates are estimated, each replicate estimates
    them.

    The B replicates of the logit of a reward have the mean m and the standard deviation s. The
    interval is m -+ t s sqrt(1 + 1/B), with t the quantile of Student's distribution with B - 1
    degrees of freedom. This is a prediction interval [3]_ for one more draw, right at any B if the
    logits are normal. Empirical quantiles are too narrow: those of 20 replicates, at 5 % and 95 %,
    hold one more draw in 81 % of the cases.

    Unless the level is "identified", the actions leave an interval open in each replicate
    (`IdentificationReport.bounds`). The lower end is then computed from the lower ends of these,
    and the upper end from the upper ends.

    References
    ----------
    .. [1] Rubin, "The Bayesian Bootstrap", Annals of Statistics 9 (1), 1981.
    .. [2] Hall, "On Bootstrap Confidence Intervals in Nonparametric Regression", Annals of
       Statistics 20 (2), 1992.
    .. [3] Geisser, "Predictive inference: an introduction", Chapman & Hall, 1993.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.inspection import reward_interval
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(800, 2))
    >>> y = ((X[:, :1] > 0) & (rng.random((800, 2)) < 0.5)).astype(int)
    >>> est = ImplicitRewardEstimator(
    ...     shared_examination=False,
    ...     learning_rate_init=0.01,
    ...     max_epochs=30,
    ...     early_stopping=False,
    ...     random_state=0,
    ... )
    >>> found = reward_interval(est, X, y, [[2.0, 0.0], [-2.0, 0.0]], n_bootstrap=20)
    >>> bool(found.low[0] > 0.7 and found.high[1] < 0.3)
    True
    """
    if not isinstance(est, ImplicitRewardEstimator):
        raise TypeError(
            f"est must be an ImplicitRewardEstimator, got {type(est).__name__}. For a pipeline, "
            "pass its last step, and X as transformed by the others."
        )
    fit_params = without_single_rows(of_fit("reward_interval", fit_params, {}))
    if user_id is not None and "response_id" in fit_params:
        raise ImplicitRMError(
            "reward_interval does not take response_id beside user_id: it resamples users with all "
            "of their rows, and users who share responses cannot be resampled apart. Leave one of "
            "the two out."
        )
    fitted = clone(est).set_params(warm_start=False)
    validate_params(fitted)
    _check(fitted, n_bootstrap, confidence)
    check_same_rows(X, y=y, groups=groups, user_id=user_id, **fit_params)
    set_embedder(fitted)
    X = embed_text(fitted, X, reset=True)
    replicates = clone(fitted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IdentificationWarning)
        fitted.fit(X, y, groups=groups, user_id=user_id, **fit_params)
    X_new = embed_text(fitted, X_new, reset=False)
    # With users who differ, the bounds are those of the average user.
    found = fitted.identification_
    differs = user_id is not None and found.level == IDENTIFIED and fitted.user_loading_.any()
    fit_params |= {"groups": groups, "user_id": user_id}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the first fit gave the warnings
        _fit_replicates(replicates, X, y, n_bootstrap, fit_params, differs)
    ends = _ends(replicates, X_new, found.level, confidence)
    reward = fitted.predict(X_new)
    # The fit averages members, and a replicate is one member. So the reward may lie outside.
    low, high = np.minimum(ends[0], reward), np.maximum(ends[1], reward)
    return RewardInterval(reward, low, high, float(confidence), int(n_bootstrap), found)


def _check(est, n_bootstrap, confidence):
    if isinstance(n_bootstrap, bool) or not isinstance(n_bootstrap, Integral) or n_bootstrap < 2:
        raise ImplicitRMError(
            f"n_bootstrap must be an integer of at least 2, got {n_bootstrap!r}. Pass 50."
        )
    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise ImplicitRMError(
            f"confidence must be a number between 0 and 1, got {confidence!r}. Pass 0.9."
        )
    objective = est.objective
    objective = OBJECTIVES[objective]() if isinstance(objective, str) else objective
    if objective.pairs or objective.single_signal or not objective.models_propensity:
        raise ImplicitRMError(
            "reward_interval needs an objective that is the likelihood of each row, got "
            f"{type(objective).__name__}. Use objective='stratified'."
        )


def _fit_replicates(est, X, y, n_bootstrap, fit_params, differs):
    """Fit an estimator whose members are the replicates; `differs` says whether users do."""
    begun = begin_fit(est, X, y, **fit_params)
    plan, data, random_state = begun.plan, begun.data, begun.random_state
    if isinstance(data.X, StreamedX):
        raise data.X.refusal()
    weight = random_state.standard_exponential((n_bootstrap, data.log.n_responses))
    cluster = data.log.user
    if cluster is None and data.groups is not None:
        cluster, _ = number_responses(data.groups)
    if cluster is not None:
        weight = weight[:, np.unique(cluster, return_index=True)[1]][:, cluster]
    data.resample(weight, est.validation_fraction, random_state)
    validates = len(data.valid) > 0
    plan = replace(
        plan,
        n_members=n_bootstrap,
        n_users=data.log.n_users if differs else None,
        undersmoothing=UNDERSMOOTHING,
        max_epochs=int(UNDERSMOOTHING * plan.max_epochs) if validates else plan.max_epochs,
        estimates_rates=plan.assumptions.estimates_false_actions and validates,
    )
    est.model_ = plan.initial_model(data, random_state)
    run_plan(est, begun, plan, est.model_)
    return est


def _ends(est, X_new, level, confidence):
    """Return the ends of the intervals, (2, n_new), from the members of an estimator."""
    mixture = FittedMixture.of(est)
    X_new = read_features(est, X_new)
    shown_twice = est.evidence_.shown_twice if level == BOUNDED else ()
    found = np.empty((2, len(X_new)))
    for start, chunk in chunks(X_new, CHUNK):
        f, u = mixture.members(chunk, *HEADS)
        low = high = torch.sigmoid(f)
        if level != IDENTIFIED:
            ends = _mixture.bounds(
                mixture.measurement, f, u, mixture.false_action_rate, shown_twice
            )
            low, high = torch.minimum(*ends), torch.maximum(*ends)
        part = slice(start, start + CHUNK)
        found[0, part] = prediction_end(low.numpy(), (1 - confidence) / 2)
        found[1, part] = prediction_end(high.numpy(), (1 + confidence) / 2)
    return found


def prediction_end(replicates, probability):
    """Return what one more draw lies below with this probability, of shape (n,).

    The logits of the replicates are taken to be normal draws.

    Parameters
    ----------
    replicates : ndarray of shape (B, n)
        Probabilities.
    probability : float
    """
    n_replicates = len(replicates)
    values = logit(np.clip(replicates, NEAREST, 1 - NEAREST))
    quantile = student.ppf(probability, n_replicates - 1) * np.sqrt(1 + 1 / n_replicates)
    end = expit(values.mean(axis=0) + quantile * values.std(axis=0, ddof=1))
    # A bound that is 0 or 1 in all of them is one.
    return np.where(np.ptp(replicates, axis=0) == 0, replicates[0], end)
