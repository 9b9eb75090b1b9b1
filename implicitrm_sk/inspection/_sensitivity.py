"""Changes of the reward if an assumption is broken by a given amount, from refits side by side."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import spearmanr
from sklearn.base import clone

from .._identification import Identification
from .._typing import Rows
from .._validation import check_interval
from ..exceptions import ImplicitRMError
from ..measurement._action import Action
from ..measurement._model import Measurement
from ..measurement._one_step import reward_of
from ..measurement._views import View
from ._arguments import of_fit
from ._grouped import GroupedLog, one_step_values
from ._groups import clustered, cross_fit, means_of_groups
from ._stacked import Case, refit_side_by_side
from ._violations import BASE, VIOLATIONS, SensitivityReport

#: Parts of the log for the refits, of one member each; each part is scored by refits to the other.
REFIT_PARTS = 2
#: Relative ridge of the information in the steps of refits. A few rows with hardly any information
#: would otherwise decide about the change. With two positive actions and false actions at 0.05, the
#: difference of two groups had a standard deviation of 0.18 over four logs of 5,000 rows without
#: it, and 0.06 with it. It keeps some of the error of the fit. Both refits of a pair have that
#: error, which largely cancels in their change.
RIDGE = 0.03
#: A violation is rejected if its held-out likelihood is lower by more standard errors.
STANDARD_ERRORS = 2.0
#: Amounts of rates and of shares to try, as far as they are possible for a log.
RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4)
RATIOS = (1.0, 1 / 3, 1 / 2, 2 / 3, 3 / 2, 2.0, 3.0)
STEPS = (-0.2, -0.1, -0.05, 0.05, 0.1, 0.2)


def sensitivity_report(
    est: Any,
    X: Rows,
    y: ArrayLike,
    by: ArrayLike | None = None,
    *,
    reference: Any = None,
    violations: Mapping[str, Any] | None = None,
    user_id: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    n_folds: int = 5,
    **fit_params: Any,
) -> SensitivityReport:
    """Report how the reward, and a comparison, change if an assumption is broken.

    The row without a violation is the estimate of `compare_groups`. The settings are then refitted
    under each violation, all side by side in one pass. Each refit gives the change of the mean
    reward, of the order of the responses, and of the difference of each group from the reference.
    It also shows whether the data reject the violation.

    Parameters
    ----------
    est : ImplicitRewardEstimator
        The settings and their assumptions. It need not be fitted and is not changed.
    X : array-like of shape (n_samples, n_features), or text of n_samples rows
        The responses of the log.
    y : array-like of shape (n_samples,) or (n_samples, n_signals)
        Actions, as in `fit`.
    by : array-like of shape (n_samples,), default=None
        The group of each row, as in `compare_groups`. Without it, groups are not compared.
    reference : object, default=None
        The group with which the others are compared; None means the largest one.
    violations : dict, default=None
        Amounts to try, by kind of violation. None tries all kinds that are possible for the log.
        The kinds "false_positive" and "false_negative" are the false-action rates of the positive
        and of the negative actions. The kind "not_looked_at" is the share of rows that nobody
        looked at, the same for all x. The kind "ratio" needs one positive and one negative action.
        It is the readiness for the negative one as a multiple of that for the positive one; 1 is
        always included. The kind "preference_rate" is the mean reward. The kinds "left_out" and
        "sign" hold names of signals (or positions) to leave out, or whose sign to reverse.
    user_id : array-like of shape (n_samples,), default=None
        The user who acted, as in `compare_groups`. Each refit tests whether users differ in
        activity, and the estimates allow for it.
    groups : array-like of shape (n_samples,), default=None
        The prompt of each row. No fold separates the rows of a prompt.
    labels : array-like of shape (n_samples,), default=None
        Labels of some rows, as in `fit`.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows.
    n_folds : int, default=5
        As in `compare_groups`, for the estimate without a violation.
    **fit_params : dict
        Further arguments of `fit` are refused, as in `compare_groups`.

    Returns
    -------
    report : SensitivityReport
        The report, which prints as text; `to_frame` and `plot` are its other forms.

    Raises
    ------
    TypeError, ValueError
        As for `compare_groups`. Also if a violation or an amount is not possible for the log.

    Notes
    -----
    The base, without a violation, has the mean rewards of `compare_groups` with the same arguments:
    the same estimator, from the same cross-fitted fits. The standard errors are those of its
    intervals. If the reward is not identified, `compare_groups` gives bounds. The base then takes
    the settings to be true and every row to be looked at, and the report says so. It also names
    violations that are likelier than the base by 3.3 standard errors.

    Each violation is a model of the same log with a number in place of an assumption. It is fitted
    with one member to one half of the log, and the other half is scored. It stops after 5 epochs
    without an improvement, or earlier if the settings say so. A refit without a violation, its
    pair, has the same start and the same halves. A single member on half of the log
    is further off than the base, but the two of a pair err alike. So the report adds to the base
    the change from one to the other, and every curve starts at the base.

    If both models of a pair determine the reward of a row, the change is that of the one-step
    estimates of `compare_groups`. The information I has 3 % of its diagonal added. Without that,
    rows with hardly any information would decide about the change. If a model of the pair does not
    determine the reward, or a sign is reversed, it is the change of the mean fitted reward. This
    shows the convention of the fit. A preference rate is imposed, so that `mean_reward` is then
    that of the refit. If an estimate of a group lies outside 0 to 1, its rows hardly determine it,
    and the results of the refit are NaN. If the log without a violation does not determine the
    reward, the comparison gives no base. All rows are then those of the refits.

    The held-out likelihood is compared with that of the base. Rows of a user, or of a prompt, count
    together. A violation is rejected if it is less likely by two standard errors. Many violations
    fit as well as the base. The data cannot distinguish these, so they have to be tried.

    With ``false_action_rate="estimate"`` the rates are those of one fit to the whole log, and
    the violations of rates are other numbers in their place.

    The robustness value of a comparison is the smallest amount of a violation at which the
    difference of two groups changes its sign. Between the amounts tried, it is interpolated
    linearly; it is infinite if the sign never changes [1]_.

    References
    ----------
    .. [1] Cinelli & Hazlett, "Making sense of sensitivity: extending omitted variable bias",
       Journal of the Royal Statistical Society B 82, 2020, for the notion of a robustness value.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.inspection import sensitivity_report
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(1000, 2))
    >>> liked = rng.random(1000) < 1 / (1 + np.exp(-2 * X[:, 0]))
    >>> y = (liked[:, None] & (rng.random((1000, 2)) < 0.6)).astype(int)
    >>> est = ImplicitRewardEstimator(
    ...     shared_examination=False, learning_rate_init=0.01, random_state=0
    ... )
    >>> report = sensitivity_report(est, X, y, violations={"false_positive": [0.02]})
    >>> frame = report.to_frame()
    >>> bool(frame["mean_reward"][0] > frame["mean_reward"][1])
    True
    """
    of_fit("sensitivity_report", fit_params)
    side = {"groups": groups, "user_id": user_id, "labels": labels, "sample_weight": sample_weight}
    est, estimated = _with_numbers(est, X, y, side)
    work = GroupedLog(
        "sensitivity_report",
        est,
        X,
        y,
        by,
        n_folds=n_folds,
        **side,
    )
    position = work.check_reference(reference)
    cases = _cases(work, violations)
    base = _Base.of(work, position)
    parts = work.in_parts(REFIT_PARTS)
    rows = _rows(parts, cases, refit_side_by_side(parts, cases), base.means, position)
    others = np.arange(len(work.labels)) != position
    return SensitivityReport(
        rows=rows,
        groups=work.labels[others],
        reference=work.labels[position] if len(work.labels) > 1 else None,
        identification=base.identification if estimated is None else estimated,
        n_rows=int(work.usable.sum()),
        errors=base.errors,
    )


def _with_numbers(est, X, y, side):
    """Return settings with numbers for rates to be estimated, and then what a fit determines."""
    if not isinstance(getattr(est, "false_action_rate", None), str):
        return est, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the level is that of the report
        fitted = clone(est).fit(X, y, **side)
    known = clone(est).set_params(false_action_rate=fitted.false_action_rate_)
    return known, fitted.identification_


# ---------------------------------------------------------------------- what is tried


def _cases(work, violations):
    """Return the base and the violations to try."""
    possible = _possible(work)
    if violations is None:
        chosen = possible
    else:
        if not isinstance(violations, Mapping) or not violations:
            raise ImplicitRMError(
                f"violations must be a dict of amounts by kind, got {violations!r}. The kinds are "
                f"{', '.join(VIOLATIONS)}. Pass a dict."
            )
        chosen = {}
        for kind, amounts in violations.items():
            if kind not in VIOLATIONS:
                raise ImplicitRMError(
                    f"violations has the kind {kind!r}; expected {', '.join(VIOLATIONS)}. Correct "
                    "it."
                )
            if kind not in possible:
                raise ImplicitRMError(
                    f"violations has {kind!r}, which is not possible for this log or these "
                    f"settings; expected {', '.join(possible)}. Leave it out."
                )
            amounts = [amounts] if isinstance(amounts, Real | str) else list(amounts)
            chosen[kind] = [_checked(work, kind, amount) for amount in amounts]
            if kind == "ratio" and 1.0 not in chosen[kind]:
                chosen[kind].insert(0, 1.0)  # the start of the curve
    base = View(_measurement(work), work.log.signals)
    cases = [Case(BASE, None, base)]
    for kind, amounts in chosen.items():
        cases += [_case(work, base, kind, amount) for amount in amounts]
    return cases


def _measurement(work):
    return Measurement(work.log.signals, work.est.shared_examination is True)


def _possible(work):
    """Return {kind: amounts} of the violations that are possible for a log."""
    log, est, found = work.log, work.est, {}
    signals = log.signals
    acts = log.acts
    for kind, target in (("false_positive", 1), ("false_negative", 0)):
        mine = _with_rates(signals, target)
        if mine:
            columns = list(acts.column)
            counts = acts.counts[work.usable][:, [columns.index(k) for k in mine]]
            shares = np.nanmean(counts, axis=0)
            assumed = est.false_action_rate_[mine].max()  # less than that is hardly a violation
            most = assumed + 0.8 * (min(shares) - assumed)
            found[kind] = [r for r in RATES if assumed < r < most] or [(assumed + most) / 2]
    if est.shared_examination is not True and all(s.silence is not None for s in signals):
        silent = 0.9 * (1 - log.fired()[work.usable].mean())
        found["not_looked_at"] = [share for share in SHARES if share < silent] or [silent / 2]
    if sorted(_targets(signals)) == [0, 1]:
        found["ratio"] = list(RATIOS)
    rate = est.preference_rate
    if rate is None or isinstance(rate, Real):
        found["preference_rate"] = (
            [] if rate is None else [rate + step for step in STEPS if 0 < rate + step < 1]
        )
    names = log.signal_names
    if len(signals) > 1:
        found["left_out"] = list(names)
    turned = [name for name, signal in zip(names, signals, strict=True) if type(signal) is Action]
    if turned:
        found["sign"] = turned
    return found


def _with_rates(signals, target):
    return [k for k, s in enumerate(signals) if "rate" in s.takes and s.shows == (target,)]


def _targets(signals):
    return (
        [s.target for s in signals]
        if all(type(s) is Action and "shared_propensity" in s.takes for s in signals)
        else []
    )


def _checked(work, kind, amount):
    """Return an amount; raise if it is not possible for the kind."""
    if kind in ("left_out", "sign"):
        names = list(work.log.signal_names)
        if amount not in names:
            shown = ", ".join(map(repr, names))
            raise ImplicitRMError(
                f"violations[{kind!r}] names {amount!r}; expected one of the signals {shown}."
            )
        return amount
    if kind == "preference_rate":
        return check_interval(amount, f"violations[{kind!r}]")[0]
    low, high = (0, np.inf) if kind == "ratio" else (0, 1)
    if not isinstance(amount, Real) or isinstance(amount, bool) or not low < amount < high:
        raise ImplicitRMError(
            f"violations[{kind!r}] holds {amount!r}; expected numbers strictly between {low} and "
            f"{high}. Correct it."
        )
    return float(amount)


def _case(work, base, kind, amount):
    """Return the model of one violation."""
    names = list(work.log.signal_names)
    if kind in ("false_positive", "false_negative"):
        rates = work.est.false_action_rate_.copy()
        rates[_with_rates(base.signals, int(kind == "false_positive"))] = amount
        return Case(kind, amount, replace(base, rates=torch.as_tensor(rates)))
    if kind == "not_looked_at":
        return Case(kind, amount, replace(base, looked=1 - amount))
    if kind == "ratio":
        return Case(kind, amount, replace(base, ratio=amount))
    if kind == "preference_rate":
        return Case(kind, amount, base, amount)
    column = names.index(amount)
    if kind == "left_out":
        return Case(kind, amount, replace(base, left_out=column))
    signals = list(base.signals)
    old = signals[column]
    signals[column] = Action(**old.get_params() | {"target": 1 - old.target})
    return Case(kind, amount, replace(base, signals=tuple(signals), turned=column))


# ---------------------------------------------------------------------- what they show


@dataclass(frozen=True, eq=False)
class _Base:
    """The estimate of `compare_groups`, without a violation.

    Attributes
    ----------
    identification : Identification
    means : ndarray of shape (groups,) or None
        The mean rewards of the groups; None if the rows do not determine them.
    errors : dict of object to float
        The standard error of the difference of each group from the reference.
    """

    identification: Identification
    means: np.ndarray | None
    errors: dict

    @classmethod
    def of(cls, work, position):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fit and compare_groups give them
            fits = cross_fit(work)
        identification = work.agreed(fits.identifications, fits.loading)
        values, singular = one_step_values(
            work, fits.measurement, reward_of, fits.logits(), fits.rates, activity=fits.activity
        )
        if singular.any():
            return cls(identification, None, {})
        means, influence = means_of_groups(work, lambda rows: values, _weight(work))
        covariance, _ = clustered(influence[:, 0], work)
        errors = {}
        for g in set(range(len(means))) - {position}:
            contrast = np.zeros(len(means))
            contrast[g], contrast[position] = 1, -1
            errors[work.labels.tolist()[g]] = float(np.sqrt(contrast @ covariance @ contrast))
        return cls(identification, means[:, 0], errors)


def _rows(work, cases, refits, anchor, position):
    """Return the results of the refits, as in `SensitivityReport.rows`."""
    weight = _weight(work)
    w = weight / weight.sum()
    share = np.bincount(work.code, w, len(work.labels))
    rates = work.est.false_action_rate_
    rates = torch.as_tensor(rates) if rates.any() else None
    others = [g for g in range(len(work.labels)) if g != position]
    likelihood_of_base, first, rows = None, None, []
    for k, case in enumerate(cases):
        activity, likelihood = refits.of_case(work, k, case.view, rates)
        likelihood_of_base = likelihood if k == 0 else likelihood_of_base
        found = _Seen.of(work, case, (refits.reward[k], refits.propensity[k]), rates, activity)
        first = found if k == 0 else first
        means, determined = (
            _anchored(found, first, anchor) if k or anchor is None else (anchor, True)
        )
        mean_reward = float(share @ means)
        if case.preference_rate is not None:
            mean_reward = float(share @ found.fitted)  # imposed, whatever that of the base is
        gain, error = np.nan, np.nan
        if not np.isfinite(likelihood).all():
            gain = -np.inf
        elif case.view.left_out is None:
            gain, error = _gain(likelihood - likelihood_of_base, np.bincount(work.units, weights=w))
        rows.append(
            {
                "violation": case.violation,
                "amount": case.amount,
                "mean_reward": mean_reward,
                "rank_correlation": _order(found.reward[work.usable], first.reward[work.usable]),
                "log_likelihood": gain,
                "standard_error": error,
                "rejected": bool(np.isneginf(gain) or gain < -STANDARD_ERRORS * error),
                "determined": determined,
            }
            | {f"difference_{work.labels[g]}": means[g] - means[position] for g in others}
        )
    return rows


@dataclass(frozen=True, eq=False)
class _Seen:
    """One refit on the rows that it has not seen.

    Attributes
    ----------
    reward : ndarray of shape (n,)
        NaN if the refit diverged.
    fitted : ndarray of shape (groups,)
        Means of the fitted reward, which show the convention of the fit.
    estimated : ndarray of shape (groups,) or None
        One-step estimates of the means; None if the model of the refit does not determine them.
    beyond : bool
        Whether they lie outside 0 to 1: the step is longer than rewards reach.
    """

    reward: np.ndarray
    fitted: np.ndarray
    estimated: np.ndarray | None
    beyond: bool = False

    @classmethod
    def of(cls, work, case, logits, rates, activity):
        reward, weight = torch.sigmoid(logits[0]).numpy(), _weight(work)
        fitted = _means(work, weight, reward)
        # If the sign of a signal is reversed, the model hardly fits, and a step from it is useless.
        imposed = case.preference_rate is not None or case.violation == "sign"
        if imposed or not np.isfinite(reward).all():
            return cls(reward, fitted, None)
        log = work.log
        if case.view.left_out is not None:
            actions = log.actions.copy()
            actions[:, case.view.left_out] = np.nan
            log = replace(log, actions=actions)
        values, singular = one_step_values(
            work, case.view, reward_of, logits, rates, log, activity, RIDGE
        )
        if singular.any():
            return cls(reward, fitted, None)
        means = _means(work, weight, values[:, 0])
        if ((means < 0) | (means > 1)).any():
            return cls(reward, fitted, None, beyond=True)
        return cls(reward, fitted, means)


def _anchored(found, first, anchor):
    """Return the means of the groups under a violation, and whether the log determines them.

    Parameters
    ----------
    found, first : _Seen
        The refits with and without the violation, with the same split and start.
    anchor : ndarray of shape (groups,) or None
        The means without a violation, from larger parts of the log. None: those of `first`.
    """
    nothing = np.full_like(found.fitted, np.nan)
    if found.beyond and found is not first:
        return nothing, False
    if anchor is None:
        return (found.fitted, False) if found.estimated is None else (found.estimated, True)
    determined = found.estimated is not None and first.estimated is not None
    change = found.estimated - first.estimated if determined else found.fitted - first.fitted
    means = anchor + change
    if determined and ((means < min(0, anchor.min())) | (means > max(1, anchor.max()))).any():
        return nothing, False
    return means, determined


def _order(reward, base):
    """Return the rank correlation of two rewards, NaN if one is constant or not finite."""
    if np.isfinite(reward).all() and np.ptp(reward) > 0 and np.ptp(base) > 0:
        return float(spearmanr(reward, base).statistic)
    return np.nan


def _weight(work):
    return np.where(work.usable, work.log.sample_weight, 0.0)


def _means(work, weight, values):
    """Return the weighted mean of the values in each group, of shape (groups,)."""
    codes, n_groups = work.code, len(work.labels)
    return np.bincount(codes, weight * values, n_groups) / np.bincount(codes, weight, n_groups)


def _gain(difference, weight):
    """Return the mean gain per row, and its standard error over independent units.

    Parameters
    ----------
    difference : ndarray of shape (units,)
        Differences of log-likelihoods, each the mean over all rows of those of the unit.
    weight : ndarray of shape (units,)
        Shares of the rows.
    """
    gain = difference.sum()
    return float(gain), float(np.sqrt(((difference - weight * gain) ** 2).sum()))
