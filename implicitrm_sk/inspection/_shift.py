"""The distance of new responses from the log that a reward was learned from."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .._features import HeadColumns, read_features
from .._keys import codes_of
from .._prediction import FittedMixture
from .._tables import as_values
from .._typing import RandomState, Rows
from .._validation import check_shape
from .._warnings import warn
from ..exceptions import ImplicitRMError, ShiftWarning
from ..measurement import _mixture

#: Below this share of the log, the log has little information about the new responses.
FEW = 0.1
#: Share of the log that counts as its edge; beyond the edge the reward extrapolates.
EDGE = 0.01
#: The report warns if this share of the new responses is beyond the edge of the log.
WARN_SHARE = 0.05
#: Maximum number of rows of each side for training a classifier.
MAX_ROWS = 5000
#: Numbers of principal components, and of their squares, that the classifier uses.
N_COMPONENTS = 512
N_SQUARES = 64
#: Columns whose range is less than this part of their largest value are left to rounding.
VARIES = 1e-6
MIN_ROWS = 20


@dataclass
class ShiftReport:
    """How far new responses are from a log. Prints as text.

    Attributes
    ----------
    auc : float
        How well a classifier distinguishes new responses from those of the log, on rows outside its
        training: 0.5 not at all, 1 always.
    auc_error : float
        Standard error of `auc`.
    effective_sample_size : float
        The number of new responses that would be as informative as the log, after importance
        weighting. It is n_log / mean(w^2), where w is the estimated ratio of the densities of new
        and logged responses; at least 1.
    n_log, n_new : int
        Number of responses.
    share_outside : float
        Share of the new responses that resemble the log less than 99 % of the log does; about 0.01
        without shift.
    outside : ndarray of bool of shape (n_new,)
        The new responses outside the log, where the reward extrapolates.
    log_density_ratio : ndarray of shape (n_new,)
        log of new over logged density at each new response.
    reward, reward_log : tuple of float
        Mean and spread (standard deviation over the networks of the fit) of the reward, for new and
        for logged responses. The spread of a single network is NaN.
    reward_outside : tuple of float
        The same for the new responses outside the log, NaN without any.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.inspection import shift_report
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 2))
    >>> y = (X[:, :1] + rng.normal(size=(500, 2)) > 0.5).astype(int)
    >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False, random_state=0).fit(X, y)
    >>> report = shift_report(est, rng.normal(size=(300, 2)), X)
    >>> report.n_log, report.n_new, report.outside.shape
    (500, 300, (300,))
    """

    auc: float
    auc_error: float
    effective_sample_size: float
    n_log: int
    n_new: int
    share_outside: float
    reward: tuple
    reward_log: tuple
    reward_outside: tuple
    outside: np.ndarray = field(repr=False)
    log_density_ratio: np.ndarray = field(repr=False)

    @property
    def extrapolates(self) -> bool:
        """Whether more new responses lie outside the log than chance explains, and over 5 %.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import shift_report
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(500, 2))
        >>> y = (X[:, :1] + rng.normal(size=(500, 2)) > 0.5).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False).fit(X, y)
        >>> shift_report(est, rng.normal(size=(300, 2)), X).extrapolates
        False
        """
        error = math.sqrt(EDGE * (1 - EDGE) * (1 / self.n_new + 1 / self.n_log))
        return self.share_outside > WARN_SHARE and self.share_outside > EDGE + 3 * error

    def __str__(self):
        share = self.effective_sample_size / self.n_log
        lines = [
            f"{self.n_new:,} new responses against a log of {self.n_log:,}",
            f"domain classifier AUC    {self.auc:.3f} ± {self.auc_error:.3f}   "
            "(0.5 alike, 1 nothing in common)",
            f"effective sample size    {self.effective_sample_size:,.0f} of {self.n_log:,} "
            f"({share:.1%} of the log counts for the new responses)",
            f"outside the log          {self.share_outside:.1%} of the new responses "
            f"(without shift {EDGE:.0%})",
            "mean reward (spread)     log "
            + ", ".join(
                f"{name} {mean:.3f} ({_shown(spread)})".strip()
                for name, (mean, spread) in (
                    ("", self.reward_log),
                    ("new", self.reward),
                    ("outside", self.reward_outside),
                )
                if not math.isnan(mean)
            ).removeprefix(" "),
            "verdict                  " + self.verdict,
        ]
        return "\n".join(lines)

    @property
    def verdict(self) -> str:
        """The conclusion in one sentence.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> from implicitrm_sk.inspection import shift_report
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(500, 2))
        >>> y = (X[:, :1] + rng.normal(size=(500, 2)) > 0.5).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=5, early_stopping=False).fit(X, y)
        >>> shift_report(est, rng.normal(size=(300, 2)), X).verdict
        'no sign that the reward extrapolates.'
        """
        if self.extrapolates:
            return (
                f"the reward extrapolates for {self.share_outside:.0%} of the new responses: "
                "it was learned from no responses like them. Log users' actions on them and refit, "
                "or lower the reward by its spread."
            )
        if self.effective_sample_size < FEW * self.n_log:
            return (
                "few new responses lie outside the log, but few of the log are like the new ones. "
                "They come from a small part of it, or they are too few to decide."
            )
        if self.auc - 3 * self.auc_error > 0.7:
            return "the new responses differ from the log on average, but lie within it."
        return "no sign that the reward extrapolates."


def shift_report(
    est: Any,
    X_new: Rows,
    X_log: Rows,
    *,
    groups_new: ArrayLike | None = None,
    groups_log: ArrayLike | None = None,
    random_state: RandomState = 0,
) -> ShiftReport:
    """Report how far new responses are from the log, and whether the reward extrapolates.

    A policy that is trained on a reward moves away from the responses of the log. But a reward
    model has a value for every response. This report shows where it has evidence.

    Parameters
    ----------
    est : ImplicitRewardEstimator
        An estimator fitted on the log.
    X_new : array-like of shape (n_new, n_features), or text
        The responses to check, for example those of the policy in training.
    X_log : array-like of shape (n_log, n_features), or text
        The log, or a random sample of it; some thousand rows are enough. It is passed again because
        the estimator does not keep rows. Embeddings can be turned back into text, so rows in a
        saved model would reveal words of its users.
    groups_new, groups_log : array-like, default=None
        Prompt (or user) of each row. Pass them if a prompt has several responses. Otherwise the
        classifier recognises prompts, and the AUC is too high. Rows of one group are all in the
        training or all in the test part of the classifier. The same label on both sides means the
        same group.
    random_state : int, RandomState instance or None, default=0
        Seed of the folds and of the rows used for fitting.

    Returns
    -------
    report : ShiftReport
        The report, which prints as text.

    Raises
    ------
    NotFittedError, ValueError
        Before `fit`, or if there are too few rows or groups to compare distributions.

    Warns
    -----
    ShiftWarning
        If the reward extrapolates for more than 5 % of the new responses, beyond chance.

    Notes
    -----
    The classifier is a logistic regression, with a penalty chosen by log loss. It uses up to 512
    principal components of the columns that the reward reads, and the squares of the first 64. It
    also uses the distance of a row from the span of these 64. So it finds shifts of location and of
    scale. It ignores columns whose range is below a millionth of their largest value, and
    components that are as small, because they are rounding errors. It is fitted on up to 5,000 rows
    of each side, in 5 folds [1]_. Its odds are the ratio of densities [2]_. The mean of w^2 over
    the log is computed as the mean of w over the new responses. The standard error of the AUC is
    that of Hanley and McNeil [3]_.

    References
    ----------
    .. [1] Lopez-Paz and Oquab, "Revisiting Classifier Two-Sample Tests", ICLR 2017.
    .. [2] Bickel, Brückner and Scheffer, "Discriminative Learning for Differing Training and Test
       Distributions", ICML 2007.
    .. [3] Hanley and McNeil, "The meaning and use of the area under a receiver operating
       characteristic (ROC) curve", Radiology 143, 1982.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.inspection import shift_report
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(1000, 3))
    >>> y = (X[:, :1] + rng.normal(size=(1000, 2)) > 0.5).astype(int)
    >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> shift_report(est, rng.normal(size=(500, 3)), X).extrapolates
    False
    """
    check_is_fitted(est, "model_")
    random_state = check_random_state(random_state)
    rows, rewards = [], []
    for X in (X_log, X_new):
        # As the heads read them, with text embedded once.
        values = read_features(est, X, with_propensity=False)
        rows.append(HeadColumns.of(est).reward_part(values).astype(np.float32))
        rewards.append(_reward_and_spread(est, values))
    sizes = [len(part) for part in rows]
    for name, n in zip(("X_log", "X_new"), sizes, strict=True):
        if n < MIN_ROWS:
            raise ImplicitRMError(
                f"{name} has {n} rows; expected at least {MIN_ROWS} to compare distributions. Pass "
                "more."
            )
    X = np.concatenate(rows)
    is_new = np.repeat([0, 1], sizes)
    log_ratio = _cross_fitted_log_ratio(
        X, is_new, _groups(groups_log, groups_new, sizes), random_state
    )
    of_log, of_new = log_ratio[is_new == 0], log_ratio[is_new == 1]
    # The mean of w^2 over the log is that of w over the new responses. Unlike the former,
    # the latter also covers new responses where the log has none. No weight exceeds the whole log.
    mean_square = np.exp(np.minimum(of_new, math.log(sizes[0]))).mean()
    auc = float(roc_auc_score(is_new, log_ratio))
    outside = of_new > np.quantile(of_log, 1 - EDGE)
    (mean_log, std_log), (mean_new, std_new) = rewards
    report = ShiftReport(
        auc=auc,
        auc_error=_auc_error(auc, *sizes),
        effective_sample_size=float(sizes[0] / max(mean_square, 1.0)),
        n_log=sizes[0],
        n_new=sizes[1],
        share_outside=float(outside.mean()),
        reward=(float(mean_new.mean()), float(std_new.mean())),
        reward_log=(float(mean_log.mean()), float(std_log.mean())),
        reward_outside=(
            (float(mean_new[outside].mean()), float(std_new[outside].mean()))
            if outside.any()
            else (math.nan, math.nan)
        ),
        outside=outside,
        log_density_ratio=of_new,
    )
    if report.extrapolates:
        warn(report.verdict, ShiftWarning)
    return report


def _shown(spread):
    return "none of one member" if math.isnan(spread) else f"{spread:.3f}"


def _reward_and_spread(est, values):
    mixture = FittedMixture.of(est)
    mean, spread = _mixture.reward(mixture.components(values, "reward_logit")[0])
    return mean.numpy(), mixture.spread(spread).numpy()


def _groups(groups_log, groups_new, sizes):
    if groups_log is None and groups_new is None:
        return None
    parts = []
    for name, groups, n in (
        ("groups_log", groups_log, sizes[0]),
        ("groups_new", groups_new, sizes[1]),
    ):
        # Each row without a group is a group of its own.
        parts.append(
            [None] * n if groups is None else check_shape(as_values(groups), n, name).tolist()
        )
    return codes_of([label for part in parts for label in part])


class _Shape(TransformerMixin, BaseEstimator):
    """Principal components, the squares of the first ones, and the distance that these leave."""

    def fit(self, X, y=None):
        n_components = min(N_COMPONENTS, *X.shape)
        # For few columns the full solver is faster than the randomised one.
        solver = "covariance_eigh" if X.shape[1] <= 2 * N_COMPONENTS else "randomized"
        self.pca_ = PCA(n_components, svd_solver=solver, random_state=0).fit(X)
        # Of what varies less, rounding makes a part that differs between machines.
        variance = self.pca_.explained_variance_
        self.floor_ = 100 * np.finfo(variance.dtype).eps * variance.sum()
        self.n_kept_ = max(1, int((variance > self.floor_).sum()))
        return self

    def transform(self, X):
        components = self.pca_.transform(X)[:, : self.n_kept_]
        first = components[:, :N_SQUARES]
        rest = ((X - self.pca_.mean_) ** 2).sum(1) - (first**2).sum(1)
        # Bounded, so that one far response does not determine the scale of distance.
        scale = np.sqrt(np.maximum(self.pca_.explained_variance_[: first.shape[1]], 1e-12))
        rest[rest < self.floor_] = 0.0
        squares = np.minimum((first / scale) ** 2, 25)
        return np.column_stack([components, squares, np.sqrt(rest)])


def _cross_fitted_log_ratio(X, is_new, groups, random_state):
    n_splits = 5
    if groups is None:
        folds = StratifiedKFold(n_splits, shuffle=True, random_state=random_state)
    else:
        folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=random_state)
        n_groups = min(len(np.unique(groups[is_new == side])) for side in (0, 1))
        if n_groups < n_splits:
            raise ImplicitRMError(
                f"groups_new or groups_log holds {n_groups} groups; expected at least {n_splits}. "
                "Pass rows of more groups."
            )
    varies = np.ptp(X, axis=0) > VARIES * np.abs(X).max(axis=0)
    X = X[:, varies] if varies.any() else X[:, :1]
    log_ratio = np.empty(len(X))
    for train, test in folds.split(X, is_new, groups):
        chosen = np.concatenate(
            [random_state.permutation(train[is_new[train] == side])[:MAX_ROWS] for side in (0, 1)]
        )
        classifier = make_pipeline(
            StandardScaler(),
            _Shape(),
            StandardScaler(),
            LogisticRegressionCV(
                Cs=np.logspace(-4, 2, 7),
                l1_ratios=(0,),
                cv=3,
                scoring="neg_log_loss",
                max_iter=1000,
                use_legacy_attributes=False,
            ),
        ).fit(X[chosen], is_new[chosen])
        # Odds are the ratio of densities times the ratio of the sample sizes.
        n_log, n_new = np.bincount(is_new[chosen])
        log_ratio[test] = classifier.decision_function(X[test]) - math.log(n_new / n_log)
    return log_ratio


def _auc_error(auc, n_negative, n_positive):
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (
        auc * (1 - auc) + (n_positive - 1) * (q1 - auc**2) + (n_negative - 1) * (q2 - auc**2)
    ) / (n_negative * n_positive)
    return math.sqrt(max(variance, 0.0))
