"""The reward model as a scikit-learn estimator: parameters, fit and partial_fit."""

import functools
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
    add_evidence,
    log_epoch,
    own_random_state,
    read_log,
    reread_log,
    run_fit,
    update_scaler,
)
from ._identification import Identification
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
from ._validation import check_same_rows
from ._warnings import note_clone
from .embedding import LLMEmbedder
from .exceptions import ImplicitRMError
from .measurement._signal import Signal
from .objectives import OBJECTIVES, Objective
from .persistence._mixin import PersistenceMixin
from .training._data import TrainingData
from .training._plan import FitPlan

OBJECTIVES_NOT_RANKED = (
    "the likelihood of actions cannot rank objectives. With one signal, naive and stratified "
    "models fit P(y | x) equally well, and the other objectives do not model it. Tune each "
    "objective separately. Compare objectives by true preferences: pass "
    "scoring=make_preference_scorer(...) of implicitrm_sk.metrics, or "
    "fit(true_preference=...) of a search with metadata routing."
)


def _without_truth(fit):
    """Let `fit` refuse the truth with a message; as an argument it would ask searches for it."""

    @functools.wraps(fit)
    def method(self, *args, **kwargs):
        if "true_preference" in kwargs:
            raise TypeError(
                f"{fit.__name__} got true_preference, which is for evaluation. Pass it to score, "
                "or pass what may be learned from as labels=."
            )
        return fit(self, *args, **kwargs)

    return method


_needs_incremental = available_if_objective(
    "incremental", "learns from the whole log before training. Use fit."
)


