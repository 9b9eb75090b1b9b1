"""The scikit-learn face of the package: parameters, checks, shapes; no tensor arithmetic."""

import copy
import warnings
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, _fit_context
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from . import _mixture
from ._modules import RewardModel
from ._split import row_codes, validation_split
from ._stratification import GROUP_NAMES
from ._training import (
    INFERENCE_ROWS,
    ResidentRows,
    batched_logits,
    build_net,
    resolve_device,
    resolve_dtype,
)
from ._validation import (
    check_actions,
    check_both_classes,
    check_features,
    check_groups,
    check_sample_weight,
    to_numpy,
)
from .metrics import PREFERENCE_METRICS
from .objectives import OBJECTIVES, Objective, any_action

#: Epochs trained when there is too little data to hold some out.
FIXED_EPOCHS = 50
#: Acted and not acted rows that both sides of the validation split need.
MIN_ROWS_PER_CLASS = 5
#: Frames from `fit` to the user's code, past the two decorators: where warnings point to.
USER_FRAME = 4


class ImplicitRewardEstimator(CallbackSupportMixin, BaseEstimator):
    """Reward model learned from what users do with responses, not from labels.

    Users who do not act do not thereby dislike, and responses differ in how readily they draw
    actions. The model separates the two [1]_: with reward R(x) = P(r*=1 | x) and propensity
    A_k(x) = P(y_k=1 | r*=1, x) of the k-th action signal,

    ``P(y | x) = R(x) prod_k Bern(y_k; A_k(x)) + (1 - R(x)) prod_k Bern(y_k; e_k)``

    over the logged signals k, where e_k = P(y_k=1 | r*=0) is the false-action rate.

    With one signal only the product R * A is determined by any amount of data: the reward may be
    anything in [P(y=1 | x), 1], and (R, A) and (A, R) fit equally well. Both sides of this swap
    then carry equal weight in the fitted mixture. Several signals of the same user on the same
    response determine the reward if they fire independently given x and r*.

    Parameters
    ----------
    objective : {"stratified", "naive"} or Objective, default="stratified"
        How the heads are trained. "naive" takes no action for a dislike and is the baseline. With
        several signals a single-signal objective such as "naive" uses "any logged action".
    hidden_layer_sizes : int or tuple of int, default=(64,)
        Hidden units per layer of the reward head; ``()`` is a linear (logistic) reward.
    propensity_hidden_layer_sizes : int or tuple of int, default=None
        The same for the propensity head. None means `hidden_layer_sizes`.
    false_action_rate : float or array-like of shape (n_signals,), default=0.0
        P(y_k=1 | r*=0): the share of not preferred responses that still draw action k (misclicks).
        In [0, 1). A_k > e_k is imposed.
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

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        The values of an action, [0, 1].
    group_names_ : tuple of str
        The columns of `predict_proba`: PA positive-active (r*=1, a=1), NA negative-active (0, 1),
        PP positive-passive (1, 0), NP negative-passive (0, 0).
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of str of shape (n_features_in_,)
        Column names, if X had any.
    n_signals_ : int
        Number of action signals K.
    objective_ : Objective
        The objective in use.
    false_action_rate_ : ndarray of shape (n_signals_,)
        The false-action rates in use.
    model_ : torch.nn.Module
        The trained heads.
    scaler_ : StandardScaler or None
        Mean and scale of the columns.
    history_ : list of dict
        Per epoch ``train_loss`` and, with early stopping, ``valid_loss``: lists with one value per
        member, in nats per row. ``train_loss`` is the training loss (for "stratified", E_pref +
        E_prop), ``valid_loss`` the held-out criterion (the negative log-likelihood of the actions).
    n_iter_ : int
        Number of epochs trained.

    See Also
    --------
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
    >>> est = ImplicitRewardEstimator(random_state=0).fit(X, np.column_stack([copied, shared]))
    >>> est.predict([[2.0, 0, 0, 0, 0], [-2.0, 0, 0, 0, 0]]).round(1)
    array([1., 0.], dtype=float32)
    """

    __metadata_request__fit = {"sample_weight": True, "groups": True}
    __metadata_request__partial_fit = {"sample_weight": True}
    __metadata_request__predict = {"return_std": True}
    __metadata_request__predict_proba = {"actions": True}
    __metadata_request__score = {"true_preference": True, "sample_weight": True}

    _parameter_constraints = {
        "objective": [StrOptions(set(OBJECTIVES)), Objective],
        "hidden_layer_sizes": [Interval(Integral, 1, None, closed="left"), tuple, list],
        "propensity_hidden_layer_sizes": [
            Interval(Integral, 1, None, closed="left"),
            tuple,
            list,
            None,
        ],
        "false_action_rate": [Interval(Real, 0, 1, closed="left"), "array-like"],
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
    }

    def __init__(
        self,
        objective="stratified",
        *,
        hidden_layer_sizes=(64,),
        propensity_hidden_layer_sizes=None,
        false_action_rate=0.0,
        n_estimators=4,
        learning_rate_init=0.0003,
        weight_decay=0.01,
        dropout=0.2,
        batch_size=256,
        max_epochs=500,
        early_stopping=True,
        validation_fraction=0.2,
        n_iter_no_change=10,
        tol=1e-4,
        standardize=True,
        warm_start=False,
        device="auto",
        dtype="auto",
        random_state=None,
        verbose=False,
    ):
        self.objective = objective
        self.hidden_layer_sizes = hidden_layer_sizes
        self.propensity_hidden_layer_sizes = propensity_hidden_layer_sizes
        self.false_action_rate = false_action_rate
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

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags

    # ------------------------------------------------------------------ training

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, groups=None):
        """Learn reward and propensity from logged actions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            One embedding per (prompt, response).
        y : array-like of shape (n_samples,) or (n_samples, n_signals)
            Actions: 1 the user acted, 0 the user did not, NaN the signal was not logged. Rows with
            nothing logged carry no information and are passed over. Rows are matched to X, and
            signals to those of later calls, by position, not by pandas labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, in training, validation and the column means.
        groups : array-like of shape (n_samples,), default=None
            Rows of one group (prompt, user) stay on one side of the validation split. None keeps
            identical rows together.

        Returns
        -------
        self : ImplicitRewardEstimator

        Raises
        ------
        ValueError
            If an argument has the wrong shape or values, or the logged actions are all equal.
        """
        X = check_features(self, X, reset=True)
        actions, weight = self._check_log(X, y, sample_weight)
        check_both_classes(actions, weight)
        self._warn_about_signals(actions, weight, y)
        groups = None if groups is None else check_groups(groups, len(X))
        random_state = self._own_random_state()

        model_actions, usable = self._model_actions(actions, weight)
        acted = any_action(actions[usable])[:, 0] == 1
        in_validation = self._split(X, acted, usable, groups, random_state)
        train_rows, valid_rows = usable[~in_validation], usable[in_validation]
        epochs = self.max_epochs
        if self.early_stopping and not len(valid_rows):
            epochs = min(epochs, FIXED_EPOCHS)

        keep_weights = self.warm_start and hasattr(self, "model_")
        if keep_weights:
            self._check_config("n_in", self.n_features_in_)
        self._update_scaler(X, train_rows, weight, reset=not keep_weights)
        self._prepare_model(
            model_actions[train_rows], weight[train_rows], random_state, keep_weights
        )

        self.history_ = []
        context = self._init_callback_context(max_subtasks=epochs)
        details = {
            "X": X,
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

        net = self._net(
            patience=self.n_iter_no_change,
            tol=self.tol,
            epoch_begin=epoch_begin,
            epoch_end=epoch_end,
        )
        for rows in (train_rows, valid_rows):
            # Losses stay in nats per row, and a batch mean an unbiased estimate of their mean.
            weight[rows] /= weight[rows].mean() if len(rows) else 1
        parts = self._resident_parts(
            X, model_actions, weight, (train_rows, valid_rows), random_state
        )
        net.fit_loop(parts, epochs=epochs)
        self.n_iter_ = len(self.history_)
        for leftover in ("optimizer_state_", "random_state_"):  # of an earlier partial_fit
            self.__dict__.pop(leftover, None)
        context.call_on_fit_task_end(estimator=self, **details)
        if net.n_running_ and self.n_iter_ == self.max_epochs:
            warnings.warn(
                f"{net.n_running_} of {self.n_estimators} members were still improving after "
                f"max_epochs={self.max_epochs} epochs. Increase max_epochs or learning_rate_init.",
                ConvergenceWarning,
                stacklevel=USER_FRAME,
            )
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None):
        """Train one pass over some more rows: no split, no early stopping.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_signals)
            Actions as in `fit`; a batch without any action is legal. The first call fixes the
            number of columns and signals.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights; the loss of the batch is multiplied by them, so that they also
            weigh one batch against another.

        Returns
        -------
        self : ImplicitRewardEstimator
        """
        first = not hasattr(self, "model_")
        X = check_features(self, X, reset=first)
        n_signals = None if first else self.n_signals_
        actions, weight = self._check_log(X, y, sample_weight, n_signals)
        if not hasattr(self, "random_state_"):
            self.random_state_ = self._own_random_state()
        model_actions, rows = self._model_actions(actions, weight)
        if not len(rows):
            raise ValueError(
                "y logs nothing: all entries are NaN or have zero sample_weight. Leave such "
                "batches out."
            )
        self._update_scaler(X, rows, weight, reset=first)
        self._prepare_model(model_actions[rows], weight[rows], self.random_state_, not first)
        if first:
            self.history_ = []
            self.n_iter_ = 0
        net = self._net(epoch_end=self._log_epoch)
        if hasattr(self, "optimizer_state_"):
            net.optimizer_.load_state_dict(self.optimizer_state_)
        parts = self._resident_parts(X, model_actions, weight, (rows, rows[:0]), self.random_state_)
        net.fit_loop(parts, epochs=1)
        self.optimizer_state_ = net.optimizer_.state_dict()
        self.n_iter_ += 1
        return self

    def _check_log(self, X, y, sample_weight, n_signals=None):
        actions, one_dimensional = check_actions(y, len(X), n_signals=n_signals)
        weight = check_sample_weight(sample_weight, len(X))
        if n_signals is None:
            self.n_signals_ = actions.shape[1]
            self.one_dimensional_ = one_dimensional
            self.classes_ = np.array([0, 1])
            self.group_names_ = GROUP_NAMES
            self.objective_ = (
                copy.deepcopy(self.objective)
                if isinstance(self.objective, Objective)
                else OBJECTIVES[self.objective]()
            )
            self.false_action_rate_ = self._check_false_action_rate()
            if self.objective_.single_signal and self.n_signals_ > 1:
                warnings.warn(
                    f"{type(self.objective_).__name__} works on one signal: the {self.n_signals_} "
                    'signals of y are reduced to "any logged action". Pass one signal to silence '
                    "this.",
                    UserWarning,
                    stacklevel=USER_FRAME + 1,
                )
        return actions, weight

    def _warn_about_signals(self, actions, weight, y):
        """Name each signal that tells nothing or contradicts its false-action rate."""
        names = getattr(y, "columns", range(self.n_signals_))  # 1-D y has no columns
        for column, name, e in zip(actions.T, names, self.false_action_rate_, strict=True):
            is_logged = ~np.isnan(column) & (weight > 0)
            logged = column[is_logged]
            rate = np.average(logged, weights=weight[is_logged]) if logged.size else 1.0
            if rate < e:
                warnings.warn(
                    f"false_action_rate of signal {name!r} is {e:g}, but only {rate:.3g} of all "
                    "rows draw that action, preferred or not: the two contradict each other, and "
                    "the reward will come out near 0. Lower false_action_rate.",
                    UserWarning,
                    stacklevel=USER_FRAME + 1,
                )
            if self.n_signals_ == 1:
                continue  # that a single signal is constant is an error
            if logged.size == 0:
                problem = "is never logged"
            elif logged.min() == logged.max():
                problem = f"is {logged[0]:g} in every row where it is logged"
            else:
                continue
            warnings.warn(
                f"signal {name!r} of y {problem}: it tells nothing about the reward. Leave it out, "
                "or check how the log was joined.",
                UserWarning,
                stacklevel=USER_FRAME + 1,
            )

    def _check_false_action_rate(self):
        try:
            rate = np.asarray(self.false_action_rate, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"false_action_rate must be a number or one per signal, got "
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

    def _own_random_state(self):
        if self.random_state is None:
            # scikit-learn's None means numpy's global generator, which is not ours to advance.
            return np.random.RandomState()
        return check_random_state(self.random_state)

    def _model_actions(self, actions, weight):
        """Return the actions that the objective sees, and the rows that tell it something."""
        if self.objective_.single_signal:
            actions = any_action(actions)
        return actions, np.flatnonzero((weight > 0) & ~np.isnan(actions).all(axis=1))

    def _split(self, X, acted, usable, groups, random_state):
        nothing = np.zeros(len(usable), dtype=bool)
        if not self.early_stopping:
            return nothing
        codes = row_codes(X)[usable] if groups is None else groups[usable]
        chosen = validation_split(acted, codes, self.validation_fraction, random_state)
        rows = np.bincount(2 * chosen + acted, minlength=4)
        if rows.min() >= MIN_ROWS_PER_CLASS:
            return chosen
        warnings.warn(
            f"early_stopping needs at least {MIN_ROWS_PER_CLASS} acted and {MIN_ROWS_PER_CLASS} "
            f"not acted rows on both sides of the validation split, but training would get "
            f"{rows[1]} and {rows[0]}, validation {rows[3]} and {rows[2]}. Training "
            f"{min(self.max_epochs, FIXED_EPOCHS)} epochs on all rows instead. Collect more rows, "
            "change validation_fraction, or set early_stopping=False and max_epochs.",
            UserWarning,
            stacklevel=USER_FRAME + 1,
        )
        return nothing

    def _update_scaler(self, X, rows, weight, *, reset):
        if not self.standardize:
            self.scaler_ = None
            return
        if reset or getattr(self, "scaler_", None) is None:
            self.scaler_ = StandardScaler()
        uniform = (weight[rows] == weight[rows[0]]).all()
        for chunk in np.array_split(rows, -(-len(rows) // INFERENCE_ROWS)):
            # A float16 sum of squares overflows at 65504.
            block = X[chunk].astype(np.float32) if X.dtype == np.float16 else X[chunk]
            # Several times faster without weights.
            self.scaler_.partial_fit(block, sample_weight=None if uniform else weight[chunk])

    def _layer_sizes(self, name):
        sizes = getattr(self, name)
        sizes = (sizes,) if isinstance(sizes, Integral) else tuple(sizes)
        if any(not isinstance(size, Integral) or size < 1 for size in sizes):
            raise ValueError(
                f"{name} must be a positive integer or a tuple of positive integers, got "
                f"{getattr(self, name)!r}."
            )
        return tuple(map(int, sizes))

    def _prepare_model(self, actions, weight, random_state, keep_weights):
        device = resolve_device(self.device)
        dtype, _ = resolve_dtype(self.dtype, device)
        sizes = self._layer_sizes("hidden_layer_sizes")
        model = RewardModel(
            n_members=self.n_estimators,
            n_in=self.n_features_in_,
            n_signals=actions.shape[1],
            hidden_layer_sizes=sizes,
            propensity_hidden_layer_sizes=(
                sizes
                if self.propensity_hidden_layer_sizes is None
                else self._layer_sizes("propensity_hidden_layer_sizes")
            ),
            dropout=self.dropout,
            with_propensity=self.objective_.models_propensity,
        )
        if keep_weights:
            self._check_same_model(model)
            model.load_state_dict(self.model_.state_dict())
        else:
            generator = torch.Generator().manual_seed(random_state.randint(2**31))
            model.initialize(generator, *self._initial_logits(actions, weight))
        self.model_ = model.to(device, dtype)

    def _check_same_model(self, model):
        for name, new in model.config.items():
            if name != "dropout":
                self._check_config(name, new)

    def _check_config(self, name, new):
        old = self.model_.config[name]
        if old != new:
            shown = {"n_members": "n_estimators", "n_in": "the number of columns of X"}
            raise ValueError(
                f"training cannot go on from the fitted weights: {shown.get(name, name)} was {old} "
                f"and is now {new}. Use the same data layout and architecture, or fit a clone."
            )

    def _initial_logits(self, actions, weight):
        e = self.false_action_rate_ if not self.objective_.single_signal else np.zeros(1)
        logged = ~np.isnan(actions)
        # One row of each kind added, so that a signal without (or with only) actions is finite.
        rate = (weight @ np.where(logged, actions, 0) + 1) / (weight @ logged + 2)
        any_rate = (weight @ any_action(actions)[:, 0] + 1) / (weight.sum() + 2)
        any_e = 1 - np.prod(1 - e)
        rates = self.objective_.initial_rates(
            np.maximum((rate - e) / (1 - e), 1e-3), max((any_rate - any_e) / (1 - any_e), 1e-3)
        )
        return [
            torch.as_tensor(np.log(p / (1 - p)))
            for p in (np.clip(rate, 0.01, 0.99) for rate in rates)
        ]

    def _net(self, **kwargs):
        device = next(self.model_.parameters()).device
        return build_net(
            self.model_,
            self.objective_,
            false_action_rate=self._model_false_action_rate(),
            learning_rate_init=self.learning_rate_init,
            weight_decay=self.weight_decay,
            device=device,
            autocast_dtype=resolve_dtype(self.dtype, device)[1],
            **kwargs,
        )

    def _model_false_action_rate(self):
        if self.objective_.single_signal or not self.false_action_rate_.any():
            return None
        return torch.as_tensor(self.false_action_rate_)

    def _resident_parts(self, X, actions, weight, parts, random_state):
        parameter = next(self.model_.parameters())
        device, dtype = parameter.device, parameter.dtype
        generator = torch.Generator(device).manual_seed(random_state.randint(2**31))
        self.model_.set_generator(generator)
        resident = torch.empty(X.shape, dtype=dtype, device=device)
        for start, chunk in self._standardized(X):
            resident[start : start + len(chunk)] = chunk
        actions = torch.as_tensor(actions, dtype=dtype, device=device)
        weight = torch.as_tensor(weight, dtype=dtype, device=device)
        return [
            ResidentRows(
                resident, actions, weight, torch.as_tensor(rows, device=device), batch_size, shuffle
            )
            if len(rows)
            else None
            for rows, batch_size, shuffle in zip(
                parts, (self.batch_size, INFERENCE_ROWS), (generator, None), strict=True
            )
        ]

    def _standardized(self, X):
        """Yield (start, chunk): standardised rows of X as tensors on the CPU."""
        dtype = next(self.model_.parameters()).dtype
        compute = np.dtype(np.float32) if X.dtype == np.float16 else X.dtype
        if self.scaler_ is not None:
            mean, scale = (
                torch.from_numpy(part.astype(compute))
                for part in (self.scaler_.mean_, self.scaler_.scale_)
            )
        for start in range(0, len(X), INFERENCE_ROWS):
            chunk = np.asarray(X[start : start + INFERENCE_ROWS], dtype=compute)
            # torch shares memory and objects to read-only arrays.
            tensor = torch.from_numpy(chunk if chunk.flags.writeable else chunk.copy())
            if self.scaler_ is not None:
                tensor = (tensor - mean).div_(scale)
            tensor = tensor.to(dtype)
            if compute != np.float32 and not torch.isfinite(tensor).all():
                raise ValueError(
                    f"X holds values beyond the range of {dtype}. Use dtype='float64' or scale "
                    "the columns."
                )
            yield start, tensor

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
        check_is_fitted(self, "model_")
        X = check_features(self, X, reset=False)
        return self._components(X, *heads)

    def _components(self, X, *heads):
        mirrored = self.objective_.swap_symmetric(self.model_.config["n_signals"])
        needed = ("reward_logit", "propensity_logit") if mirrored else heads
        device = next(self.model_.parameters()).device
        logits = batched_logits(
            self.model_,
            (chunk for _, chunk in self._standardized(X)),
            needed,
            device=device,
            autocast_dtype=resolve_dtype(self.dtype, device)[1],
        )
        if any(torch.isnan(part).any() for part in logits):
            raise ValueError(
                "the reward of some rows is not a number: X lies far outside the range seen in "
                f"fit (largest |X| given: {np.abs(X).max():.3g})."
            )
        if mirrored:
            logits = _mixture.with_mirror_images(*logits)
        return logits if len(heads) == len(logits) else logits[:1]

    def _output(self, values):
        """Cast to the format that was computed in."""
        dtype = next(self.model_.parameters()).dtype
        return values.to(dtype).numpy()

    def _per_signal(self, values):
        values = self._output(values)
        return values[:, 0] if self.one_dimensional_ else values

    def predict(self, X, return_std=False):
        """Predict the reward.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        return_std : bool, default=False
            Also return the standard deviation over the components of the mixture: the members
            and, with one signal, the two sides of the swap. It is no confidence interval, and a
            lower bound of what one signal leaves open: members that start from the same split of
            the action probability tend to agree on it.

        Returns
        -------
        reward : ndarray of shape (n_samples,)
            P(r*=1 | x), in [0, 1].
        std : ndarray of shape (n_samples,)
            Only if `return_std`.
        """
        (reward_logit,) = self._mixture(X, "reward_logit")
        mean, std = _mixture.reward(reward_logit)
        return (self._output(mean), self._output(std)) if return_std else self._output(mean)

    def decision_function(self, X):
        """Return the logit of the reward.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        logit : ndarray of shape (n_samples,)
            log R / (1 - R) of the mixture; finite also where `predict` rounds to 0 or 1.
        """
        (reward_logit,) = self._mixture(X, "reward_logit")
        return self._output(_mixture.mean_logit(reward_logit))

    def predict_proba(self, X, actions=None):
        """Return the probabilities of the four latent groups: the stratification posterior.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        actions : array-like of shape (n_samples,) or (n_samples, n_signals), default=None
            What the user did, as in `fit`. None is before the action is seen, as is all NaN.

        Returns
        -------
        proba : ndarray of shape (n_samples, 4)
            Columns PA, NA, PP, NP (`group_names_`), rows summing to 1. Active means that at least
            one of the signals would fire.
        """
        reward_logit, propensity_logit = self._mixture(X, "reward_logit", "propensity_logit")
        n_samples = reward_logit.shape[1]
        if actions is None:
            actions = np.full((n_samples, self.model_.config["n_signals"]), np.nan)
        else:
            actions = self._check_actions(actions, n_samples, name="actions")
        return self._output(
            _mixture.group_posterior(
                reward_logit, propensity_logit, actions, self._model_false_action_rate()
            )
        )

    def predict_action(self, X):
        """Predict how likely each action is.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        action : ndarray of shape (n_samples,) or (n_samples, n_signals)
            P(y_k=1 | x); 1-D if `fit` got 1-D actions.
        """
        self._check_signals_modelled("predict_action")
        logits = self._mixture(X, "reward_logit", "propensity_logit")
        return self._per_signal(_mixture.action(*logits, self._model_false_action_rate()))

    def propensity(self, X):
        """Predict how readily each response draws each action.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        propensity : ndarray of shape (n_samples,) or (n_samples, n_signals)
            P(y_k=1 | r*=1, x); 1-D if `fit` got 1-D actions.
        """
        self._check_signals_modelled("propensity")
        logits = self._mixture(X, "reward_logit", "propensity_logit")
        return self._per_signal(_mixture.propensity(*logits, self._model_false_action_rate()))

    def _check_signals_modelled(self, method):
        check_is_fitted(self, "model_")
        if self.objective_.single_signal and self.n_signals_ > 1:
            raise ValueError(
                f"{method} is not available: {type(self.objective_).__name__} was fitted on "
                f'"any logged action" and does not model the {self.n_signals_} signals one by one. '
                "Fit it on one signal, or use objective='stratified'."
            )

    def _check_actions(self, y, n_samples, name="y"):
        actions, _ = check_actions(y, n_samples, name=name, n_signals=self.n_signals_)
        return any_action(actions) if self.objective_.single_signal else actions

    # ------------------------------------------------------------------ evaluation

    def score(self, X, y, true_preference=None, sample_weight=None):
        """Return the mean log-likelihood of held-out actions, or R2 against true preferences.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_signals)
            Actions as in `fit`. Not used with `true_preference`.
        true_preference : array-like of shape (n_samples,), default=None
            True preferences in [0, 1] to evaluate with, NaN where unknown: such rows are left out.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights.

        Returns
        -------
        score : float
            Without `true_preference`: weighted mean of log P(y | x) in nats over the rows with at
            least one logged signal, summed over the signals of a row ("any logged action" for
            single-signal objectives). With it: R2 of the reward.
        """
        check_is_fitted(self, "model_")
        X = check_features(self, X, reset=False)
        weight = check_sample_weight(sample_weight, len(X))
        if true_preference is not None:
            reward, _ = _mixture.reward(*self._components(X, "reward_logit"))
            return PREFERENCE_METRICS["r2"](
                to_numpy(true_preference), self._output(reward), sample_weight=weight
            )
        if not self.objective_.models_actions:
            raise ValueError(
                f"{type(self.objective_).__name__} does not model P(y | x), so that actions have "
                "no likelihood to score with. Pass true_preference, or use "
                "scoring=make_preference_scorer(...) of implicitrm_sk.metrics in a search."
            )
        actions = self._check_actions(y, len(X))
        usable = (weight > 0) & ~np.isnan(actions).all(axis=1)
        if not usable.any():
            raise ValueError(
                "y logs nothing in rows of positive weight; the likelihood of no action is not "
                "defined."
            )
        log_likelihood = _mixture.log_likelihood(
            *self._components(X, "reward_logit", "propensity_logit"),
            actions,
            self._model_false_action_rate(),
        ).numpy()
        return float(np.average(log_likelihood[usable], weights=weight[usable]))

    # ------------------------------------------------------------------ persistence

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
                warnings.warn(
                    f"device={state['device']!r} is not available here: the estimator was loaded "
                    "on the CPU. Set device before fitting again.",
                    UserWarning,
                    stacklevel=2,
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
