"""Hyper-parameter search that trains candidates side by side."""

import copy
import math
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Integral
from operator import itemgetter
from typing import Any, Self

import joblib
import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.callback import with_callbacks
from sklearn.model_selection import GridSearchCV, ParameterGrid, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import indexable

from ._device import resolve_device
from ._estimator import OBJECTIVES_NOT_RANKED, ImplicitRewardEstimator
from ._fit import fit_side_by_side, token_of
from ._sklearn import (
    Interval,
    PassthroughScorer,
    begin_callbacks,
    callbacks_of,
    check_method_params,
    fit_and_score,
    fit_context,
    insert_error_scores,
    num_samples,
    parent_context,
    safe_split,
    score_of,
    scorers_of,
    validate_params,
    warn_or_raise_about_fit_failures,
)
from ._sources import refuse_mapped
from ._tables import opened
from ._transaction import all_or_nothing
from ._typing import Rows, same
from ._validation import as_labels, check_same_rows
from ._warnings import warn
from .exceptions import ImplicitRMError
from .objectives import OBJECTIVES
from .training._plan import SIDE_BY_SIDE, layer_sizes

#: Bytes of weights, gradients and moments that train side by side on a CPU; more would not fit in
#: the caches.
CPU_BYTES = 2**24


class BatchedSearchCV(GridSearchCV):
    """Grid search in which candidates train side by side, several in one matrix product.

    Results are those of ``GridSearchCV``, up to rounding: each candidate and fold gets the initial
    weights, batches and dropout masks of a separate fit. Candidates train side by side if they
    differ only in `learning_rate_init`, `weight_decay`, `dropout` (all 0, or all above),
    `n_iter_no_change`, `tol` and `max_epochs`. Other candidates are trained in turn. The estimator
    is an `ImplicitRewardEstimator` or a pipeline that ends in one. Other searches use ordinary
    fits: over other estimators, ``false_action_rate="estimate"``, or objectives that learn from the
    whole log before training. So do estimators or searches with callbacks, and fits with `user_id`.

    With `factor`, the worst candidates are dropped early (successive halving [1]_). All candidates
    train `min_resources` epochs on all folds, the best ``1 / factor`` of them train `factor` times
    as many, and so on. The last `factor` or fewer train to their end. After each round they are
    compared by `scoring` on the held-out folds, with their best weights so far. Nothing is trained
    twice.

    Parameters
    ----------
    estimator : ImplicitRewardEstimator, or Pipeline that ends in one
        The settings that all candidates share; it is not changed.
    param_grid : dict or list of dict
        As in ``GridSearchCV``: names of parameters and lists of values to try.
    factor : int, default=None
        One in `factor` candidates continues after each round. None trains all to their end.
    min_resources : int, default=2
        Epochs of the first round. Used only with `factor`.
    scoring : str, callable, list, tuple or dict, default=None
        As in ``GridSearchCV``.
    n_jobs : int, default=None
        As in ``GridSearchCV``. Each job trains some candidates on one fold. On a CPU, use one core
        per job. With several GPUs and ``device="auto"`` or "cuda", each of `n_jobs` processes has
        one GPU.
    refit : bool, str or callable, default=True
        As in ``GridSearchCV``.
    cv : int, cross-validation generator or iterable, default=None
        As in ``GridSearchCV``.
    verbose : int, default=0
        1 prints the number of fits, then one line for all candidates that are done on one split;
        more prints each fit with its score.
    pre_dispatch : int or str, default="2*n_jobs"
        As in ``GridSearchCV``.
    error_score : "raise" or float, default=np.nan
        As in ``GridSearchCV``.
    return_train_score : bool, default=False
        As in ``GridSearchCV``.

    Attributes
    ----------
    best_estimator_, best_params_, best_score_, best_index_, scorer_, n_splits_, refit_time_,\
    multimetric_, classes_, n_features_in_, feature_names_in_
        As in ``GridSearchCV``.
    cv_results_ : dict of ndarray
        As in ``GridSearchCV``. ``fit_time`` is the share of a candidate in the time of those that
        trained beside it. With `factor` there are two more columns. ``iter`` is the last round of
        each candidate, counted from 0. ``n_resources`` is the number of epochs that it could train
        until then. Candidates are ranked by the last round they reached, then by score.

    See Also
    --------
    sklearn.model_selection.GridSearchCV : Fits one candidate after another.

    References
    ----------
    .. [1] Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
       Optimization", AISTATS 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import BatchedSearchCV, ImplicitRewardEstimator
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(600, 5))
    >>> preferred = X[:, 0] > 0
    >>> y = preferred[:, None] & (rng.uniform(size=(600, 2)) < 0.4)
    >>> search = BatchedSearchCV(
    ...     ImplicitRewardEstimator(random_state=0, max_epochs=20, early_stopping=False),
    ...     {"learning_rate_init": [1e-5, 1e-2]},
    ... ).fit(X, y)
    >>> search.best_params_
    {'learning_rate_init': 0.01}
    """

    _parameter_constraints = GridSearchCV._parameter_constraints | {
        "factor": [None, Interval(Integral, 2, None, closed="left")],
        "min_resources": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        estimator: Any,
        param_grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        *,
        factor: int | None = None,
        min_resources: int = 2,
        scoring: Any = None,
        n_jobs: int | None = None,
        refit: Any = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: int | str = "2*n_jobs",
        error_score: float | str = np.nan,
        return_train_score: bool = False,
    ) -> None:
        super().__init__(
            estimator=estimator,
            param_grid=param_grid,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.factor = factor
        self.min_resources = min_resources

    @same(all_or_nothing)
    @same(with_callbacks)
    @same(fit_context(prefer_skip_nested_validation=False))
    def fit(self, X: Rows, y: ArrayLike | None = None, **params: Any) -> Self:
        """Fit all candidates and find the best one.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
        y : array-like of shape (n_samples,) or (n_samples, n_signals)
            Actions.
        **params : dict
            Arguments for ``fit`` of the estimator, for the scorer and for the splitter, as in
            ``GridSearchCV``.

        Returns
        -------
        self : BatchedSearchCV

        Raises
        ------
        ValueError
            If X is a path or an ``np.memmap`` of more than 1 GiB. If `factor` is set and a
            candidate cannot be trained in rounds.

        Warns
        -----
        UserWarning
            If fits side by side fail where separate fits do not; these are then the results.
        """
        if isinstance(X, str | os.PathLike):
            raise ImplicitRMError(
                f"X={str(X)!r} is a path; expected an array, because a search splits X into folds "
                "row by row. Pass an array of some of the rows, such as np.array(np.load(X, "
                "mmap_mode='r')[:n]) for a .npy file. Then fit the best estimator on the whole "
                "file."
            )
        refuse_mapped(X)  # now, not in the fit after the search
        check_same_rows(X, y=y, **params)
        X, y = opened(X), opened(y)
        params = {name: opened(value) for name, value in params.items()}
        if params.get("groups") is not None:
            params["groups"] = as_labels(params["groups"])
        candidates = list(ParameterGrid(self.param_grid))
        has_users = any(
            name.split("__")[-1] == "user_id" and value is not None
            for name, value in params.items()
        )
        groups = self._groups(candidates, alone=has_users or bool(callbacks_of(self)))
        if self.factor is not None:
            self._check_rounds(candidates, groups)
        if set(groups) <= {None}:
            return super().fit(X, y, **params)

        scorer, refit_metric = self._get_scorers()
        X, y = indexable(X, y)
        params = check_method_params(X, params=params)
        routed = self._get_routed_params_for_fit(params)
        if (
            isinstance(scorer, PassthroughScorer)
            and "true_preference" not in routed.scorer.score
            and any(key.split("__")[-1] == "objective" for each in candidates for key in each)
        ):
            raise ImplicitRMError(OBJECTIVES_NOT_RANKED)
        context = begin_callbacks(self, 2)
        self._checked_cv_orig = check_cv(self.cv, y, classifier=is_classifier(self.estimator))
        split_params = routed.splitter.split
        self.n_splits_ = self._checked_cv_orig.get_n_splits(X, y, **split_params)
        data = {
            "X": X,
            "y": y,
            "scorer": scorer,
            "fit_params": routed.estimator.fit,
            "score_params": routed.scorer.score,
        }
        splits = list(self._checked_cv_orig.split(X, y, **split_params))
        evaluation = context.subcontext(task_name="search", max_subtasks=None)
        out, more_results = self._evaluate(candidates, groups, splits, data, evaluation)
        warn_or_raise_about_fit_failures(out, self.error_score)
        if callable(self.scoring):
            insert_error_scores(out, self.error_score)
        results = self._format_results(candidates, self.n_splits_, out, more_results)
        if more_results:
            _rank_by_round(results)

        # The rest is as in BaseSearchCV.fit, which cannot be entered after the fits.
        self.multimetric_ = isinstance(out[0]["test_scores"], dict)
        if callable(self.scoring) and self.multimetric_:
            self._check_refit_for_multimetric(out[0]["test_scores"])
            refit_metric = self.refit
        if self.refit or not self.multimetric_:
            self.best_index_ = self._select_best_index(self.refit, refit_metric, results)
            if not callable(self.refit):
                self.best_score_ = results[f"mean_test_{refit_metric}"][self.best_index_]
            self.best_params_ = results["params"][self.best_index_]
        if self.refit:
            self.best_estimator_ = _with(clone(self.estimator), self.best_params_)
            start = time.time()
            target = () if y is None else (y,)
            refit = context.subcontext(task_name="refit-with-best-params")
            with refit.propagate_callback_context(self.best_estimator_):
                self.best_estimator_.fit(X, *target, **routed.estimator.fit)
            self.refit_time_ = time.time() - start
            if hasattr(self.best_estimator_, "feature_names_in_"):
                self.feature_names_in_ = self.best_estimator_.feature_names_in_
        self.scorer_ = scorers_of(scorer)
        self.cv_results_ = results
        return self

    def _groups(self, candidates, alone):
        """Return the numbers of candidates that may train side by side; key None trains alone."""
        groups = defaultdict(list)
        for number, parameters in enumerate(candidates):
            groups[None if alone else self._group(number, parameters)].append(number)
        for key in set(groups) - {None}:
            # Candidates with long training come together, so that few are left at the end.
            groups[key].sort(
                key=lambda number: _by_training_length(self.estimator, candidates[number])
            )
        return groups

    def _group(self, number, parameters):
        try:
            estimator = _with(clone(self.estimator), parameters)
            head, prefix = _head(estimator)
            if head is None or not _can_train_together(head):
                return None
        except (TypeError, ValueError):
            return None  # an ordinary fit reports the error
        own = {prefix + name for name in SIDE_BY_SIDE}
        rest = {name: value for name, value in parameters.items() if name not in own}
        try:
            # Without dropout no masks are drawn, so the batches differ.
            return joblib.hash((rest, head.dropout > 0))
        except Exception:  # an object that cannot be pickled may raise any error
            return number

    def _check_rounds(self, candidates, groups):
        if None in groups:
            raise ImplicitRMError(
                f"factor={self.factor} pauses candidates, but {candidates[groups[None][0]]} needs "
                "an ordinary fit. Only an ImplicitRewardEstimator, or a pipeline that ends in "
                "one, can be paused. It must have valid parameters and no callbacks. It may not "
                "use user_id, false_action_rate='estimate' or an objective that learns from the "
                "whole log before training. Leave factor out, or search over such candidates "
                "separately."
            )
        if not (self.scoring is None or isinstance(self.scoring, str) or callable(self.scoring)):
            self._score_of_race(dict.fromkeys(self.scoring))

    def _score_of_race(self, scores):
        """Return the score that compares candidates after a round."""
        if not isinstance(scores, dict):
            return scores
        if isinstance(self.refit, str) and self.refit in scores:
            return scores[self.refit]
        raise ImplicitRMError(
            f"factor={self.factor} compares candidates by one score, but scoring has several "
            f"({', '.join(scores)}) and refit={self.refit!r} is not one of them. Set refit to the "
            "name of one."
        )

    def _evaluate(self, candidates, groups, splits, data, context):
        """Return the results of `fit_and_score`, by candidate and split, and further columns."""
        if not candidates or not splits:
            raise ImplicitRMError(
                "No fits were performed. Was the CV iterator empty? Were there no candidates?"
            )
        base = clone(self.estimator)
        n_jobs = joblib.effective_n_jobs(self.n_jobs)
        common = data | {
            "base": base,
            # With random_state=None, every round must draw the same numbers.
            "seed": int(np.random.RandomState().randint(2**31)),
            "return_train_score": self.return_train_score,
            "error_score": self.error_score,
            "verbose": self.verbose,
        }
        if self.verbose > 0:
            print(  # noqa: T201
                f"Fitting {len(splits)} folds for each of {len(candidates)} candidates, totalling "
                f"{len(candidates) * len(splits)} fits"
            )
        out = [[None] * len(splits) for _ in candidates]
        paused = {}
        in_race = list(range(len(candidates)))
        rounds, epochs = np.zeros((2, len(candidates)), dtype=int)
        with Parallel(n_jobs=self.n_jobs, pre_dispatch=self.pre_dispatch) as parallel:
            while True:
                pause = None
                if self.factor is not None and len(in_race) > self.factor:
                    pause = self.min_resources * self.factor ** int(rounds.max())
                epochs[in_race] = [_max_epochs(base, candidates[c], pause) for c in in_race]
                tasks = []
                for key, group in groups.items():
                    for split, (train, test) in enumerate(splits):
                        going = [
                            number
                            for number in group
                            if out[number][split] is None or (number, split) in paused
                        ]
                        size = 1
                        if key is not None and going:
                            estimator = _with(clone(base), candidates[going[0]])
                            size = n_side_by_side(
                                estimator, data["X"], len(going), len(splits), n_jobs
                            )
                        for first in range(0, len(going), size):
                            chunk = going[first : first + size]
                            task = common | {
                                "numbers": chunk,
                                "candidates": [candidates[number] for number in chunk],
                                "alone": key is None,
                                "split": (split, len(splits)),
                                "train": train,
                                "test": test,
                                "paused": [paused.pop((c, split), None) for c in chunk],
                                "pause": pause,
                                "context": context.subcontext("candidates-split-evaluation"),
                            }
                            tasks.append((first, task))
                # The longest first, so that all processes end together.
                tasks = [task for _, task in sorted(tasks, key=itemgetter(0))]
                for task, done in zip(tasks, _run(parallel, tasks, base, n_jobs), strict=True):
                    split, _ = task["split"]
                    for number, (result, progress) in zip(task["numbers"], done, strict=True):
                        before = out[number][split] or {"fit_time": 0.0, "score_time": 0.0}
                        for spent in ("fit_time", "score_time"):
                            result[spent] += before[spent]
                        out[number][split] = result
                        if progress is not None:
                            paused[number, split] = progress
                if not paused:
                    break
                in_race = self._best(in_race, out)
                rounds[in_race] += 1
                paused = {key: state for key, state in paused.items() if key[0] in in_race}
                if self.verbose > 0:
                    print(f"{len(in_race)} candidates continue after {pause} epochs")  # noqa: T201
        more_results = {} if self.factor is None else {"iter": rounds, "n_resources": epochs}
        return [result for results in out for result in results], more_results

    def _best(self, in_race, out):
        """Return the candidates that continue, in their order."""
        means = np.array(
            [
                np.mean([self._score_of_race(result["test_scores"]) for result in out[number]])
                for number in in_race
            ]
        )
        order = np.argsort(np.where(np.isnan(means), np.inf, -means), kind="stable")
        keep = math.ceil(len(in_race) / self.factor)
        return sorted(in_race[position] for position in order[:keep])


def _with(estimator, parameters):
    # Clones, because parameters may themselves be estimators.
    return estimator.set_params(**clone(parameters, safe=False))


def _head(estimator):
    """Return the estimator of this package and the prefix of its parameters, or None."""
    if type(estimator) is ImplicitRewardEstimator:
        return estimator, ""
    if type(estimator) is Pipeline and type(estimator.steps[-1][1]) is ImplicitRewardEstimator:
        return estimator.steps[-1][1], estimator.steps[-1][0] + "__"
    return None, ""


def _can_train_together(head):
    """Return whether a fit can train beside others."""
    validate_params(head)
    layer_sizes(head, "hidden_layer_sizes")
    resolve_device(head.device)
    objective = head.objective
    objective = OBJECTIVES[objective] if isinstance(objective, str) else objective
    return (
        objective.incremental
        and not isinstance(head.false_action_rate, str)
        and not callbacks_of(head)
    )


def _max_epochs(base, parameters, pause):
    head, _ = _head(_with(clone(base), parameters))
    if head is None:
        return 0
    return head.max_epochs if pause is None else min(pause, head.max_epochs)


def _by_training_length(base, parameters):
    """Return a key that sorts candidates by the length of their training, longest first."""
    head, _ = _head(_with(clone(base), parameters))
    return -head.max_epochs, head.learning_rate_init


def n_side_by_side(estimator, X, n_candidates, n_splits, n_jobs):
    """Return how many candidates train side by side."""
    head, _ = _head(estimator)
    n_chunks = 1
    if resolve_device(head.device).type == "cpu":
        n_in = X.shape[1] if len(getattr(X, "shape", ())) == 2 else 1024
        sizes = [n_in, *layer_sizes(head, "hidden_layer_sizes"), 1]
        weights = 2 * head.n_estimators * sum(i * o for i, o in pairwise(sizes))
        # Weights, gradients, two moments and a direction, 4 bytes each.
        most = max(1, CPU_BYTES // (20 * weights))
        n_chunks = -(-n_candidates // most)
    # The last jobs should not wait for a single one of them.
    while (
        n_chunks < n_candidates
        and n_splits * n_chunks < 4 * n_jobs
        and (n_splits * n_chunks % n_jobs)
    ):
        n_chunks += 1
    return -(-n_candidates // n_chunks)


def _run(parallel, tasks, base, n_jobs):
    """Return the results of tasks in their order; with several GPUs each has a process."""
    head, prefix = _head(base)
    device = "cpu" if head is None else head.device
    n_devices = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    n_devices = min(n_devices, n_jobs, len(tasks))
    if n_devices < 2:
        return parallel(delayed(_fit_and_score_together)(**task) for task in tasks)
    shares = parallel(
        delayed(_run_on_device)(f"cuda:{i}", prefix, tasks[i::n_devices]) for i in range(n_devices)
    )
    return [shares[number % n_devices][number // n_devices] for number in range(len(tasks))]


def _run_on_device(device, prefix, tasks):
    return [
        _fit_and_score_together(
            **task | {"base": clone(task["base"]).set_params(**{f"{prefix}device": device})}
        )
        for task in tasks
    ]


def _fit_and_score_together(
    *,
    base,
    X,
    y,
    numbers,
    candidates,
    alone,
    split,
    train,
    test,
    paused,
    pause,
    context,
    seed,
    scorer,
    fit_params,
    score_params,
    return_train_score,
    error_score,
    verbose,
):
    """Fit candidates on one split, side by side unless `alone`, and score them.

    Returns
    -------
    results : list of (dict, dict or None)
        For each candidate, the result of `fit_and_score`, and the state from which it continues if
        it was paused.
    """

    def ordinary(parameters):
        return fit_and_score(
            clone(base),
            X,
            y,
            scorer=scorer,
            train=train,
            test=test,
            verbose=verbose,
            parameters=parameters,
            fit_params=fit_params,
            score_params=score_params,
            return_train_score=return_train_score,
            return_n_test_samples=True,
            return_times=True,
            split_progress=split,
            error_score=error_score,
            callback_ctx=context,
        )

    def separately():
        results = [(ordinary(parameters), None) for parameters in candidates]
        _report_progress(verbose, split, len(results), begin)
        return results

    begin = time.time()
    if alone:
        return separately()
    estimators = [_with(clone(base), each) for each in candidates]
    together = _SideBySide([_head(each)[0] for each in estimators], seed, paused, pause)
    fitter = together
    if isinstance(base, Pipeline):
        fitter = copy.copy(estimators[0])
        fitter.steps = [*fitter.steps[:-1], (fitter.steps[-1][0], together)]
        if paused[0] is not None or pause is not None:
            _seed(fitter, seed)
    X_train, y_train = safe_split(base, X, y, train)
    X_test, y_test = safe_split(base, X, y, test, train)
    target = () if y_train is None else (y_train,)
    try:
        with context.propagate_callback_context(fitter):
            fitter.fit(X_train, *target, **check_method_params(X, fit_params, train))
    except Exception as error:
        results = separately()  # each one fails or succeeds in its own way
        _warn_of_fault(error, results)
        return results
    fit_time = (time.time() - begin) / len(candidates)

    results = []
    for parameters, head, progress in zip(
        candidates, together.heads, together.progress_, strict=True
    ):
        if progress is None:
            results.append((ordinary(parameters), None))  # it diverges again and reports that
            continue
        estimator = head
        if isinstance(base, Pipeline):
            estimator = copy.copy(fitter)
            estimator.steps = [*fitter.steps[:-1], (fitter.steps[-1][0], head)]
        start = time.time()
        result = {"fit_error": None, "n_test_samples": num_samples(X_test), "fit_time": fit_time}
        for name, rows, *data in (
            ("test_scores", test, X_test, y_test),
            ("train_scores", train, X_train, y_train),
        ):
            if name == "test_scores" or return_train_score:
                params = check_method_params(X, score_params, rows)
                result[name] = score_of(estimator, *data, scorer, params, error_score)
            result.setdefault("score_time", time.time() - start)
        results.append((result, progress or None))
        if verbose > 1:
            named = ", ".join(f"{name}={parameters[name]}" for name in sorted(parameters))
            print(f"[CV {split[0] + 1}/{split[1]}] END {named}; score={result['test_scores']}")  # noqa: T201
    _report_progress(verbose, split, len(results), begin)
    return results


def _warn_of_fault(error, results):
    """Warn of an error of fits side by side if the separate fits have none."""
    if not any(result["fit_error"] for result, _ in results):
        warn(
            "candidates could not be fitted side by side, and were fitted one after another, which "
            f"is slower: {type(error).__name__}: {error}. Please report it."
        )


def _report_progress(verbose, split, n_candidates, begin):
    """Print that candidates are done on one split; beyond 1 each of them was printed by itself."""
    if verbose == 1:
        text = f"{n_candidates} candidate{'s' * (n_candidates > 1)}, {time.time() - begin:.1f} s"
        print(f"[CV {split[0] + 1}/{split[1]}] {text}", flush=True)  # noqa: T201


def _seed(pipeline, seed):
    """Make random transformers draw the same numbers in every round."""
    for name, value in pipeline.get_params().items():
        if name.split("__")[-1] == "random_state" and value is None:
            pipeline.set_params(**{name: seed})


class _SideBySide(BaseEstimator):
    """The last step of a pipeline that fits several estimators in one pass.

    Parameters
    ----------
    heads, seed, paused, pause
        As in `fit_side_by_side`.

    Attributes
    ----------
    progress_ : list of dict or None
        The result of `fit_side_by_side`.
    """

    def __init__(self, heads, seed, paused, pause):
        self.heads = heads
        self.seed = seed
        self.paused = paused
        self.pause = pause

    def __sklearn_tags__(self):
        return get_tags(self.heads[0])

    def get_metadata_routing(self):
        """Return the metadata that `fit` of the estimators requests."""
        return self.heads[0].get_metadata_routing()

    def fit(self, X, y=None, **fit_params):
        """Fit all of the estimators."""
        self.progress_ = fit_side_by_side(
            self.heads,
            X,
            y,
            seed=self.seed,
            paused=self.paused,
            pause=self.pause,
            token=token_of(self, parent_context(self)),
            **fit_params,
        )
        return self


def _rank_by_round(results):
    """Rank candidates by the last round they reached, then by score."""
    for key in [key for key in results if key.startswith("rank_test_")]:
        means = results[key.replace("rank", "mean", 1)]
        keys = list(zip(-results["iter"], np.where(np.isnan(means), np.inf, -means), strict=True))
        results[key] = np.array([1 + sum(other < own for other in keys) for own in keys])
        results[key] = results[key].astype(np.int32)
