"""Refits of a log under several violations of the assumptions, trained together."""

import copy
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from sklearn.base import clone

from .._activity import (
    DIFFERENT,
    HEADS,
    Rows,
    covariation,
    held_out,
    is_better,
    rows_by_user,
)
from .._fit import begin_fit, run_plan
from .._log import number_responses
from ..measurement._views import MemberViews, View
from ..training._data import member_logits
from ..training._plan import FitPlan
from ..training._users import posterior, quadrature
from ._grouped import activity_given_others, at_nodes, of_users

#: Epochs without an improvement after which a refit stops. Both refits of a pair stop by it, so
#: that what a longer search would gain is left out of both.
PATIENCE = 5


@dataclass(frozen=True, eq=False)
class Case:
    """One model of the log.

    Attributes
    ----------
    violation : str
    amount : object
        A number, or the name of a signal.
    view : View
    preference_rate : float or None
        The imposed rate, which replaces that of the settings.
    """

    violation: str
    amount: Any
    view: View
    preference_rate: float | None = field(default=None)


@dataclass(eq=False)
class Refits:
    """The refits of C cases; the values at each row come from refits to other rows.

    Attributes
    ----------
    reward : Tensor of shape (C, n)
        Logits, NaN if a refit diverged.
    propensity : Tensor of shape (C, n, P)
    fold : ndarray of int of shape (n,)
        The fold of each row.
    loading : Tensor of shape (C, folds, P)
        By how much the activity of users shifts each logit; 0 if users do not differ.
    prior : Tensor of shape (C, n, Q) or None
        Log-weights of the user of each row over the nodes, from rows that the refit has seen. None
        without users.
    n_active : ndarray of int of shape (C,)
        Number of refits in which users differ.
    """

    reward: torch.Tensor
    propensity: torch.Tensor
    fold: np.ndarray
    loading: torch.Tensor
    prior: torch.Tensor | None
    n_active: np.ndarray

    @classmethod
    def of_nothing(cls, work, n_cases, n_logits, fold):
        """Return refits without values."""
        n, prior = len(fold), None
        if work.user is not None:
            prior = quadrature()[1].repeat(n_cases, n, 1)
        numbers = {"dtype": torch.float64}
        return cls(
            torch.full((n_cases, n), torch.nan, **numbers),
            torch.full((n_cases, n, n_logits), torch.nan, **numbers),
            fold,
            torch.zeros(n_cases, work.n_folds, n_logits, **numbers),
            prior,
            np.zeros(n_cases, dtype=int),
        )

    def of_case(self, work, case, view, rates):
        """Return the activity of users, None if they do not differ, and log P(y, labels | x).

        The latter is the mean over rows, as a sum over the `units` of a log.
        """
        f, u = self.reward[case], self.propensity[case]
        weight = torch.as_tensor(np.where(work.usable, work.log.sample_weight, 0.0))
        weight, units = weight / weight.sum(), work.units

        def messages(f, u):
            return work.messages(
                np.arange(len(work.code)),
                lambda actions, labels: view.log_likelihood(f, u, actions, rates, labels=labels),
            )

        if 2 * self.n_active[case] <= work.n_folds:
            return None, np.bincount(units, weights=(messages(f, u) * weight).numpy())
        shift = at_nodes(u, self.loading[case, self.fold])
        found = messages(f.expand(len(shift), -1), u + shift)
        code, first = number_responses(work.user * work.n_folds + self.fold)
        code, prior = torch.as_tensor(code), self.prior[case]
        activity = activity_given_others(shift, prior, found, code)
        # Weights with a mean of 1, as in a fit.
        n = int(work.usable.sum())
        each = torch.logsumexp(of_users(prior, found * weight * n, code), 0) / n
        return activity, np.bincount(units[first], weights=each.numpy())


