"""The scikit-learn face of the package: parameters, checks, shapes; no tensor arithmetic."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from typing import Any, Literal, Self, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, _fit_context
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from . import _persistence
from ._checkpoint import Checkpoint, ResumableMixin, warm_start_kept
from ._device import INFERENCE_ROWS, resolve_device, resolve_dtype
from ._features import embed_text, positions_in_use, select_features, set_embedder
from ._identification import (
    MIN_RESPONSES,
    NOT_IDENTIFIED,
    Evidence,
    Identification,
    assess,
    relation,
)
from ._log import check_constant, check_labels, check_log, number_responses
from ._sources import StreamedX, chunks, picked
from ._typing import F, Floats, RandomState, Rows, same
from ._validation import (
    check_both_classes,
    check_groups,
    check_interval,
    check_out,
    check_sample_weight,
    in_range,
    to_numpy,
)
from ._warnings import in_worker, running_search, searched_over, warn
from .embedding import LLMEmbedder
from .exceptions import IdentificationWarning
from .measurement import _mixture
from .measurement._model import GROUP_NAMES
from .metrics import PREFERENCE_METRICS
from .objectives import OBJECTIVES, Naive, Objective, TrainingLog
from .training._constraint import RateConstraint
from .training._modules import RewardModel
from .training._net import batched_logits, build_net
from .training._rows import Partners, ResidentRows
from .training._split import cross_fitting_folds, row_codes, validation_split
from .training._streaming import StreamedRows

#: Epochs trained when there is too little data to hold some out.
FIXED_EPOCHS = 50
#: Folds of which each is held out once to estimate false-action rates.
N_FOLDS = 5
#: Acted and not acted rows that both sides of the validation split need.
MIN_ROWS_PER_CLASS = 5
#: The search or pipeline in which an IdentificationWarning was given last.
_warned_in = None


def _available_if_objective(attribute: str, reason: str) -> Callable[[F], F]:
    """Hide a method unless the objective has an attribute; the error's cause says why."""

    def check(estimator):
        objective = estimator.objective
        if isinstance(objective, str):
            objective = OBJECTIVES.get(objective, Objective)
        if not getattr(objective, attribute):
            name = objective.__name__ if isinstance(objective, type) else type(objective).__name__
            raise AttributeError(f"not available: {name} {reason}")
        return True

    return same(available_if(check))


_needs_incremental = _available_if_objective(
    "incremental", "learns from the whole log before training. Use fit."
)
_needs_actions_modelled = _available_if_objective(
    "models_actions",
    "does not model P(y | x), only the reward. Use predict, or an objective that does, such as "
    "'stratified'.",
)