class ImplicitRewardEstimator(
    PredictionMixin, PersistenceMixin, ResumableMixin, CallbackSupportMixin, BaseEstimator
):
    """Reward model learned from what users do with responses, not from labels.

    A missing action does not mean dislike, and some responses attract actions more than others.
    The model separates preference from this tendency [1]_. Let r* be 1 if the user prefers the
    response, and 0 if not. R(x) = P(r*=1 | x) is the reward of features x. y_k is the k-th action
    signal, and A_k(x) = P(y_k=1 | r*=1, x) is its propensity. The model is

    ``P(y | x) = R(x) prod_k Bern(y_k; A_k(x)) + (1 - R(x)) prod_k Bern(y_k; e_k)``

    over the logged signals k, where e_k = P(y_k=1 | r*=0) is the false-action rate. This is for
    positive actions. A negative one shows that r* = 0, and has A_k and e_k exchanged.

    A single signal identifies only the product R * A, however much data there is. The reward may
    be anything in [P(y=1 | x), 1], and swapping R and A fits equally well. Both sides of this swap
    then have equal weight in the fitted mixture, and `fit` gives an `IdentificationWarning`.
    Several signals of the same user on the same response identify the reward, if they fire
    independently given x and r*. So do labels of some responses, and known propensities. A
    propensity that depends on columns of its own identifies the reward up to a factor.

    Parameters
    ----------
    objective : str or Objective, default="stratified"
        The training objective: a name of `implicitrm_sk.objectives.OBJECTIVES`, or an `Objective`.
        "naive" treats a missing action as dislike and serves as the baseline. The others come from
        the literature. All objectives except "stratified" use one signal; they reduce several
        signals to "any logged action".
    hidden_layer_sizes : int or tuple of int, default=(64,)
        Hidden units per layer of the reward head; ``()`` gives a linear (logistic) reward.
    propensity_hidden_layer_sizes : int or tuple of int, default=None
        The same for the propensity head. None means the value of `hidden_layer_sizes`.
    reward_features, propensity_features : column selection, default=None
        The columns of X that each head reads: names, positions, a slice, a boolean mask, or a
        callable. A callable gets X and returns one of the others, as in ``ColumnTransformer``. None
        selects all columns. If only one of the two is given, the other head reads the remaining
        columns. To let both heads read a column, give both. Columns in neither selection are not
        used. Columns that only the propensity reads (user, position, scenario) may be missing or
        NaN in `predict` and `decision_function`. With an `embedder`, names refer to the table that
        holds the text. A column of text then selects the whole vector, and a column of numbers
        selects itself.
    signals : dict or list, default=None
        The kind of each column of y. It is "positive" if users act because they like the response.
        It is "negative" if they act because they do not (regenerate, thumbs down, report). Other
        kinds are a `Signal` of `implicitrm_sk.signals`. Pass a dict with the names of all columns
        of y, or a list in their order. None means that all are positive.
    shared_examination : bool, default=None
        Whether some rows were never looked at, so that all their signals are silent together
        (examination in click models). False: you state that every row was looked at. None: not
        known; the verdict is then what holds in either case. True: a network on the propensity
        columns models the probability of looking. This needs two signals of each polarity. With
        fewer, attention and dislike cannot be distinguished, and the reward gets worse.
    shared_propensity : bool, default=False
        Whether all signals share one propensity function, each with a factor of its own. With
        signals of both polarities, this identifies the order of the rewards.
    preference_rate : float or (float, float), default=None
        The mean reward over the population, if it is known: a number, or an interval that contains
        it. The population is the responses of `fit`, weighted by `sample_weight`. Every member
        meets this rate, up to rounding, over the responses that are logged or labelled. The
        objectives "upu" and "nnpu" need a number, which is the class prior of their risk.
    false_action_rate : float, array-like of shape (n_signals,) or "estimate", default=None
        The rate e_k of false actions (misclicks), in [0, 1): P(y_k=1 | r* is not what k shows). It
        is the share of not preferred responses with a positive action, or of preferred responses
        with a negative one. The model requires A_k > e_k. None means 0. With `exposures` above 1,
        or several rows of one `response_id`, None means "estimate", because one stray action among
        many exposures would prove a preference. With "estimate", the rates are learned by EM on
        held-out rows, and the fit then uses them. Each fifth of the log is held out once. This
        needs three signals logged together, or labels of responses with the other preference.
        Three exposures of the same response are also enough, or two if signals of both polarities
        were logged.
    label_mechanism : {"random", "asked", "acted"}, default="random"
        Which responses have a label in ``fit(labels=)``. With "random", whether a response is
        labelled does not depend on its preference, given features and actions. `fit` doubts this
        if it depends much on the actions, as with thumbs that users give by their own choice. With
        "asked", you chose by X and y which responses to ask about, as `label_queue` does, and the
        labels are not doubted for that. With "acted", only responses with an action could be
        labelled. This is informative only with a given `false_action_rate` above 0, since without
        false actions all of them are preferred.
    n_estimators : int, default=4
        Number of members of the equal-weight mixture, trained side by side from different starts.
    learning_rate_init : float, default=0.0003
        Step size of AdamW.
    weight_decay : float, default=0.01
        Decoupled weight decay of AdamW.
    dropout : float, default=0.2
        Share of hidden units that are dropped in training, in [0, 1).
    batch_size : int, default=256
        Rows per training step.
    max_epochs : int, default=500
        Maximum number of passes over the training rows.
    early_stopping : bool, default=True
        Hold out `validation_fraction` of the rows, stop each member when the held-out criterion of
        the objective no longer improves, and keep its best weights. Each side of the split needs 5
        rows with and 5 without an action. Otherwise `fit` warns and trains on all rows for
        min(max_epochs, 50) epochs.
    validation_fraction : float, default=0.2
        Share of the groups (see `fit`) that is held out, in (0, 1).
    n_iter_no_change : int, default=10
        Epochs without an improvement of at least `tol` after which a member stops.
    tol : float, default=1e-4
        Smallest improvement that counts, in units of the held-out criterion (nats per row).
    standardize : bool, default=True
        Subtract the mean and divide by the standard deviation of the training rows, per column.
        With `partial_fit`, and with `fit` under `warm_start`, these cover all rows seen so far.
    warm_start : bool, default=False
        Start `fit` from the weights of the previous one.
    device : str, default="auto"
        Torch device; "auto" uses cuda if available, else mps, else cpu.
    dtype : {"auto", "float32", "float64", "bfloat16"}, default="auto"
        Number format of data and weights in training and prediction, whatever the dtype of X. With
        "auto", it is bfloat16 on CUDA devices that support it and float32 elsewhere. Here bfloat16
        means mixed precision: weights, losses and likelihoods stay in float32.
    random_state : int, RandomState instance or None, default=None
        Seed of initial weights, validation split, batch order and dropout. Global generators are
        neither read nor changed.
    verbose : bool, default=False
        Print the losses of each epoch. For progress bars see `set_callbacks`.
    embedder : str, path-like or LLMEmbedder, default=None
        Language model that turns text into vectors. All methods then accept X as text, in every
        form that `LLMEmbedder` reads. A name or path means ``LLMEmbedder(embedder)``. Vectors from
        the same embedder may be passed too.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        The values of an action, [0, 1].
    group_names_ : tuple of str
        The columns of `predict_proba`, where a=1 means that the user is active: PA positive-active
        (r*=1, a=1), NA negative-active (0, 1), PP positive-passive (1, 0), NP negative-passive
        (0, 0).
    n_features_in_ : int
        Number of columns of X, or of its vectors if X is text.
    feature_names_in_ : ndarray of str of shape (`n_features_in_`,)
        Column names, if X had any.
    side_columns_ : tuple of str
        For text, the columns beside it that `reward_features` or `propensity_features` name. They
        follow the columns of the vector.
    reward_columns_, propensity_columns_ : ndarray of int
        Positions of the columns that each head reads.
    embedder_ : LLMEmbedder
        The embedder in use, if there is one.
    n_signals_ : int
        Number of signals K.
    signals_ : tuple of Signal
        The kind of each column of y.
    signal_names_in_ : ndarray of str of shape (`n_signals_`,)
        Names of the signals, if y was a DataFrame with string columns.
    identification_ : Identification
        The verdict on the settings of `fit`: its `level`, `assumptions`, `reason` and
        `advice`. `identification_report` adds what the data show.
    objective_ : Objective
        The objective in use.
    false_action_rate_ : ndarray of shape (`n_signals_`,)
        The false-action rates in use, given or estimated.
    user_loading_ : ndarray of shape (`n_signals_`,)
        With `user_id`: how far one standard deviation of a user's activity shifts the logit of each
        signal; 0 if users do not differ. With ``shared_examination=True``, one more entry for
        looking.
    user_activity_ : UserActivity
        With `user_id`: the `mean` and `sd` of the activity b_u of each known user u, and `n_rows`.
    model_ : torch.nn.Module
        The trained heads.
    scaler_ : StandardScaler or None
        Mean and scale of the columns.
    history_ : list of dict
        Per epoch, ``train_loss`` and, with early stopping, ``valid_loss``: lists with one value per
        member. ``train_loss`` is the training loss, and ``valid_loss`` the held-out criterion. For
        "stratified" both are the negative log-likelihood of the actions and labels, in nats per
        row.
    n_iter_ : int
        Number of epochs trained.

    See Also
    --------
    implicitrm_sk.LLMEmbedder : Turns prompts and responses into vectors.
    implicitrm_sk.identification_report : Reports what the log identifies about the reward.
    implicitrm_sk.datasets.simulate_feedback : Simulates a feedback log with known truth.
    implicitrm_sk.metrics.make_preference_scorer : Scores against known preferences.

    Notes
    -----
    ``score`` is the mean held-out log-likelihood of the actions. It compares settings of one
    objective on the same signals. It cannot rank objectives, and it cannot distinguish the two
    sides of the swap.

    Several signals of one polarity, or labels, may show the mean reward. `fit` then moves it after
    training by one constant on all logits, so that it agrees with one-step estimates [2]_.

    References
    ----------
    .. [1] Wang et al., "ImplicitRM: Unbiased Reward Modeling from Implicit Preference Data for LLM
       Alignment", arXiv 2603.23184, 2026.
    .. [2] van der Laan & Rubin, "Targeted Maximum Likelihood Learning", The International Journal
       of Biostatistics 2 (1), 2006.

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
        "label_mechanism": [StrOptions({"random", "asked", "acted"})],
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

    @same(_without_truth)
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
        """Fit reward and propensity to logged actions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), path, or text of n_samples rows
            One embedding per (prompt, response), or the text itself with `embedder`. All methods
            also accept a path: a ``.npy``, ``.safetensors`` or ``.parquet`` file, or a folder of
            such files. A file of more than 1 GiB is not held in memory. It is read block by block,
            and its rows are shuffled within blocks. Instead of an ``np.memmap`` of this size, pass
            the path.
        y : array-like of shape (n_samples,) or (n_samples, n_signals)
            Actions: 1 if the user acted, 0 if not, NaN if the signal was not logged. With
            `exposures`, the number of actions. Rows without any logged signal or label are ignored.
            Rows of y correspond to rows of X by position. If y has column names, they are stored as
            `signal_names_in_` and must match in later calls. Tables may come from pandas, polars or
            Arrow, here and in all arguments.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, used in training, in validation and in the column means.
        groups : array-like of shape (n_samples,), default=None
            Rows of one group (a prompt, a user) stay on one side of the validation split. A row
            without a group (None, NaN) is a group of its own. None keeps identical rows, or the
            rows of one response, together. Pairwise objectives (such as "bpr") compare responses of
            one group, or any two responses if there are no groups.
        response_id : array-like of shape (n_samples,), default=None
            Rows with the same id are one response shown repeatedly. They share one preference r*,
            but each row has its own propensity. Reward columns, weight, label and group must be
            equal in all rows of an id, and no split separates them. None: every row is a response
            of its own.
        exposures : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
            How often each row was shown. y then counts actions, 0 to exposures, with one preference
            and one propensity per row. None means once. Named columns must have the names of y.
        labels : array-like of shape (n_samples,), default=None
            Known preferences to train on: 1 preferred, 0 not, NaN unknown. A number in between is a
            graded label and means P(r*=1). The `true_preference` of `score` is different: it is
            for evaluation only.
        propensity : array-like of the shape of y, default=None
            P(y_k=1 | r*=1), or P(y_k=1 | r*=0) of a negative action. It is in (0, 1] for rows where
            a randomised experiment gives it, NaN elsewhere. The propensity head is
            trained on the other rows, or on all rows if every propensity is known. Objectives that
            weight by propensity (such as "ips") estimate the unknown ones by a convention.
        user_id : array-like of shape (n_samples,), default=None
            The user who acted on each row: any hashable ids, NaN or None if not known. Users u then
            differ in activity b_u, which is standard normal: logit A_k(x, u) = a_k(x) + lambda_k
            b_u, where a_k(x) is the logit of an average user. `fit` also trains a model without
            activity. It keeps that one unless the other is better on held-out rows by one standard
            error. With `response_id`, several users may have seen one response: they share its
            preference r*, and each row has the activity of its own user.
        age : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
            For signals that may come late, ``Action(delay="exponential")``: the time from showing
            the row to writing the log. Any unit is possible; inf means long enough. Time
            differences are converted to days.
        delay : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
            The time from showing the row to a late action, in the unit of `age`. It is NaN if there
            was no action, or if the time is not known. Known times make the estimated delay more
            precise. With several late signals, pass one column for each signal of y.

        Returns
        -------
        self : ImplicitRewardEstimator
            The estimator, fitted.

        Raises
        ------
        ValueError
            If an argument has the wrong shape or values, if labels contradict actions, or if all
            logged actions are equal.

        Warns
        -----
        IdentificationWarning
            If the arguments do not identify the reward; given once per search.

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
            raise ImplicitRMError(OBJECTIVES_NOT_RANKED)
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
    @same(_without_truth)
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
        """Update the model with one pass over a new batch, without validation or early stopping.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or text of n_samples rows
            Responses, as in `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_signals)
            Actions as in `fit`. A batch without any action is allowed. The first call fixes the
            number of columns and signals.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, which multiply the loss of the batch. So they also weight one
            batch relative to another.
        response_id : array-like of shape (n_samples,), default=None
            As in `fit`. All rows of an id must be in one batch.
        exposures, labels, propensity : array-like, default=None
            As in `fit`.

        Returns
        -------
        self : ImplicitRewardEstimator
            The estimator, fitted.

        Raises
        ------
            If an argument has the wrong shape or values, or does not match what the first call
            fixed, or if nothing is logged. Also with `preference_rate` or
            ``false_action_rate="estimate"``, which need the whole log.

        Notes
        -----
        The verdict counts all batches, and falls if their signals depend on each other. Only `fit`
        tests it on held-out rows. A verdict that a `fit` has lowered stays until the next `fit`.

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
            raise ImplicitRMError(
                f"preference_rate={self.preference_rate!r} applies to the whole population, but "
                "partial_fit gets one batch of it. Use fit, or leave preference_rate out."
            )
        first = not hasattr(self, "model_")
        signals = self.signals.values() if isinstance(self.signals, Mapping) else self.signals
        if any(getattr(signal, "delay", None) is not None for signal in signals or ()):
            raise ImplicitRMError(
                "partial_fit is not available for an Action with a delay: it sees a batch once, "
                "so later actions of its youngest rows never count. Use fit, or wait until the "
                "rows are old enough."
            )
        if not first and self.model_.log_loading is not None:
            raise ImplicitRMError(
                "partial_fit is not available after a fit with user_id: the weights of users need "
                "all of their rows. Fit again, or fit without user_id."
            )
        if first:
            set_embedder(self)
        side = {
            "sample_weight": sample_weight,
            "response_id": response_id,
            "exposures": exposures,
            "labels": labels,
            "propensity": propensity,
        }
        check_same_rows(X, y=y, **side)
        X = read_features(self, X, reset=first)
        if first:
            log, assumptions = read_log(self, len(X), y, side, "batch")
            if assumptions.estimates_false_actions:
                raise ImplicitRMError(
                    "partial_fit cannot estimate false actions (false_action_rate='estimate', or "
                    "None with exposures above 1): this needs held-out rows. Use fit on a part of "
                    "the log, and pass the false_action_rate_ found there as false_action_rate."
                )
        else:
            log = reread_log(self, len(X), y, side, purpose="batch")
            assumptions = Assumptions.of(self).with_rates(self.false_action_rate_)
        if not hasattr(self, "random_state_"):
            self.random_state_ = own_random_state(self.random_state)
        add_evidence(self, log, assumptions, first=first)
        columns = HeadColumns.of(self)
        data = TrainingData(X, log, columns, self.objective_, response_id=response_id)
        if not len(data.usable):
            raise ImplicitRMError(
                "y logs nothing: all entries are NaN or have zero sample_weight; expected some "
                "actions 0 or 1. Leave such batches out."
            )
        update_scaler(self, data, reset=first)
        measurement = assumptions.measurement(data.log.signals)
        plan = FitPlan.of(self, columns, self.objective_, measurement, assumptions)
        if first:
            self.model_ = plan.initial_model(data, self.random_state_)
            self.history_, self.n_iter_ = [], 0
        else:
            self.model_ = plan.model_like(self.model_, data)
        before, end = getattr(self, "optimizer_state_", None), partial(log_epoch, self)
        self.optimizer_state_ = plan.step(
            data, self.model_, self.random_state_, optimizer_state=before, epoch_end=end
        )
        self.n_iter_ += 1
        return self