def refit_side_by_side(work, cases):
    """Return the refits under each case.

    Parameters
    ----------
    work : GroupedLog
    cases : list of Case
        The first one has no violation.
    """
    fold, split = work.folds()
    settings, X = work.settings()
    settings.set_params(n_estimators=1, n_iter_no_change=min(settings.n_iter_no_change, PATIENCE))
    found = None
    for k in range(work.n_folds):
        train, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        y, side = work.part(train)
        refit = clone(settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the same for each case; fit gives them
            begun = begin_fit(refit, X[train], y, groups=split[train], **side)
            trained = _Trained.by(refit, begun, cases)
        f, u = trained.logits(X[held], refit)
        if found is None:
            found = Refits.of_nothing(work, len(cases), u.shape[-1], fold)
        found.reward[:, held], found.propensity[:, held] = f, u
        found.reward[np.ix_(trained.diverged, held)] = torch.nan
        found.n_active += trained.differs
        if trained.differs.any():
            differs = np.flatnonzero(trained.differs)
            found.loading[differs, k] = trained.loading[differs]
            code = np.full(work.user.max() + 1, -1)
            code[work.user[train]] = begun.data.log.user
            code = code[work.user[held]]
            known = trained.log_weight[code[code >= 0]].transpose(0, 1)
            found.prior[np.ix_(differs, held[code >= 0])] = known[differs]
    return found


@dataclass(eq=False)
class _Trained:
    """The refits of all cases to the same rows.

    Attributes
    ----------
    plain : RewardModel
        Its members are the cases.
    active : RewardModel or None
        The same cases fitted with users who differ in activity; None if the actions of users vary
        together in none of the cases.
    differs : ndarray of bool of shape (C,)
        Whether users differ, so that `active` counts.
    diverged : ndarray of int
        The cases whose refit diverged.
    rows : Rows or None
        The rows by user under `active`.
    """

    plain: Any
    active: Any
    differs: np.ndarray
    diverged: np.ndarray
    rows: Rows | None

    @classmethod
    def by(cls, refit, begun, cases):
        """Train all cases side by side, and again with users who differ if they seem to."""
        plan, data, random_state = _plan(begun.plan, cases), begun.data, begun.random_state

        def train(plan):
            result = run_plan(
                refit,
                begun,
                plan,
                plan.initial_model(data, random_state),
                copy.copy(data),  # since a fit forgets the log
            )
            return result.model, result.members.diverged

        plain, diverged = train(plan)
        active, rows, differs = None, None, np.zeros(len(cases), dtype=bool)
        if data.log.user is not None:
            differs = covariation(plain, plan, data) >= DIFFERENT
        if differs.any():
            active, active_diverged = train(replace(plan, n_users=data.log.n_users))
            rows = rows_by_user(active, plan, data)
            if len(data.valid):
                pairs = held_out(rows), held_out(rows_by_user(plain, plan, data))
                differs &= np.array(
                    [is_better(*pair) for pair in zip(*(p.T for p in pairs), strict=True)]
                )
            diverged = np.where(differs, active_diverged, diverged)
        return cls(plain, active, differs, np.flatnonzero(diverged), rows)

    @property
    def loading(self):
        """By how much activity shifts each logit, (C, P)."""
        return self.active.loading().detach().to("cpu", torch.float64)[:, 0]

    @property
    def log_weight(self):
        """Log-weights of the users of the fit, given all of their rows in it, (users, C, Q)."""
        return posterior(self.rows.train + self.rows.valid, quadrature()[1])

    def logits(self, X, refit):
        """Return the logits of rows under each case, (C, n) and (C, n, P)."""
        f, u = member_logits(self.plain, X, refit.scaler_, HEADS, refit.dtype)
        if self.differs.any():
            others = member_logits(self.active, X, refit.scaler_, HEADS, refit.dtype)
            differs = torch.as_tensor(self.differs)
            f, u = (
                torch.where(differs.view(-1, *[1] * (one.ndim - 1)), other, one)
                for one, other in zip((f, u), others, strict=True)
            )
        return f, u


def _plan(plan, cases):
    """Return a plan that trains all cases side by side."""
    fits = [
        plan
        if case.preference_rate is None
        else replace(
            plan,
            assumptions=replace(plan.assumptions, preference_rate=case.preference_rate),
        )
        for case in cases
    ]
    return replace(
        FitPlan.stack(fits),
        measurement=MemberViews([case.view for case in cases]),
        tells_level=False,  # one-step values of the rows kept aside correct it
    )
