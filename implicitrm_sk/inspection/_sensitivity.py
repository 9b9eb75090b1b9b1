"""Changes of the reward if an assumption is broken by a given amount, from refits side by side."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import spearmanr
from sklearn.base import clone

from .._typing import Rows
from .._validation import check_interval
from ..exceptions import ImplicitRMError
from ..measurement._action import Action
from ..measurement._model import Measurement
from ..measurement._views import View
from ._grouped import GroupedLog, one_step_values
from ._one_step import reward_of
from ._stacked import Case, refit_side_by_side
from ._violations import BASE, VIOLATIONS, SensitivityReport

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
    n_folds: int = 2,
) -> SensitivityReport:
    """Report how the reward, and a comparison, change if an assumption is broken.

    The settings are refitted under each violation, all side by side in one pass per fold. Each
    refit gives the mean reward, the order of the responses, and the difference of each group from
    the reference. It also shows whether the data reject the violation.

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
    n_folds : int, default=2
        Number of parts of the log; each is scored by fits on the others.

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
    Each violation is a model of the same log with a number in place of an assumption. It is fitted
    with one member from the same start. If the model determines the reward of a row, its mean
    reward is the one-step estimate of `compare_groups`. Otherwise, and with a preference rate, it
    is the mean of the fitted reward, which shows the convention of the fit. If the estimate of a
    group lies outside 0 to 1, its rows hardly determine it, and the results of the refit are NaN.

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
    report = _report(work, cases, refit_side_by_side(work, cases), position)
    return report if estimated is None else replace(report, identification=estimated)


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
            least = 0.8 * min(shares)
            found[kind] = [rate for rate in RATES if rate < least] or [least / 2]
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


def _report(work, cases, refits, position):
    """Return the results of the refits."""
    weight = np.where(work.usable, work.log.sample_weight, 0.0)
    w = weight / weight.sum()
    rates = work.est.false_action_rate_
    rates = torch.as_tensor(rates) if rates.any() else None
    others = [g for g in range(len(work.labels)) if g != position]
    base_reward, base, rows = torch.sigmoid(refits.reward[0]).numpy(), None, []
    for k, case in enumerate(cases):
        activity, likelihood = refits.of_case(work, k, case.view, rates)
        base = likelihood if base is None else base
        f, u = refits.reward[k], refits.propensity[k]
        values, determined = _values(work, case, f, u, rates, activity)
        means = _means(work, weight, values)
        if determined and not ((means >= 0) & (means <= 1)).all():
            # The step is longer than rewards reach: the rows hardly determine this mean.
            values = torch.sigmoid(f).numpy() if k == 0 else np.full_like(values, np.nan)
            means, determined = _means(work, weight, values), False
        gain, error = np.nan, np.nan
        if not np.isfinite(likelihood).all():
            gain = -np.inf
        elif case.view.left_out is None:
            gain, error = _gain(likelihood - base, np.bincount(work.units, weights=w))
        reward = torch.sigmoid(f).numpy()
        order = np.nan
        if np.isfinite(reward).all() and np.ptp(reward) > 0 and np.ptp(base_reward) > 0:
            order = float(spearmanr(reward[work.usable], base_reward[work.usable]).statistic)
        rows.append(
            {
                "violation": case.violation,
                "amount": case.amount,
                "mean_reward": float(w @ values),
                "rank_correlation": order,
                "log_likelihood": gain,
                "standard_error": error,
                "rejected": bool(np.isneginf(gain) or gain < -STANDARD_ERRORS * error),
                "determined": determined,
            }
            | {f"difference_{work.labels[g]}": means[g] - means[position] for g in others}
        )
        if k == 0:
            errors = {
                work.labels[g]: _error_of_difference(work, weight, values, means, g, position)
                for g in others
            }
    return SensitivityReport(
        rows=rows,
        groups=work.labels[others],
        reference=work.labels[position] if len(work.labels) > 1 else None,
        identification=work.agreed(refits.identifications),
        n_rows=int(work.usable.sum()),
        errors=errors if rows[0]["determined"] else {},
    )


def _means(work, weight, values):
    """Return the weighted mean of the values in each group, of shape (groups,)."""
    codes, n_groups = work.code, len(work.labels)
    return np.bincount(codes, weight * values, n_groups) / np.bincount(codes, weight, n_groups)


def _error_of_difference(work, weight, values, means, group, reference):
    """Return the standard error of the difference of two means; units do not depend on others."""
    sign = (work.code == group).astype(float) - (work.code == reference)
    share = weight / np.bincount(work.code, weight)[work.code]
    of_units = np.bincount(work.units, sign * share * (values - means[work.code]))
    return float(np.sqrt((of_units**2).sum()))


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


def _values(work, case, f, u, rates, activity):
    """Return one value per row whose means are rewards, and whether these are determined.

    If the sign of a signal is reversed, the model hardly fits, so a step from it is not useful.
    """
    reward = torch.sigmoid(f).numpy()
    imposed = case.preference_rate is not None or case.violation == "sign"
    if imposed or not np.isfinite(reward).all():
        return reward, False
    log = work.log
    if case.view.left_out is not None:
        actions = log.actions.copy()
        actions[:, case.view.left_out] = np.nan
        log = replace(log, actions=actions)
    values, singular = one_step_values(work, case.view, reward_of, (f, u), rates, log, activity)
    return (reward, False) if singular.any() else (values[:, 0], True)