class ImplicitRewardEstimator(ResumableMixin, CallbackSupportMixin, BaseEstimator):
    """Reward model learned from what users do with responses, not from labels.

    Users who do not act do not thereby dislike, and responses differ in how readily they draw
    actions. The model separates the two [1]_: with reward R(x) = P(r*=1 | x) and propensity
    A_k(x) = P(y_k=1 | r*=1, x) of the k-th action signal,

    ``P(y | x) = R(x) prod_k Bern(y_k; A_k(x)) + (1 - R(x)) prod_k Bern(y_k; e_k)``

    over the logged signals k, where e_k = P(y_k=1 | r*=0) is the false-action rate.

    With one signal only the product R * A is determined by any amount of data: the reward may be
    anything in [P(y=1 | x), 1], and (R, A) and (A, R) fit equally well. Both sides of this swap
    then carry equal weight in the fitted mixture, and `fit` gives an `IdentificationWarning`.
    Several signals of the same user on the same response determine the reward if they fire
    independently given x and r*. So do labels of some responses, known propensities, and, up to
    a factor, a propensity that depends on columns of its own.

    Parameters
    ----------
    objective : str or Objective, default="stratified"
        How the heads are trained: a name of `implicitrm_sk.objectives.OBJECTIVES`. "naive" takes no
        action for a dislike and is the baseline; the others are the methods of the literature, all
        but "stratified" single-signal: with several signals they use "any logged action".
    hidden_layer_sizes : int or tuple of int, default=(64,)
        Hidden units per layer of the reward head; ``()`` is a linear (logistic) reward.
    propensity_hidden_layer_sizes : int or tuple of int, default=None
        The same for the propensity head. None means `hidden_layer_sizes`.
    reward_features, propensity_features : column selection, default=None
        The columns of X that each head reads: names, positions, a slice, a boolean mask, or a
        callable that gets X and returns one of these, as in ``ColumnTransformer``. None is all
        columns; if only one is given, the other is its complement. For columns that both heads are
        to read, give both. Columns named by neither are not used. Columns that only the propensity
        reads (user, position, scenario) may be missing or NaN in `predict` and
        `decision_function`.
    preference_rate : float or (float, float), default=None
        The mean reward over the population, that is the responses of `fit` by their
        `sample_weight`, if it is known: a number, or an interval that holds it. It is imposed on
        every member, to rounding, over the responses that are logged or labelled. "upu" and "nnpu"
        need it as a number, as the class prior of their risk.
    false_action_rate : float, array-like of shape (n_signals,) or "estimate", default=0.0
        P(y_k=1 | r*=0): the share of not preferred responses that still draw action k (misclicks).
        In [0, 1). A_k > e_k is imposed. "estimate" learns the rates by EM on held-out rows, each
        fifth of the log held out once, and then fits with these; it needs three signals logged
        together (or three exposures of the same response), or labels of responses that are not
        preferred.
    label_mechanism : {"random", "acted"}, default="random"
        Which responses have a label in ``fit(preference=)``. "random": whether one is labelled
        does not depend on its preference, given features and actions. "acted": only responses
        that drew an action could be labelled; this tells something only with a given
        `false_action_rate` above 0, since without false actions all of them are preferred.
    n_estimators : int, default=4
        Members of the fitted equal-weight mixture, trained side by side from different starts.
    learning_rate_init : float, default=0.0003
        Step size of AdamW.
    weight_decay : float, default=0.01
        Decoupled weight decay of AdamW.
    dropout : float, default=0.2
        Share of hidden units dropped in training, in [0, 1).
    batch_size : int, default=256
        Rows per training step.
    max_epochs : int, default=500
        Most passes over the training rows.
    early_stopping : bool, default=True
        Hold out `validation_fraction` of the rows, stop each member when the objective's held-out
        criterion no longer improves, and keep each member's best weights. With fewer than 5 acted
        or not acted rows on either side of the split, a warning is given and min(max_epochs, 50)
        epochs are trained on all rows.
    validation_fraction : float, default=0.2
        Share of the groups (of `fit`) held out, in (0, 1).
    n_iter_no_change : int, default=10
        Epochs without an improvement of at least `tol` after which a member stops.
    tol : float, default=1e-4
        Smallest improvement that counts, in units of the held-out criterion (nats per row).
    standardize : bool, default=True
        Subtract the mean and divide by the standard deviation of the training rows, per column.
        They run over all rows seen by `partial_fit` and by `fit` under `warm_start`.
    warm_start : bool, default=False
        Start `fit` from the weights of the previous one.
    device : str, default="auto"
        Torch device; "auto" is cuda if there is one, else mps, else cpu.
    dtype : {"auto", "float32", "float64", "bfloat16"}, default="auto"
        Number format of data and weights while training and predicting, whatever the dtype of X;
        "auto" is bfloat16 on CUDA devices that support it and float32 elsewhere. "bfloat16" means
        mixed precision: weights, losses and likelihoods stay in float32.
    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, validation split, batch order and dropout. Global generators are
        neither read nor changed.
    verbose : bool, default=False
        Print the losses of each epoch. For progress bars see `set_callbacks`.
    embedder : str, path-like or LLMEmbedder, default=None
        Language model that turns text into vectors: X may then be text in every form that
        `LLMEmbedder` reads, in all methods. A name or path stands for ``LLMEmbedder(embedder)``.
        Vectors that this embedder has made may be passed too.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        The values of an action, [0, 1].
    group_names_ : tuple of str
        The columns of `predict_proba`: PA positive-active (r*=1, a=1), NA negative-active (0, 1),
        PP positive-passive (1, 0), NP negative-passive (0, 0).
    n_features_in_ : int
        Number of columns of X; of text, of its vectors.
    feature_names_in_ : ndarray of str of shape (`n_features_in_`,)
        Column names, if X had any.
    reward_columns_, propensity_columns_ : ndarray of int
        Positions of the columns that each head reads.
    embedder_ : LLMEmbedder
        The embedder in use, if there is one.
    n_signals_ : int
        Number of action signals K.
    signal_names_in_ : ndarray of str of shape (`n_signals_`,)
        Names of the signals, if y was a DataFrame with string columns.
    identification_ : Identification
        What the settings of `fit` tell about the reward: `level`, `assumptions`, `reason`,
        `advice`. See `identification_report` for what the data say.
    objective_ : Objective
        The objective in use.
    false_action_rate_ : ndarray of shape (`n_signals_`,)
        The false-action rates in use, given or estimated.
    model_ : torch.nn.Module
        The trained heads.
    scaler_ : StandardScaler or None
        Mean and scale of the columns.
    history_ : list of dict
        Per epoch ``train_loss`` and, with early stopping, ``valid_loss``: lists with one value per
        member, in nats per row. ``train_loss`` is the training loss (for "stratified", E_pref +
        E_prop), ``valid_loss`` the held-out criterion (the negative log-likelihood of the actions
        and labels).
    n_iter_ : int
        Number of epochs trained.

    See Also
    --------
    implicitrm_sk.LLMEmbedder : Prompts and responses as vectors.
    implicitrm_sk.identification_report : What the log can tell about the reward.
    implicitrm_sk.datasets.simulate_feedback : A feedback log with known truth.
    implicitrm_sk.metrics.make_preference_scorer : Scores against known preferences.

    Notes
    -----
    ``score`` is the mean held-out log-likelihood of the actions. It compares settings of one
    objective on the same signals; it cannot rank objectives, nor tell the two sides of the swap
    apart.

    References
    ----------
    .. [1] Wang et al., "ImplicitRM: Unbiased Reward Modeling from Implicit Preference Data for LLM
       Alignment", arXiv 2603.23184, 2026.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 5))
    >>> preferred = X[:, 0] + 0.3 * rng.normal(size=2000) > 0
    >>> copied = preferred & (rng.uniform(size=2000) < 0.3)
    >>> shared = preferred & (rng.uniform(size=2000) < 0.4)
    >>> est = ImplicitRewardEstimator(learning_rate_init=0.003, random_state=0)
    >>> est = est.fit(X, np.column_stack([copied, shared]))
    >>> est.predict([[2.0, 0, 0, 0, 0], [-2.0, 0, 0, 0, 0]]).round(1)
    array([1., 0.], dtype=float32)
    """

    classes_: NDArray[np.int_]
    group_names_: tuple[str, ...]
    n_features_in_: int
    n_signals_: int
    n_iter_: int
    reward_columns_: NDArray[np.intp]
    propensity_columns_: NDArray[np.intp]
    false_action_rate_: NDArray[np.float64]
    history_: list[dict[str, list[float]]]
    identification_: Identification
    objective_: Objective
    model_: Any
    scaler_: Any
    embedder_: LLMEmbedder

    __metadata_request__fit = {
        "sample_weight": True,
        "groups": True,
        "response_id": True,
        "exposures": True,
        "preference": True,
        "propensity": True,
    }
    __metadata_request__partial_fit = {
        "sample_weight": True,
        "response_id": True,
        "exposures": True,
        "preference": True,
        "propensity": True,
    }
    __metadata_request__predict = {"return_std": True}
    __metadata_request__predict_proba = {
        "actions": True,
        "response_id": True,
        "exposures": True,
        "propensity": True,
    }
    __metadata_request__score = {
        "true_preference": True,
        "sample_weight": True,
        "response_id": True,
        "exposures": True,
        "propensity": True,
    }

    _parameter_constraints = {
        "objective": [StrOptions(set(OBJECTIVES)), Objective],
        "hidden_layer_sizes": [Interval(Integral, 1, None, closed="left"), tuple, list],
        "propensity_hidden_layer_sizes": [
            Interval(Integral, 1, None, closed="left"),
            tuple,
            list,
            None,
        ],
        "reward_features": [None, str, Integral, slice, "array-like", callable],
        "propensity_features": [None, str, Integral, slice, "array-like", callable],
        "preference_rate": [None, Interval(Real, 0, 1, closed="both"), "array-like"],
        "false_action_rate": [
            Interval(Real, 0, 1, closed="left"),
            "array-like",
            StrOptions({"estimate"}),
        ],
        "label_mechanism": [StrOptions({"random", "acted"})],
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "standardize": ["boolean"],
        "warm_start": ["boolean"],
        "device": [str],
        "dtype": [StrOptions({"auto", "float32", "float64", "bfloat16"})],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "embedder": [None, str, os.PathLike, LLMEmbedder],
    }

    def __init__(
        self,
        objective: str | Objective = "stratified",
        *,
        hidden_layer_sizes: int | Sequence[int] = (64,),
        propensity_hidden_layer_sizes: int | Sequence[int] | None = None,
        reward_features: Any = None,
        propensity_features: Any = None,
        preference_rate: float | Sequence[float] | None = None,
        false_action_rate: str | float | ArrayLike = 0.0,
        label_mechanism: str = "random",
        n_estimators: int = 4,
        learning_rate_init: float = 0.0003,
        weight_decay: float = 0.01,
        dropout: float = 0.2,
        batch_size: int = 256,
        max_epochs: int = 500,
        early_stopping: bool = True,
        validation_fraction: float = 0.2,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        standardize: bool = True,
        warm_start: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        random_state: RandomState = None,
        verbose: bool | int = False,
        embedder: str | os.PathLike[str] | LLMEmbedder | None = None,
    ) -> None:
        self.objective = objective
        self.hidden_layer_sizes = hidden_layer_sizes
        self.propensity_hidden_layer_sizes = propensity_hidden_layer_sizes
        self.reward_features = reward_features
        self.propensity_features = propensity_features
        self.preference_rate = preference_rate
        self.false_action_rate = false_action_rate
        self.label_mechanism = label_mechanism
        self.n_estimators = n_estimators
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.standardize = standardize
        self.warm_start = warm_start
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose
        self.embedder = embedder

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = self.embedder is not None
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags

    # ------------------------------------------------------------------ training

    @same(with_callbacks)
    @same(_fit_context(prefer_skip_nested_validation=True))
    @same(warm_start_kept)
    def fit(
        self,
        X: Rows,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        response_id: ArrayLike | None = None,
        exposures: ArrayLike | None = None,
        preference: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
    ) -> Self:
        """Learn reward and propensity from logged actions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), path, or text of n_samples rows
            One embedding per (prompt, response); with `embedder`, the text itself. A path, of a
            ``.npy``, ``.safetensors`` or ``.parquet`` file or of a folder of such files, stands
            for the rows in it, here and in all methods. Files, and ``np.memmap``, of more than
            1 GiB are not held in memory but read block by block, and shuffled within blocks.
        y : array-like of shape (n_samples,) or (n_samples, n_signals)
            Actions: 1 the user acted, 0 the user did not, NaN the signal was not logged; with
            `exposures` the number of actions. Rows with nothing logged and no label carry no
            information and are passed over. Rows are matched to X, and signals to those of later
            calls, by position; names of signals are kept and must then agree.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, in training, validation and the column means.
        groups : array-like of shape (n_samples,), default=None
            Rows of one group (prompt, user) stay on one side of the validation split. None keeps
            identical rows, or the rows of one response, together. Pairwise objectives ("bpr" ...)
            compare responses of one group, and without groups any two.
        response_id : array-like of shape (n_samples,), default=None
            Rows of one id are the same response shown repeatedly and share one preference r*,
            while each row has its own propensity. Reward columns, weight, label and group must be
            the same in all rows of an id, and no split cuts one. None: every row is a response of
            its own.
        exposures : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
            How often each row was shown: y then counts actions, 0 to exposures, of one preference
            and one propensity. None is once.
        preference : array-like of shape (n_samples,), default=None
            Labels to train on, where the preference is known: 1 preferred, 0 not, a number in
            between a graded label that stands for the posterior of r*; NaN unknown. Not to be
            confused with the `true_preference` of `score`, which is for evaluation.
        propensity : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
            P(y_k=1 | r*=1) in (0, 1] of rows for which it is known from a randomised experiment,
            NaN elsewhere. The propensity head learns from the other rows, and from these only if
            there are no others. Objectives that weigh by propensity ("ips" ...) estimate what is
            not known by a convention.

        Returns
        -------
        self : ImplicitRewardEstimator
            The estimator, fitted.

        Raises
        ------
        ValueError
            If an argument has the wrong shape or values, if labels contradict actions, or if the
            logged actions are all equal.

        Warns
        -----
        IdentificationWarning
            If nothing that was passed determines the reward; once per search.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(1000, 2))
        >>> preferred = X[:, 0] > 0
        >>> copied = np.where(preferred, rng.random(1000) < 0.5, 0)
        >>> label = np.where(rng.random(1000) < 0.1, preferred, np.nan)  # one in ten was asked
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0)
        >>> est.fit(X, copied, preference=label).identification_.level
        'identified'
        """
        if searched_over("objective", without="true_preference"):
            raise ValueError(
                "the likelihood of actions cannot rank objectives: with one signal, naive and "
                "stratified models fit P(y | x) alike, and others do not model it. Tune each "
                "objective by itself, and compare objectives by true preferences: "
                "scoring=make_preference_scorer(...) of implicitrm_sk.metrics, or "
                "fit(true_preference=...) of a search with metadata routing."
            )
        set_embedder(self)
        # Callbacks score on X in every epoch, which is not to embed it again.
        given_X = X = embed_text(self, X)
        keep_weights = self.warm_start and hasattr(self, "model_")
        columns = (self.reward_columns_, self.propensity_columns_) if keep_weights else None
        X = select_features(self, X, reset=True)
        if keep_weights:
            self._check_config("n_in", X.shape[1])
            self._check_same_columns(columns)
        random_state = self._own_random_state()
        log = self._check_log(
            y,
            len(X),
            sample_weight=sample_weight,
            response_id=response_id,
            exposures=exposures,
            preference=preference,
            propensity=propensity,
        )
        row_weight = log.per_row(log.sample_weight)
        check_both_classes(log.actions, row_weight, log.exposures)
        self._warn_about_signals(log, row_weight)
        log = check_labels(log, self.false_action_rate_, self.label_mechanism)
        self._warn_about_preference_rate(log)
        self.evidence_ = Evidence.of(log, self.false_action_rate_, log.telling_signals())
        self._assess(self.evidence_)
        groups = None if groups is None else check_groups(groups, len(X))
        X, log, groups = self._model_log(X, log, response_id, groups)

        usable = log.usable()
        in_validation = self._split(X, log, usable, groups, random_state)
        train, valid = usable[~in_validation], usable[in_validation]
        epochs = self.max_epochs
        if self.early_stopping and not len(valid):
            epochs = min(epochs, FIXED_EPOCHS)

        self._update_scaler(X, log, train, reset=not keep_weights)
        if self._estimates_false_actions():
            self._estimate_false_action_rate(X, log, usable, groups, random_state)
        further = self._prepare_objective(X, log, train, valid, random_state)
        self._prepare_model(X.shape[1], log, train, random_state, keep_weights)

        self.history_ = []
        context = self._init_callback_context(max_subtasks=epochs)
        self._warn_not_identified(context)
        details = {
            "X": given_X,
            "y": y,
            "metadata": None if sample_weight is None else {"sample_weight": sample_weight},
            "reconstruction_attributes": self._fitted_attributes,
        }
        context.call_on_fit_task_begin(estimator=self, **details)
        epoch_context = None

        def epoch_begin():
            nonlocal epoch_context
            epoch_context = context.subcontext(task_name="epoch")
            epoch_context.call_on_fit_task_begin(estimator=self, **details)

        def epoch_end(record):
            self._log_epoch(record)
            return epoch_context.call_on_fit_task_end(estimator=self, **details)

        constraint = self._rate_constraint(self.model_, len(train))
        net = self._net(
            self.model_,
            patience=self.n_iter_no_change,
            tol=self.tol,
            constraint=constraint,
            epoch_begin=epoch_begin,
            epoch_end=epoch_end,
        )
        weight = log.sample_weight.copy()
        for part in (train, valid):
            # Losses stay in nats per row, and a batch mean an unbiased estimate of their mean.
            weight[part] /= weight[part].mean() if len(part) else 1
        parts = self._resident_parts(
            self.model_,
            X,
            log,
            (weight, weight),
            (train, valid),
            random_state,
            further=further,
            groups=groups,
        )
        del weight, row_weight, in_validation, groups
        if constraint is None:
            # Beside rows that stay in files, the log is what fills the memory.
            del log, usable
        self._train(net, parts, epochs)
        if constraint is not None:
            self._impose_rate(constraint, X, log, usable)
        self.n_iter_ = len(self.history_)
        for leftover in ("optimizer_state_", "random_state_"):  # of a partial_fit
            self.__dict__.pop(leftover, None)
        context.call_on_fit_task_end(estimator=self, **details)
        self._warn_still_improving(net.n_running_)
        return self

    def _train(self, net, parts, epochs):
        net.fit_loop(parts, epochs=epochs, checkpoint=Checkpoint.of(self))

    def _warn_still_improving(self, n_members):
        if n_members and self.n_iter_ == self.max_epochs:
            warn(
                f"{n_members} of {self.n_estimators} members were still improving after "
                f"max_epochs={self.max_epochs} epochs. Increase max_epochs or learning_rate_init.",
                ConvergenceWarning,
            )

    @_needs_incremental
    @same(_fit_context(prefer_skip_nested_validation=True))
    def partial_fit(
        self,
        X: Rows,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        response_id: ArrayLike | None = None,
        exposures: ArrayLike | None = None,
        preference: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
    ) -> Self:
        """Train one pass over some more rows: no split, no early stopping.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_signals)
            Actions as in `fit`; a batch without any action is legal. The first call fixes the
            number of columns and signals.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights; the loss of the batch is multiplied by them, so that they also
            weigh one batch against another.
        response_id : array-like of shape (n_samples,), default=None
            As in `fit`. All rows of an id belong in one batch.
        exposures, preference, propensity : array-like, default=None
            As in `fit`.

        Returns
        -------
        self : ImplicitRewardEstimator
            The estimator, fitted.

        Raises
        ------
        ValueError
            If an argument has the wrong shape or values, or does not go with what the first call
            fixed; if nothing is logged; with `preference_rate` or ``false_action_rate="estimate"``,
            which are about the whole log.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0)
        >>> for day in range(30):
        ...     X = rng.normal(size=(256, 2))
        ...     y = ((X[:, :1] > 0) & (rng.random((256, 2)) < 0.5)).astype(int)
        ...     _ = est.partial_fit(X, y)
        >>> est.predict([[2.0, 0.0], [-2.0, 0.0]]).round(1)
        array([1., 0.], dtype=float32)
        """
        if self.preference_rate is not None:
            raise ValueError(
                f"preference_rate={self.preference_rate!r} is about the whole population, of which "
                "partial_fit sees one batch. Use fit, or leave preference_rate out."
            )
        if self._estimates_false_actions():
            raise ValueError(
                "false_action_rate='estimate' compares rows held out of training, of which "
                "partial_fit has none. Estimate it by fit on part of the log, and pass the "
                "false_action_rate_ found there as false_action_rate."
            )
        first = not hasattr(self, "model_")
        if first:
            set_embedder(self)
        X = select_features(self, X, reset=first)
        log = self._check_log(
            y,
            len(X),
            reset=first,
            sample_weight=sample_weight,
            response_id=response_id,
            exposures=exposures,
            preference=preference,
            propensity=propensity,
        )
        log = check_labels(log, self.false_action_rate_, self.label_mechanism)
        if not hasattr(self, "random_state_"):
            self.random_state_ = self._own_random_state()
        self.evidence_ = Evidence.of(log, self.false_action_rate_) + (
            Evidence() if first else self.evidence_
        )
        self._assess(self.evidence_)
        X, log, _ = self._model_log(X, log, response_id, None)
        rows = log.usable()
        if not len(rows):
            raise ValueError(
                "y logs nothing: all entries are NaN or have zero sample_weight. Leave such "
                "batches out."
            )
        self._update_scaler(X, log, rows, reset=first)
        self._prepare_model(X.shape[1], log, rows, self.random_state_, not first)
        if first:
            self.history_ = []
            self.n_iter_ = 0
            self._warn_not_identified()
        net = self._net(self.model_, epoch_end=self._log_epoch)
        if hasattr(self, "optimizer_state_"):
            net.optimizer_.load_state_dict(self.optimizer_state_)
        weight = log.sample_weight
        parts = self._resident_parts(
            self.model_, X, log, (weight, weight), (rows, rows[:0]), self.random_state_
        )
        net.fit_loop(parts, epochs=1)
        self.optimizer_state_ = net.optimizer_.state_dict()
        self.n_iter_ += 1
        return self

    def _check_log(self, y, n_samples, *, reset=True, **side_information):
        if reset:
            self.objective_ = (
                copy.deepcopy(self.objective)
                if isinstance(self.objective, Objective)
                else OBJECTIVES[self.objective]()
            )
        self._check_objective_uses(side_information)
        self._check_signal_names(y, reset=reset)
        propensity = side_information.pop("propensity")
        log, one_dimensional = check_log(
            y, n_samples, n_signals=None if reset else self.n_signals_, **side_information
        )
        if reset:
            self.n_signals_ = log.actions.shape[1]
            self.one_dimensional_ = one_dimensional
            self.classes_ = np.array([0, 1])
            self.group_names_ = GROUP_NAMES
            self.false_action_rate_ = self._check_false_action_rate(log)
            if self.objective_.single_signal and self.n_signals_ > 1:
                warn(
                    f"{type(self.objective_).__name__} works on one signal: the {self.n_signals_} "
                    'signals of y are reduced to "any logged action". Pass one signal to silence '
                    "this.",
                )
        if propensity is not None:
            log, _ = check_log(
                y,
                n_samples,
                propensity=propensity,
                false_action_rate=self.false_action_rate_,
                **side_information,
            )
        return log

    def _check_objective_uses(self, side_information):
        given = [name for name, value in side_information.items() if value is not None]
        given = [name for name in given if name != "sample_weight"]
        if self.objective_.single_signal:
            given = [name for name in given if name not in ("response_id", "exposures")]
        if self.preference_rate is not None:
            given.append("preference_rate")
        if isinstance(self.false_action_rate, str):
            given.append("false_action_rate='estimate'")
        elif self.objective_.single_signal and np.any(np.asarray(self.false_action_rate) != 0):
            given.append("false_action_rate")
        if self.objective_.needs_preference_rate and np.ndim(self.preference_rate or ()) > 0:
            raise ValueError(
                f"{type(self.objective_).__name__} needs the share of preferred responses as a "
                f"number, got preference_rate={self.preference_rate!r}. If it is not known, "
                "the mean reward of objective='elkan-noto' estimates it, where one propensity "
                "holds for all responses."
            )
        unused = [name for name in given if name not in self.objective_.uses]
        if unused:
            raise ValueError(
                f"{type(self.objective_).__name__} makes no use of {', '.join(unused)}. Leave "
                f"{'it' if len(unused) == 1 else 'them'} out, or use objective='stratified'."
            )

    def _check_signal_names(self, y, *, reset):
        columns = getattr(y, "columns", None)
        names = (
            np.asarray(columns, dtype=object)
            if columns is not None and all(isinstance(name, str) for name in columns)
            else None
        )
        if reset:
            self.__dict__.pop("signal_names_in_", None)
            if names is not None:
                self.signal_names_in_ = names
            return
        known = getattr(self, "signal_names_in_", None)
        if known is not None and names is not None and list(names) != list(known):
            raise ValueError(
                f"the signals are {list(names)}, but the estimator was fitted with {list(known)}. "
                "Pass the same signals in the same order, NaN where one was not logged."
            )

    def _signal_names(self):
        return list(getattr(self, "signal_names_in_", range(self.n_signals_)))

    def _warn_about_signals(self, log, row_weight):
        """Name each signal that tells nothing or contradicts its false-action rate."""
        shown = np.ones_like(log.actions) if log.exposures is None else log.exposures
        for name, column, exposures, e in zip(
            self._signal_names(), log.actions.T, shown.T, self.false_action_rate_, strict=True
        ):
            is_logged = ~np.isnan(column) & (row_weight > 0)
            acted, exposures, weight = (
                column[is_logged],
                exposures[is_logged],
                row_weight[is_logged],
            )
            rate = weight @ acted / (weight @ exposures) if acted.size else 1.0
            if rate < e and not self._estimates_false_actions():
                warn(
                    f"false_action_rate of signal {name!r} is {e:g}, but only {rate:.3g} of all "
                    "rows draw that action, preferred or not: the two contradict each other, and "
                    "the reward will come out near 0. Lower false_action_rate.",
                )
        if self.n_signals_ == 1:
            return  # that a single signal is constant is an error
        names = self._signal_names()
        for signal, why in log.idle_signals().items():
            if isinstance(why, str):
                problem = {
                    "never": "is 0 in every row where it is logged: it",
                    "always": "is 1 in every row where it is logged: it",
                    "not logged": "is never logged: it",
                }[why]
            else:
                problem = f"equals signal {names[why]!r} wherever both are logged: a copy"
            warn(
                f"signal {names[signal]!r} of y {problem} tells nothing about the reward. Leave it "
                "out, or check how the log was joined.",
            )

    def _warn_about_preference_rate(self, log):
        interval = self._preference_interval()
        if interval is None or self._estimates_false_actions() or self.false_action_rate_.any():
            return
        proved = np.average(log.fired(), weights=log.sample_weight)
        if interval[1] < proved:
            warn(
                f"preference_rate={self.preference_rate!r}, but {proved:.3g} of all responses drew "
                "an action, which with false_action_rate=0 proves that they are preferred: the two "
                "contradict each other. Raise preference_rate, or set false_action_rate."
            )

    def _estimates_false_actions(self):
        return isinstance(self.false_action_rate, str)

    def _check_false_action_rate(self, log):
        if self._estimates_false_actions():
            for name, counts in zip(
                self._signal_names(),
                log.false_action_evidence(self.label_mechanism),
                strict=True,
            ):
                if max(counts) >= MIN_RESPONSES:
                    continue
                raise ValueError(
                    "false_action_rate='estimate' needs three signals logged together (or three "
                    f"exposures) or labels of not preferred responses, at least {MIN_RESPONSES} "
                    f"responses of a kind for each signal; y has {self.n_signals_} signal(s), and "
                    f"signal {name!r} has {counts[0]} responses on which it is one of three "
                    f"logged, {counts[1]} shown three times, and {counts[2]} with preference=0. "
                    "With less, false and true actions cannot be told apart: pass a number."
                )
            return np.full(self.n_signals_, np.nan)  # until it is learned
        try:
            rate = np.asarray(self.false_action_rate, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"false_action_rate must be a number, one per signal or 'estimate', got "
                f"{self.false_action_rate!r}."
            ) from error
        if rate.ndim > 1 or (rate.ndim == 1 and len(rate) != self.n_signals_):
            raise ValueError(
                f"false_action_rate has shape {rate.shape}; expected is one number, or one per "
                f"signal: ({self.n_signals_},)."
            )
        if not ((rate >= 0) & (rate < 1)).all():
            raise ValueError(
                f"false_action_rate must lie in [0, 1), got {self.false_action_rate!r}. It is the "
                "share of not preferred responses that still draw the action."
            )
        return np.broadcast_to(rate, self.n_signals_).copy()

    def _preference_interval(self):
        if self.preference_rate is None:
            return None
        interval = check_interval(self.preference_rate, "preference_rate")
        return None if interval == (0.0, 1.0) else interval

    def _assess(self, evidence):
        sizes = self.hidden_layer_sizes, self.propensity_hidden_layer_sizes
        self.identification_ = assess(
            evidence,
            objective=self.objective_,
            columns=(
                "disjoint"
                if self.objective_.propensity_form == "constant"
                else relation(self.reward_columns_, self.propensity_columns_)
            ),
            preference_rate=self._preference_interval(),
            false_actions=(
                "estimated"
                if self._estimates_false_actions()
                else "given"
                if self.false_action_rate_.any()
                else "none"
            ),
            label_mechanism=self.label_mechanism,
            linear=all(size in ((), [], None) for size in sizes) and sizes[0] is not None,
            n_signals=self.n_signals_,
        )

    def _warn_not_identified(self, context=None):
        """Warn once: inside a search the refit, or else the first fit, speaks for all."""
        global _warned_in
        found = self.identification_
        if found.level != NOT_IDENTIFIED or not self.objective_.models_propensity:
            return
        if context is not None and context.parent is not None and in_worker():
            return  # workers of a search share nothing but the refit, which is in the main process
        search = running_search()
        if search is not None and search == _warned_in:
            return
        _warned_in = search
        warn(
            f"the reward is not identified: {found.reason} It is then a convention: more rows do "
            "not help, more kinds of information do (identification_.advice). To silence this: "
            "warnings.filterwarnings('ignore', category=implicitrm_sk.IdentificationWarning).",
            IdentificationWarning,
        )

    def _own_random_state(self):
        if self.random_state is None:
            # scikit-learn's None means numpy's global generator, which is not ours to advance.
            return np.random.RandomState()
        return check_random_state(self.random_state)

    def _model_log(self, X, log, response_id, groups):
        """Return what the objective sees: rows of a response side by side, signals reduced."""
        if self.objective_.pairs and isinstance(X, StreamedX):
            raise X.refusal()
        if log.response is not None:
            ids = np.asarray(to_numpy(response_id))
            self._check_same_reward(X, log, ids)
            if groups is not None:
                codes, _ = number_responses(groups)
                check_constant(
                    codes, log.response, log.first, ids, "groups", "No split may cut a response"
                )
                groups = groups[log.first]
            log, order = log.sorted()
            X = X[order]
        if self.objective_.single_signal:
            if log.response is not None:
                X = X[log.first]
            log = log.reduced()
        return X, log, groups

    def _check_same_reward(self, X, log, response_id):
        check_constant(
            self._reward_part(X),
            log.response,
            log.first,
            np.asarray(to_numpy(response_id)),
            "X",
            "A response has one reward: name the columns that vary with the exposure in "
            "propensity_features",
        )

    def _reward_part(self, X):
        columns, _ = positions_in_use(self)
        return X if columns is None else X[:, list(columns)]

    def _split(self, X, log, usable, groups, random_state):
        """Return a mask over the usable responses: those that validate."""
        nothing = np.zeros(len(usable), dtype=bool)
        if not self.early_stopping:
            return nothing
        acted = log.fired()[usable]
        chosen = validation_split(
            *self._strata_and_groups(X, log, usable, groups), self.validation_fraction, random_state
        )
        rows = np.bincount(2 * chosen + acted, minlength=4)
        if rows.min() >= MIN_ROWS_PER_CLASS:
            return chosen
        warn(
            f"early_stopping needs at least {MIN_ROWS_PER_CLASS} acted and {MIN_ROWS_PER_CLASS} "
            f"not acted rows on both sides of the validation split, but training would get "
            f"{rows[1]} and {rows[0]}, validation {rows[3]} and {rows[2]}. Training "
            f"{min(self.max_epochs, FIXED_EPOCHS)} epochs on all rows instead. Collect more rows, "
            "change validation_fraction, or set early_stopping=False and max_epochs.",
        )
        return nothing

    def _strata_and_groups(self, X, log, usable, groups):
        """Return what every part of the data is to have its share of, and what no split cuts."""
        if groups is None:
            groups = row_codes(X if log.response is None else self._reward_part(X)[log.first])
        stratum = log.fired()[usable].astype(float)
        if log.preference is not None:
            # Labels are few: each side of the split is to have its share of them.
            label = log.preference[usable]
            stratum = stratum + np.where(np.isnan(label), 0.0, 2 + 2 * np.round(label))
        return stratum, groups[usable]

    def _estimate_false_action_rate(self, X, log, usable, groups, random_state):
        """Set the false-action rates by EM on held-out rows, each fold held out once.

        On training rows a flexible reward makes room for the false actions it has seen, and the
        rates come out too low.
        """
        fold = cross_fitting_folds(
            *self._strata_and_groups(X, log, usable, groups), N_FOLDS, random_state
        )
        held_out = np.zeros((N_FOLDS, log.n_responses), dtype=bool)
        held_out[fold, usable] = True
        acted = log.fired()[usable]
        if np.bincount(2 * fold + acted, minlength=2 * N_FOLDS).min() < MIN_ROWS_PER_CLASS:
            raise ValueError(
                f"false_action_rate='estimate' needs at least {MIN_ROWS_PER_CLASS} acted and "
                f"{MIN_ROWS_PER_CLASS} not acted responses in each of {N_FOLDS} parts of the log, "
                f"which has {acted.sum()} acted and {(~acted).sum()} not acted ones in "
                f"{len(np.unique(fold))} parts that no group is cut by. Collect more, or pass a "
                "number."
            )
        # Lower bounds of the mean of the log tell the order of magnitude to start from.
        self.false_action_rate_ = log.rates(usable)[0] / 10
        model = self._new_model(X.shape[1], log, N_FOLDS)
        self._initialize(model, log, usable, random_state)
        constraint = self._rate_constraint(model, len(usable))
        net = self._net(
            model,
            estimate_false_action_rate=True,
            patience=self.n_iter_no_change,
            tol=self.tol,
            constraint=constraint,
        )
        weights = []
        for part in (~held_out, held_out):
            weight = np.where(part, log.sample_weight, 0.0)
            weights.append(weight / weight[:, usable].mean(axis=1, keepdims=True))
        parts = self._resident_parts(model, X, log, weights, (usable, usable), random_state)
        net.fit_loop(parts, epochs=self.max_epochs)
        rates = net.criterion_.false_action_rate[0].to("cpu", torch.float64)
        self.false_action_rate_ = rates.mean(0).numpy()
        if log.propensity is not None:
            low = log.propensity <= self.false_action_rate_
            if low.any():
                warn(
                    f"{low.sum()} of the known propensities are not above the estimated "
                    f"false_action_rate, {self.false_action_rate_.round(3).tolist()}: the two "
                    "contradict each other. Check propensity, or pass the rates."
                )

    def _prepare_objective(self, X, log, train, valid, random_state):
        """Let a single-signal objective learn from the whole log; return further fields of it."""
        if not self.objective_.single_signal:
            return {}

        def action_probability():
            objective = Naive()
            model = self._new_model(X.shape[1], log, self.n_estimators, objective)
            self._initialize(model, log, train, random_state, objective=objective)
            net = self._net(model, objective, patience=self.n_iter_no_change, tol=self.tol)
            weight = log.sample_weight
            parts = self._resident_parts(
                model, X, log, (weight, weight), (train, valid), random_state, objective=objective
            )
            epochs = self.max_epochs if len(valid) else min(self.max_epochs, FIXED_EPOCHS)
            net.fit_loop(parts, epochs=epochs)
            (logit,) = self._logits(X, "reward_logit", model=model)
            return torch.sigmoid(logit).numpy()

        is_training = np.zeros(log.n_responses, dtype=bool)
        is_training[train] = True
        return self.objective_.prepare(
            TrainingLog(
                X=self._reward_part(X),
                actions=log.actions[:, 0],
                sample_weight=log.sample_weight,
                is_training=is_training,
                propensity=None if log.propensity is None else log.propensity[:, 0],
                preference_rate=self.preference_rate,
                action_probability=action_probability,
                random_state=random_state,
            )
        )

    def _update_scaler(self, X, log, responses, *, reset):
        if not self.standardize:
            self.scaler_ = None
            return
        if reset or getattr(self, "scaler_", None) is None:
            self.scaler_ = StandardScaler()
        rows = responses
        if log.response is not None:
            rows = np.flatnonzero(np.isin(log.response, responses))
        weight = log.per_row(log.sample_weight)[rows]
        uniform = (weight == weight[0]).all()
        for part, block in picked(X, rows, INFERENCE_ROWS):
            # A float16 sum of squares overflows at 65504.
            block = block.astype(np.float32) if X.dtype == np.float16 else block
            # Several times faster without weights.
            self.scaler_.partial_fit(block, sample_weight=None if uniform else weight[part])

    def _layer_sizes(self, name):
        sizes = getattr(self, name)
        sizes = (sizes,) if isinstance(sizes, Integral) else tuple(sizes)
        if any(not isinstance(size, Integral) or size < 1 for size in sizes):
            raise ValueError(
                f"{name} must be a positive integer or a tuple of positive integers, got "
                f"{getattr(self, name)!r}."
            )
        return tuple(map(int, sizes))

    def _prepare_model(self, n_in, log, responses, random_state, keep_weights):
        model = self._new_model(n_in, log, self.n_estimators)
        if keep_weights:
            self._check_same_model(model)
            model.load_state_dict(self.model_.state_dict())
        else:
            self._initialize(model, log, responses, random_state, self._start_exponents)
        self.model_ = model

    def _new_model(self, n_in, log, n_members, objective=None):
        objective = self.objective_ if objective is None else objective
        device = resolve_device(self.device)
        dtype, _ = resolve_dtype(self.dtype, device)
        sizes = self._layer_sizes("hidden_layer_sizes")
        reward_columns, propensity_columns = positions_in_use(self)
        model = RewardModel(
            n_members=n_members,
            n_in=n_in,
            n_signals=log.actions.shape[1],
            hidden_layer_sizes=sizes,
            propensity_hidden_layer_sizes=(
                sizes
                if self.propensity_hidden_layer_sizes is None
                else self._layer_sizes("propensity_hidden_layer_sizes")
            ),
            dropout=self.dropout,
            with_propensity=objective.models_propensity,
            reward_columns=reward_columns,
            propensity_columns=propensity_columns,
            propensity_form=objective.propensity_form,
            auxiliary_head=objective.auxiliary_head,
            representation=objective.representation,
        )
        return model.to(device, dtype)

    def _initialize(self, model, log, responses, random_state, starts=None, objective=None):
        objective = self.objective_ if objective is None else objective
        generator = torch.Generator().manual_seed(random_state.randint(2**31))
        model.initialize(generator, *self._initial_logits(log, responses, objective, starts))

    def _check_same_model(self, model):
        for name, new in model.config.items():
            if name != "dropout":
                self._check_config(name, new)

    def _check_same_columns(self, columns):
        new = self.reward_columns_, self.propensity_columns_
        for name, before, after in zip(
            ("reward_features", "propensity_features"), columns, new, strict=True
        ):
            if not np.array_equal(before, after):
                raise ValueError(
                    f"training cannot go on from the fitted weights: {name} selected the columns "
                    f"{before.tolist()} and now selects {after.tolist()}. Use the same, or fit a "
                    "clone."
                )

    def _check_config(self, name, new):
        old = self.model_.config[name]
        if old != new:
            shown = {"n_members": "n_estimators", "n_in": "the number of columns of X"}
            raise ValueError(
                f"training cannot go on from the fitted weights: {shown.get(name, name)} was {old} "
                f"and is now {new}. Use the same data layout and architecture, or fit a clone."
            )

    def _initial_logits(self, log, responses, objective, starts=None):
        """Return logits of reward and propensities at which training starts."""
        rate, any_rate = log.rates(responses)
        e = np.zeros(1) if objective.single_signal else self.false_action_rate_
        any_e = 1 - np.prod(1 - e)
        acted = np.maximum((rate - e) / (1 - e), 1e-3)
        any_acted = max((any_rate - any_e) / (1 - any_e), 1e-3)
        reward, propensity = objective.initial_rates(acted, any_acted)
        if starts is not None:
            # Refits of a report start from different splits of the action rate.
            reward = any_acted ** starts[:, None]
            propensity = acted / reward
        interval = self._preference_interval()
        if interval is not None:
            reward = np.clip(reward, *interval)
            propensity = acted / reward
        return [
            torch.as_tensor(np.log(p / (1 - p)))
            for p in (np.clip(start, 0.01, 0.99) for start in (reward, propensity))
        ]

    #: Of a report: member m starts at R = P(any action) ** exponents[m].
    _start_exponents = None

    def _net(self, model, objective=None, **settings):
        device = next(model.parameters()).device
        steps = {name: getattr(self, name) for name in ("learning_rate_init", "weight_decay")}
        return build_net(
            model,
            self.objective_ if objective is None else objective,
            false_action_rate=self._model_false_action_rate(),
            device=device,
            autocast_dtype=resolve_dtype(self.dtype, device)[1],
            **steps | settings,
        )

    def _model_false_action_rate(self):
        """Return the rates of shape (K,), None if all are 0 or the objective does without them."""
        if self.objective_.single_signal or not self.false_action_rate_.any():
            return None
        return torch.as_tensor(self.false_action_rate_)

    def _rate_constraint(self, model, n_responses):
        interval = self._preference_interval()
        if interval is None or self.objective_.needs_preference_rate:
            return None
        device = next(model.parameters()).device
        n_batches = n_responses / self.batch_size
        return RateConstraint(*interval, model.config["n_members"], n_batches, device)

    def _impose_rate(self, constraint, X, log, responses):
        """Shift the reward of each member, so that its mean over the rows of fit is exact."""
        rows = responses if log.first is None else log.first[responses]
        if isinstance(X, StreamedX):
            reward_logit = self._logits(X, "reward_logit")[0][:, rows]
        else:
            (reward_logit,) = self._logits(X[rows], "reward_logit")
        shift = constraint.shift(reward_logit, torch.as_tensor(log.sample_weight[responses]))
        bias = self.model_.reward.biases[-1]
        with torch.no_grad():
            bias.add_(shift.to(bias)[:, None])

    def _resident_parts(
        self,
        model,
        X,
        log,
        weights,
        parts,
        random_state,
        *,
        objective=None,
        further=None,
        groups=None,
    ):
        """Return `ResidentRows` to train on and to validate on, None for an empty part."""
        objective = self.objective_ if objective is None else objective
        further = further or {}
        parameter = next(model.parameters())
        device, dtype = parameter.device, parameter.dtype
        generator = torch.Generator(device).manual_seed(random_state.randint(2**31))
        model.set_generator(generator)
        if isinstance(X, StreamedX):
            served, serve = X.scaled_by(self.scaler_), StreamedRows
        else:
            served, serve = torch.empty(X.shape, dtype=dtype, device=device), ResidentRows
            for start, chunk in self._standardized(X, dtype):
                served[start : start + len(chunk)] = chunk

        def tensors(**fields):
            return {
                name: torch.as_tensor(value, dtype=dtype, device=device)
                for name, value in fields.items()
                if value is not None
            }

        rows = tensors(
            actions=log.actions,
            exposures=log.exposures,
            propensity=log.propensity,
            propensity_target=_propensity_target(log),
        )
        responses = tensors(preference=log.preference, **further)

        def partners(part):
            if not objective.pairs:
                return None
            kinds = np.arange(len(X))
            if objective.pairs == "different":
                kinds = further.get("stratum", np.nan_to_num(log.actions[:, 0]))
            codes = np.zeros(len(X), dtype=int) if groups is None else number_responses(groups)[0]
            codes, kinds = (torch.as_tensor(values, device=device) for values in (codes, kinds))
            return Partners(part, len(X), codes, kinds, generator, objective.across_prompts)

        offsets = None
        if log.response is not None:
            offsets = torch.as_tensor(np.append(log.first, len(log.response)), device=device)
        one_weight = weights[0] is weights[1]
        weights = [torch.as_tensor(weight, dtype=dtype, device=device) for weight in weights]
        return [
            serve(
                served,
                rows,
                responses,
                weights[0] if one_weight else weight,
                torch.as_tensor(part, device=device),
                batch_size,
                offsets=offsets,
                generator=shuffle,
                partners=partners(torch.as_tensor(part, device=device)),
            )
            if len(part)
            else None
            for weight, part, batch_size, shuffle in zip(
                weights, parts, (self.batch_size, INFERENCE_ROWS), (generator, None), strict=True
            )
        ]

    def _standardized(self, X, dtype):
        """Yield (start, chunk): standardised rows of X as tensors on the CPU.

        Columns that only the propensity reads are NaN where they are missing, and stay so.
        """
        compute = np.dtype(np.float32) if X.dtype == np.float16 else X.dtype
        if self.scaler_ is not None:
            mean, scale = (
                torch.from_numpy(part.astype(compute))
                for part in (self.scaler_.mean_, self.scaler_.scale_)
            )
        for start, chunk in chunks(X, INFERENCE_ROWS):
            # torch shares memory, and objects to read-only and reversed arrays.
            tensor = torch.from_numpy(np.require(chunk, compute, "CW"))
            if self.scaler_ is not None:
                tensor = (tensor - mean).div_(scale)
            yield start, in_range(tensor, dtype)

    def _log_epoch(self, record):
        self.history_.append(record)
        if self.verbose:
            losses = ", ".join(f"{name} {np.mean(loss):.4f}" for name, loss in record.items())
            print(f"[ImplicitRewardEstimator] epoch {len(self.history_)}: {losses}")  # noqa: T201
        return False

    def _fitted_attributes(self):
        fitted = {k: v for k, v in vars(self).items() if k.endswith("_") and not k.startswith("_")}
        return fitted | {"model_": copy.deepcopy(self.model_), "n_iter_": len(self.history_)}

    # ------------------------------------------------------------------ prediction

    def _mixture(self, X, *heads):
        """Return the logits of all components of the mixture, in float64 on the CPU."""
        return self._components(self._selected(X, "propensity_logit" in heads), *heads)

    def _selected(self, X, with_propensity=True):
        check_is_fitted(self, "model_")
        return select_features(self, X, reset=False, with_propensity=with_propensity)

    def _components(self, X, *heads):
        mirrored = self.identification_.swap_symmetric
        logits = self._logits(X, *(("reward_logit", "propensity_logit") if mirrored else heads))
        if mirrored:
            logits = _mixture.with_mirror_images(*logits)
        return logits if len(heads) == len(logits) else logits[:1]

    def _reduced(self, X, heads, reduce, out=None):
        """Return arrays of `reduce(rows, *logits)`, tensors per row, made chunk by chunk of X."""
        results = None
        # Half as many: rows, standardised rows and results stay in the cache together.
        for start, chunk in chunks(X, INFERENCE_ROWS // 2):
            rows = slice(start, start + len(chunk))
            parts = [part.numpy() for part in reduce(rows, *self._components(chunk, *heads))]
            if results is None:
                results = [np.empty((len(X), *part.shape[1:]), part.dtype) for part in parts]
                if out is not None:
                    results[0] = check_out(out, results[0])
            for result, part in zip(results, parts, strict=True):
                result[rows] = part
        return results

    def _of_log(self, X, log, function):
        """Return what a function of `_mixture` makes of the logits and a log."""
        model_log = log.reduced() if self.objective_.single_signal else log
        fields, heads = log_tensors(model_log), ("reward_logit", "propensity_logit")
        rate = self._model_false_action_rate()
        if log.response is not None:
            reward_logit, propensity_logit = self._components(X, *heads)
            if model_log is not log:
                propensity_logit = propensity_logit[:, log.first]
            logits = reward_logit[:, log.first], propensity_logit
            return function(*logits, **fields, false_action_rate=rate).numpy()

        def of_rows(rows, *logits):
            part = {k: None if value is None else value[rows] for k, value in fields.items()}
            return (function(*logits, **part, false_action_rate=rate),)

        return self._reduced(X, heads, of_rows)[0]

    def _logits(self, X, *heads, model=None):
        """Return the logits of the members."""
        model = self.model_ if model is None else model
        parameter = next(model.parameters())
        logits = batched_logits(
            model,
            (chunk for _, chunk in self._standardized(X, parameter.dtype)),
            heads,
            device=parameter.device,
            autocast_dtype=resolve_dtype(self.dtype, parameter.device)[1],
        )
        if any(torch.isnan(part).any() for part in logits):
            raise ValueError(
                "the reward of some rows is not a number: X lies far outside the range seen in "
                f"fit (largest |X| given: {np.abs(X).max():.3g})."
            )
        return logits

    def _output(self, values):
        """Cast to the format that was computed in."""
        return values.to(next(self.model_.parameters()).dtype)

    def _per_signal(self, X, function):
        X = self._selected(X)
        rate = self._model_false_action_rate()
        (values,) = self._reduced(
            X,
            ("reward_logit", "propensity_logit"),
            lambda _, *logits: (self._output(function(*logits, rate)),),
        )
        return values[:, 0] if self.one_dimensional_ else values

    @overload
    def predict(
        self, X: Rows, return_std: Literal[False] = False, out: NDArray[Any] | None = None
    ) -> Floats: ...

    @overload
    def predict(
        self, X: Rows, return_std: Literal[True], out: NDArray[Any] | None = None
    ) -> tuple[Floats, Floats]: ...

    def predict(
        self, X: Rows, return_std: bool = False, out: NDArray[Any] | None = None
    ) -> Floats | tuple[Floats, Floats]:
        """Predict the reward.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.
        return_std : bool, default=False
            Also return the standard deviation over the components of the mixture: the members
            and, with one signal, the two sides of the swap. It is no confidence interval, and a
            lower bound of what one signal leaves open: members that start from the same split of
            the action probability tend to agree on it.
        out : ndarray of shape (n_samples,), default=None
            Of floats: where to write the reward, for example an ``np.memmap``. None makes an array.

        Returns
        -------
        reward : ndarray of shape (n_samples,)
            P(r*=1 | x), in [0, 1]; `out`, if given.
        std : ndarray of shape (n_samples,)
            Only if `return_std`.

        Raises
        ------
        NotFittedError, ValueError
            Before `fit`; if X has other columns than `fit` saw, or values far outside their range;
            if `out` has another shape, is read-only or not of floats.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(1000, 2))
        >>> y = ((X[:, :1] > 0) & (rng.random((1000, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
        >>> est.predict([[2.0, 0.0], [-2.0, 0.0]]).round(1)
        array([1., 0.], dtype=float32)
        >>> reward, std = est.predict(X, return_std=True)
        >>> std.shape
        (1000,)
        """
        X = self._selected(X, with_propensity=False)

        def moments(_, reward_logit):
            found = _mixture.reward(reward_logit) if return_std else (_mixture.mean(reward_logit),)
            return map(self._output, found)

        results = self._reduced(X, ("reward_logit",), moments, out)
        return tuple(results) if return_std else results[0]

    def decision_function(self, X: Rows) -> Floats:
        """Return the logit of the reward.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.

        Returns
        -------
        logit : ndarray of shape (n_samples,)
            Log odds R / (1 - R) of the mixture; finite also where `predict` rounds to 0 or 1.

        Raises
        ------
        NotFittedError, ValueError
            As in `predict`.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(1000, 2))
        >>> y = ((X[:, :1] > 0) & (rng.random((1000, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
        >>> logit = est.decision_function(X)
        >>> bool(np.allclose(1 / (1 + np.exp(-logit)), est.predict(X), atol=1e-5))
        True
        """
        X = self._selected(X, with_propensity=False)
        (logit,) = self._reduced(
            X, ("reward_logit",), lambda _, f: (self._output(_mixture.mean_logit(f)),)
        )
        return logit

    @_needs_actions_modelled
    def predict_proba(
        self,
        X: Rows,
        actions: ArrayLike | None = None,
        response_id: ArrayLike | None = None,
        exposures: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
    ) -> Floats:
        """Return the probabilities of the four latent groups: the stratification posterior.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.
        actions : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
            What the user did, as in `fit`. None is before the action is seen, as is all NaN.
        response_id, exposures, propensity : array-like, default=None
            As in `fit`, for `actions`: what is known of a response from one row counts for all its
            rows.

        Returns
        -------
        proba : ndarray of shape (n_samples, 4)
            Columns PA, NA, PP, NP (`group_names_`), rows summing to 1. Active means that at least
            one of the signals would fire, in at least one of the exposures of the row.

        Raises
        ------
        AttributeError
            If the objective does not model P(y | x).
        ValueError
            If X or `actions` do not go with those of `fit`, or `response_id` or `exposures` are
            given without `actions`.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(1000, 2))
        >>> y = ((X[:, :1] > 0) & (rng.random((1000, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
        >>> x = [[2.0, 0.0]]
        >>> est.predict_proba(x, [[1, 0]]).round(1)  # copied: preferred and active, with certainty
        array([[1., 0., 0., 0.]], dtype=float32)
        >>> before, after = est.predict_proba(x), est.predict_proba(x, [[0, 0]])
        >>> bool(after[0, 2] > before[0, 2])  # no action makes preferred and passive likelier
        True
        """
        check_is_fitted(self, "model_")
        X = select_features(self, X, reset=False)
        if actions is None:
            for name, value in (("response_id", response_id), ("exposures", exposures)):
                if value is not None:
                    raise ValueError(f"{name} tells nothing without actions: pass actions too.")
            actions = np.full((len(X), self.n_signals_), np.nan)
        log = self._check_log_of(
            actions,
            len(X),
            name="actions",
            response_id=response_id,
            exposures=exposures,
            propensity=propensity,
        )
        if log.response is not None:
            self._check_same_reward(X, log, response_id)
        groups = self._of_log(X, log, _mixture.group_posterior)
        groups = self._output(torch.from_numpy(groups)).numpy()
        return groups if len(groups) == len(X) else groups[log.response]

    @_needs_actions_modelled
    def predict_action(self, X: Rows) -> Floats:
        """Predict how likely each action is.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.

        Returns
        -------
        action : ndarray of shape (n_samples,) or (n_samples, n_signals)
            P(y_k=1 | x); 1-D if `fit` got 1-D actions.

        Raises
        ------
        AttributeError, ValueError
            If the objective does not model P(y | x), or not each of several signals.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(1000, 2))
        >>> y = ((X[:, :1] > 0) & (rng.random((1000, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
        >>> est.predict_action(X).shape
        (1000, 2)
        >>> product = est.predict(X)[:, None] * est.propensity(X)
        >>> bool(np.allclose(est.predict_action(X), product, atol=1e-5))
        True
        """
        self._check_signals_modelled("predict_action")
        return self._per_signal(X, _mixture.action)

    @_needs_actions_modelled
    def propensity(self, X: Rows) -> Floats:
        """Predict how readily each response draws each action.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.

        Returns
        -------
        propensity : ndarray of shape (n_samples,) or (n_samples, n_signals)
            P(y_k=1 | r*=1, x); 1-D if `fit` got 1-D actions.

        Raises
        ------
        AttributeError, ValueError
            If the objective does not model P(y | x), or not each of several signals.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(2000, 2))
        >>> y = ((X[:, :1] > 0) & (rng.random((2000, 2)) < [0.3, 0.7])).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
        >>> est.propensity([[1.0, 0.0]]).round(1)
        array([[0.3, 0.7]], dtype=float32)
        """
        self._check_signals_modelled("propensity")
        return self._per_signal(X, _mixture.propensity)

    def _check_signals_modelled(self, method):
        check_is_fitted(self, "model_")
        if self.objective_.single_signal and self.n_signals_ > 1:
            raise ValueError(
                f"{method} is not available: {type(self.objective_).__name__} was fitted on "
                f'"any logged action" and does not model the {self.n_signals_} signals one by one. '
                "Fit it on one signal, or use objective='stratified'."
            )

    def _check_log_of(self, y, n_samples, name="y", **side_information):
        """Return the log of a method other than fit."""
        self._check_objective_uses(side_information)
        self._check_signal_names(y, reset=False)
        log, _ = check_log(
            y,
            n_samples,
            name=name,
            n_signals=self.n_signals_,
            false_action_rate=self.false_action_rate_,
            **side_information,
        )
        return log

    # ------------------------------------------------------------------ evaluation

    def score(
        self,
        X: Rows,
        y: ArrayLike | None,
        true_preference: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        response_id: ArrayLike | None = None,
        exposures: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
    ) -> float:
        """Return the mean log-likelihood of held-out actions, or R2 against true preferences.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_signals)
            Actions as in `fit`. Not used with `true_preference`.
        true_preference : array-like of shape (n_samples,), default=None
            True preferences in [0, 1] to evaluate with, NaN where unknown: such rows are left out.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights.
        response_id, exposures, propensity : array-like, default=None
            As in `fit`, for the likelihood of `y`.

        Returns
        -------
        score : float
            Without `true_preference`: weighted mean of log P(y | x) in nats over the rows (with
            `response_id`, the responses) with at least one logged signal, summed over the signals
            and exposures ("any logged action" for single-signal objectives). The likelihood of
            counts is that of the sequence of exposures, without the binomial coefficient. With
            `true_preference`: R2 of the reward, over rows.

        Raises
        ------
        ValueError
            If nothing is logged in rows of positive weight, fewer than two preferences are known,
            or, without `true_preference`, if the objective does not model P(y | x).

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(2000, 2))
        >>> preferred = X[:, 0] > 0
        >>> y = (preferred[:, None] & (rng.random((2000, 2)) < 0.5)).astype(int)
        >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0)
        >>> _ = est.fit(X[:1000], y[:1000])
        >>> round(est.score(X[1000:], y[1000:]), 1)
        -0.7
        >>> est.score(X[1000:], None, true_preference=preferred[1000:]) > 0.9
        True
        """
        check_is_fitted(self, "model_")
        if true_preference is not None:
            reward = self.predict(X)
            weight = check_sample_weight(sample_weight, len(reward))
            return PREFERENCE_METRICS["r2"](to_numpy(true_preference), reward, sample_weight=weight)
        if not self.objective_.models_actions:
            raise ValueError(
                f"{type(self.objective_).__name__} does not model P(y | x), so that actions have "
                "no likelihood to score with. Pass true_preference, or use "
                "scoring=make_preference_scorer(...) of implicitrm_sk.metrics in a search."
            )
        log_likelihood, weight = self._log_likelihood(
            X,
            y,
            sample_weight=sample_weight,
            response_id=response_id,
            exposures=exposures,
            propensity=propensity,
        )
        if not weight.any():
            raise ValueError(
                "y logs nothing in rows of positive weight; the likelihood of no action is not "
                "defined."
            )
        counted = weight > 0
        return float(np.average(log_likelihood[counted], weights=weight[counted]))

    def _log_likelihood(self, X, y, **side_information):
        """Return log P(y | x) of each response, and its weight, 0 where nothing is logged."""
        X = select_features(self, X, reset=False)
        log = self._check_log_of(y, len(X), **side_information)
        if log.response is not None:
            self._check_same_reward(X, log, side_information["response_id"])
        log_likelihood = self._of_log(X, log, _mixture.log_likelihood)
        return log_likelihood, np.where(log.n_events() > 0, log.sample_weight, 0.0)

    # ------------------------------------------------------------------ persistence

    def save(self, path: str | PathLike[str], metrics: Mapping[str, float] | None = None) -> None:
        """Save the fitted estimator in files that hold no code.

        Settings go into JSON, arrays into safetensors, what a reader has to know into a model card
        (``README.md``); a manifest holds the format version and the SHA-256 of the files. Files of
        this version load with every later one. Everything is saved, also the state from which
        `partial_fit` goes on, except callbacks. Of a language model (`embedder`), the name and
        fingerprint are saved, not the weights.

        Parameters
        ----------
        path : str or path-like
            A folder, or a file that ends in ``.zip``. It is written beside its place first and then
            moved there. A model saved there before is replaced; a folder with other files is left
            alone.
        metrics : dict of str to float, default=None
            Measured values for the model card, by name.

        Raises
        ------
        ValueError
            If something cannot be saved without code: a callable as column selection, an objective
            that is none of this package's.
        FileExistsError
            If something other than a saved model is in the way.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> X = np.random.default_rng(0).normal(size=(100, 2))
        >>> y = np.column_stack([X[:, 0] > 0, X[:, 0] > 0.5]).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=2, early_stopping=False).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     est.save(f"{folder}/reward.zip", metrics={"AUROC on 200 rated answers": 0.84})
        ...     same = ImplicitRewardEstimator.load(f"{folder}/reward.zip")
        >>> bool((same.predict(X) == est.predict(X)).all())
        True
        """
        _persistence.save(self, path, metrics)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Load an estimator that `save` wrote, on any machine.

        Parameters
        ----------
        path : str or path-like
            Folder or zip archive.

        Returns
        -------
        est : ImplicitRewardEstimator
            On `device` if the machine has it, else, with a warning, on the CPU.

        Raises
        ------
        ModelFileError
            If the files are incomplete, damaged, altered or of a newer format. Nothing in a file is
            ever executed, and nothing is written. The SHA-256 finds accidents; whoever can change
            all the files can change that too: load models from people you trust to have trained
            them well.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> X = np.random.default_rng(0).normal(size=(100, 2))
        >>> y = np.column_stack([X[:, 0] > 0, X[:, 0] > 0.5]).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=2, early_stopping=False).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     est.save(f"{folder}/reward")
        ...     same = ImplicitRewardEstimator.load(f"{folder}/reward")
        >>> same.n_signals_
        2
        """
        return _persistence.load(cls, path)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        metrics: Mapping[str, float] | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the fitted estimator to the Hugging Face hub, in the files of `save`.

        Parameters
        ----------
        repo_id : str
            ``"user/name"``; the repository is created if there is none.
        metrics : dict of str to float, default=None
            As in `save`.
        commit_message : str, default=None
            What the hub's history says.
        private : bool, default=None
            Whether a new repository is private. None is the default of the organisation.
        token : str, default=None
            Access token; None is the one of ``hf auth login``.

        Returns
        -------
        url : str
            Of the commit.

        Raises
        ------
        ValueError
            As in `save`.

        Examples
        --------
        >>> from implicitrm_sk import ImplicitRewardEstimator  # doctest: +SKIP
        >>> est = ImplicitRewardEstimator.load("reward")  # doctest: +SKIP
        >>> est.push_to_hub("user/reward", private=True)  # doctest: +SKIP
        """
        return _persistence.push_to_hub(
            self,
            repo_id,
            metrics=metrics,
            commit_message=commit_message,
            private=private,
            token=token,
        )

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
    ) -> Self:
        """Load an estimator from the Hugging Face hub, or from a local path.

        Parameters
        ----------
        repo_id : str
            ``"user/name"`` on the hub, or a path as in `load`.
        revision : str, default=None
            Branch, tag or commit. Only a commit is sure to be the same tomorrow.
        token : str, default=None
            Access token; None is the one of ``hf auth login``.
        cache_dir : str or path-like, default=None
            Where downloads are kept; None is the cache of huggingface_hub.

        Returns
        -------
        est : ImplicitRewardEstimator

        Raises
        ------
        ModelFileError
            As in `load`.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> from implicitrm_sk import ImplicitRewardEstimator
        >>> X = np.random.default_rng(0).normal(size=(100, 2))
        >>> y = np.column_stack([X[:, 0] > 0, X[:, 0] > 0.5]).astype(int)
        >>> est = ImplicitRewardEstimator(max_epochs=2, early_stopping=False).fit(X, y)
        >>> with tempfile.TemporaryDirectory() as folder:  # "user/reward" for one of the hub
        ...     est.save(f"{folder}/reward")
        ...     same = ImplicitRewardEstimator.from_pretrained(f"{folder}/reward")
        >>> same.n_features_in_
        2
        """
        return _persistence.from_pretrained(
            cls, repo_id, revision=revision, token=token, cache_dir=cache_dir
        )

    def __getstate__(self):
        # Plain arrays: pickle, joblib and skops all read them, on a machine without the device.
        state = super().__getstate__().copy()
        if "model_" in state:
            state["model_"] = {
                "config": self.model_.config,
                "parameters": {
                    name: value.cpu().numpy() for name, value in self.model_.state_dict().items()
                },
            }
        if "optimizer_state_" in state:
            state["optimizer_state_"] = _map_tensors(
                state["optimizer_state_"], torch.Tensor, lambda tensor: tensor.cpu().numpy()
            )
        return state

    def __setstate__(self, state):
        state = dict(state)
        if "model_" in state:
            model = RewardModel(**state["model_"]["config"])
            parameters = _map_tensors(
                state["model_"]["parameters"], np.ndarray, lambda array: torch.tensor(array)
            )
            model.to(next(iter(parameters.values())).dtype)
            model.load_state_dict(parameters)
            try:
                device = resolve_device(state["device"])
            except ValueError:
                warn(
                    f"device={state['device']!r} is not available here: the estimator was loaded "
                    "on the CPU. Set device before fitting again."
                )
                device = torch.device("cpu")
            state["model_"] = model.to(device)
        if "optimizer_state_" in state:
            state["optimizer_state_"] = _map_tensors(
                state["optimizer_state_"], np.ndarray, lambda array: torch.tensor(array)
            )
        super().__setstate__(state)


def _map_tensors(tree, kind, convert):
    if isinstance(tree, kind):
        return convert(tree)
    if isinstance(tree, dict):
        return {key: _map_tensors(value, kind, convert) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_map_tensors(value, kind, convert) for value in tree]
    return tree


def log_tensors(log):
    """Return the likelihood's view of a log."""
    fields = {
        name: getattr(log, name) for name in ("actions", "exposures", "response", "propensity")
    }
    return {
        name: None if value is None else torch.as_tensor(value) for name, value in fields.items()
    }


def _propensity_target(log):
    """Return the known propensities of signals that are logged nowhere else, None without any."""
    if log.propensity is None:
        return None
    known = ~np.isnan(log.propensity)
    taught_elsewhere = (~known & ~np.isnan(log.actions)).any(axis=0)
    if taught_elsewhere.all():
        return None
    return np.where(taught_elsewhere, np.nan, log.propensity)
