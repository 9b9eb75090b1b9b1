"""The scikit-learn face of the package: parameters, fit, partial_fit."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin

from ._assumptions import Assumptions
from ._checkpoint import ResumableMixin
from ._features import HeadColumns, read_features, set_embedder
from ._fit import (
    log_epoch,
    own_random_state,
    read_log,
    reread_log,
    run_fit,
    take_evidence,
    token_of,
    update_scaler,
)
from ._identification import Evidence, Identification, warn_not_identified
from ._prediction import PredictionMixin, available_if_objective
from ._sklearn import (
    Interval,
    StrOptions,
    clone_parametrized,
    fit_context,
    parent_context,
    searches_by_own_score,
)
from ._transaction import all_or_nothing
from ._typing import RandomState, Rows, same
from ._warnings import note_clone
from .embedding import LLMEmbedder
from .measurement._signal import Signal
from .objectives import OBJECTIVES, Objective
from .persistence._mixin import PersistenceMixin
from .training._data import TrainingData
from .training._plan import FitPlan

OBJECTIVES_NOT_RANKED = (
    "the likelihood of actions cannot rank objectives: with one signal, naive and "
    "stratified models fit P(y | x) alike, and others do not model it. Tune each "
    "objective by itself, and compare objectives by true preferences: "
    "scoring=make_preference_scorer(...) of implicitrm_sk.metrics, or "
    "fit(true_preference=...) of a search with metadata routing."
)

_needs_incremental = available_if_objective(
    "incremental", "learns from the whole log before training. Use fit."
)


class ImplicitRewardEstimator(
    PredictionMixin, PersistenceMixin, ResumableMixin, CallbackSupportMixin, BaseEstimator
):
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
        `decision_function`. With an `embedder` names are those of the table that holds the text:
        a column of text stands for the whole vector, other columns of numbers for themselves.
    signals : dict or list, default=None
        What each column of y is: "positive" (users act because they like the response), "negative"
        (because they do not: regenerate, thumbs down, report), or a `Signal` of
        `implicitrm_sk.signals`. A dict by the names of all columns of y, or a list in their order.
        None: all are positive.
    shared_examination : bool, default=None
        Whether some rows were never looked at, so that all their signals are silent together.
        False: every row was looked at, which you state. None: not known; the verdict is then what
        holds in either case. True: the probability of looking is modelled, by a network on the
        columns of the propensity. This takes two signals of each polarity: with fewer, attention
        and dislike cannot be distinguished, and the reward gets worse.
    shared_propensity : bool, default=False
        Whether all signals have one propensity function, with a factor for each. With signals of
        both polarities the order of the reward is then determined.
    preference_rate : float or (float, float), default=None
        The mean reward over the population, that is the responses of `fit` by their
        `sample_weight`, if it is known: a number, or an interval that holds it. It is imposed on
        every member, to rounding, over the responses that are logged or labelled. "upu" and "nnpu"
        need it as a number, as the class prior of their risk.
    false_action_rate : float, array-like of shape (n_signals,) or "estimate", default=None
        P(y_k=1 | r* is not what k shows): the share of not preferred responses that still draw a
        positive action, and of preferred ones that draw a negative action (misclicks). In [0, 1).
        A_k > e_k is imposed. None is 0, but "estimate" with `exposures` above 1 or several rows of
        one `response_id`: one action by mistake among many exposures would otherwise prove a
        preference. "estimate" learns the
        rates by EM on held-out rows, each fifth of the log held out once, and then fits with
        these; it needs three signals logged together, three exposures of the same response (two,
        if signals of both polarities were logged), or labels of responses with the other
        preference.
    label_mechanism : {"random", "acted"}, default="random"
        Which responses have a label in ``fit(labels=)``. "random": whether one is labelled
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
    side_columns_ : tuple of str
        Of text, the columns beside it that `reward_features` or `propensity_features` name. They
        stand behind the vector.
    reward_columns_, propensity_columns_ : ndarray of int
        Positions of the columns that each head reads.
    embedder_ : LLMEmbedder
        The embedder in use, if there is one.
    n_signals_ : int
        Number of signals K.
    signals_ : tuple of Signal
        What each column of y is.
    signal_names_in_ : ndarray of str of shape (`n_signals_`,)
        Names of the signals, if y was a DataFrame with string columns.
    identification_ : Identification
        What the settings of `fit` tell about the reward: `level`, `assumptions`, `reason`,
        `advice`. See `identification_report` for what the data say.
    objective_ : Objective
        The objective in use.
    false_action_rate_ : ndarray of shape (`n_signals_`,)
        The false-action rates in use, given or estimated.
    user_loading_ : ndarray of shape (`n_signals_`,)
        With `user_id`: by how much one standard deviation of a user's activity shifts the logit of
        each signal; 0 where users do not differ. With ``shared_examination=True`` one more, of
        looking.
    user_activity_ : UserActivity
        With `user_id`: `mean` and `sd` of the activity b_u of each known user, and `n_rows`.
    model_ : torch.nn.Module
        The trained heads.
    scaler_ : StandardScaler or None
        Mean and scale of the columns.
    history_ : list of dict
        Per epoch ``train_loss`` and, with early stopping, ``valid_loss``: lists with one value per
        member. ``train_loss`` is the training loss, ``valid_loss`` the held-out criterion. For
        "stratified" both are the negative log-likelihood of the actions and labels, in nats per
        row.
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
    signals_: tuple[Signal, ...]
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
        "labels": True,
        "propensity": True,
        "user_id": True,
        "age": True,
        "delay": True,
    }
    __metadata_request__partial_fit = {
        "sample_weight": True,
        "response_id": True,
        "exposures": True,
        "labels": True,
        "propensity": True,
    }
    __metadata_request__predict = {"return_std": True}
    __metadata_request__predict_proba = {
        "actions": True,
        "response_id": True,
        "exposures": True,
        "propensity": True,
        "user_id": True,
        "age": True,
    }
    __metadata_request__score = {
        "true_preference": True,
        "sample_weight": True,
        "response_id": True,
        "exposures": True,
        "propensity": True,
        "user_id": True,
        "age": True,
        "delay": True,
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
        "signals": [None, dict, list, tuple],
        "shared_examination": [None, "boolean"],
        "shared_propensity": ["boolean"],
        "preference_rate": [None, Interval(Real, 0, 1, closed="both"), "array-like"],
        "false_action_rate": [
            Interval(Real, 0, 1, closed="left"),
            "array-like",
            StrOptions({"estimate"}),
            None,
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
        signals: Mapping[str, Any] | Sequence[Any] | None = None,
        shared_examination: bool | None = None,
        shared_propensity: bool = False,
        preference_rate: float | Sequence[float] | None = None,
        false_action_rate: str | float | ArrayLike | None = None,
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
        self.signals = signals
        self.shared_examination = shared_examination
        self.shared_propensity = shared_propensity
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

    def __sklearn_clone__(self):
        copied = clone_parametrized(self)
        note_clone(copied, self)
        return copied

    @same(fit_context(prefer_skip_nested_validation=True))
    def fit(
        self,
        X: Rows,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        response_id: ArrayLike | None = None,
        exposures: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        propensity: ArrayLike | None = None,
        user_id: ArrayLike | None = None,
        age: ArrayLike | None = None,
        delay: ArrayLike | None = None,
    ) -> Self:
        """Learn reward and propensity from logged actions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), path, or text of n_samples rows
            One embedding per (prompt, response); with `embedder`, the text itself. A path, of a
            ``.npy``, ``.safetensors`` or ``.parquet`` file or of a folder of such files, stands
            for the rows in it, here and in all methods. Files of more than 1 GiB are not held in
            memory but read block by block, and shuffled within blocks. Of so large an
            ``np.memmap`` the path is expected.
        y : array-like of shape (n_samples,) or (n_samples, n_signals)
            Actions: 1 the user acted, 0 the user did not, NaN the signal was not logged; with
            `exposures` the number of actions. Rows with nothing logged and no label carry no
            information and are passed over. Rows are matched to X, and signals to those of later
            calls, by position; names of signals are kept and must then agree. A table may be one of
            pandas, polars or Arrow, as may all arguments.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, in training, validation and the column means.
        groups : array-like of shape (n_samples,), default=None
            Rows of one group (prompt, user) stay on one side of the validation split; a row without
            one (None, NaN) is a group of its own. None keeps identical rows, or the rows of one
            response, together. Pairwise objectives ("bpr" ...)
            compare responses of one group, and without groups any two.
        response_id : array-like of shape (n_samples,), default=None
            Rows of one id are the same response shown repeatedly and share one preference r*,
            while each row has its own propensity. Reward columns, weight, label and group must be
            the same in all rows of an id, and no split cuts one. None: every row is a response of
            its own.
        exposures : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
            How often each row was shown: y then counts actions, 0 to exposures, of one preference
            and one propensity. None is once. Columns with names follow those of y.
        labels : array-like of shape (n_samples,), default=None
            Labels to train on, where the preference is known: 1 preferred, 0 not, a number in
            between a graded label that stands for the posterior of r*; NaN unknown. Not to be
            confused with the `true_preference` of `score`, which is for evaluation.
        propensity : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
            P(y_k=1 | r*=1) in (0, 1] of rows for which it is known from a randomised experiment,
            NaN elsewhere. The propensity head learns from the other rows, and from these only if
            there are no others. Objectives that weigh by propensity ("ips" ...) estimate what is
            not known by a convention.
        user_id : array-like of shape (n_samples,), default=None
            Who acted on each row: any hashable ids, NaN or None where that is not known. Users then
            differ in activity: logit A_k(x, u) = a_k(x) + lambda_k b_u with b_u standard normal.
            The model without is fitted beside, and kept unless the other one is better on held-out
            rows by one standard error.
        age : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
            For signals that may come late, ``Action(delay="exponential")``: how long ago each row
            was shown when the log was written, in any unit, inf where that is long enough.
            Differences of times are read as days.
        delay : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
            How long after the row was shown a late action came, in the unit of `age`; NaN where
            there was none or the time is not known. Known times make the delay more certain. With
            several late signals one column for each signal of y.

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
        >>> est.fit(X, copied, labels=label).identification_.level
        'identified'
        """
        if parent_context(self) is not None and searches_by_own_score(
            "objective", without="true_preference"
        ):
            raise ValueError(OBJECTIVES_NOT_RANKED)
        return run_fit(
            self,
            X,
            y,
            sample_weight=sample_weight,
            groups=groups,
            response_id=response_id,
            exposures=exposures,
            labels=labels,
            propensity=propensity,
            user_id=user_id,
            age=age,
            delay=delay,
        )

    @_needs_incremental
    @same(all_or_nothing)
    @same(fit_context(prefer_skip_nested_validation=True))
    def partial_fit(
        self,
        X: Rows,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        response_id: ArrayLike | None = None,
        exposures: ArrayLike | None = None,
        labels: ArrayLike | None = None,
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
        exposures, labels, propensity : array-like, default=None
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
        first = not hasattr(self, "model_")
        signals = self.signals.values() if isinstance(self.signals, Mapping) else self.signals
        if any(getattr(signal, "delay", None) is not None for signal in signals or ()):
            raise ValueError(
                "partial_fit is not available for an Action with a delay: a batch that is seen "
                "once counts the actions of its youngest rows never. Use fit, or wait until the "
                "rows are old enough."
            )
        if not first and self.model_.log_loading is not None:
            raise ValueError(
                "partial_fit is not available after a fit with user_id: the weights of users need "
                "all of their rows. Fit anew, or fit without user_id."
            )
        if first:
            set_embedder(self)
        X = read_features(self, X, reset=first)
        side = {
            "sample_weight": sample_weight,
            "response_id": response_id,
            "exposures": exposures,
            "labels": labels,
            "propensity": propensity,
        }
        if first:
            log, assumptions = read_log(self, len(X), y, side, "batch")
            if assumptions.estimates_false_actions:
                raise ValueError(
                    "false_action_rate='estimate', and None with exposures above 1, compare rows "
                    "held out of training, of which partial_fit has none. Estimate it by fit on "
                    "part of the log, and pass the false_action_rate_ found there as "
                    "false_action_rate."
                )
        else:
            log = reread_log(self, len(X), y, side, purpose="batch")
            assumptions = Assumptions.of(self).with_rates(self.false_action_rate_)
        if not hasattr(self, "random_state_"):
            self.random_state_ = own_random_state(self.random_state)
        evidence = Evidence.of(log, self.false_action_rate_)
        take_evidence(self, evidence + (Evidence() if first else self.evidence_), assumptions)
        columns = HeadColumns.of(self)
        data = TrainingData(X, log, columns, self.objective_, response_id=response_id)
        if not len(data.usable):
            raise ValueError(
                "y logs nothing: all entries are NaN or have zero sample_weight. Leave such "
                "batches out."
            )
        update_scaler(self, data, reset=first)
        measurement = assumptions.measurement(data.log.signals)
        plan = FitPlan.of(self, columns, self.objective_, measurement, assumptions)
        if first:
            self.model_ = plan.initial_model(data, self.random_state_)
            self.history_ = []
            self.n_iter_ = 0
            warn_not_identified(self.identification_, self.objective_, token_of(self, None))
        else:
            self.model_ = plan.model_like(self.model_, data)
        self.optimizer_state_ = plan.step(
            data,
            self.model_,
            self.random_state_,
            optimizer_state=getattr(self, "optimizer_state_", None),
            epoch_end=partial(log_epoch, self),
        )
        self.n_iter_ += 1
        return self
