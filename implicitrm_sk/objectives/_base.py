"""The base class of all training objectives."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from ..exceptions import ImplicitRMError
from ..measurement._model import Measurement
from ..measurement._signal import full_precision


@dataclass(frozen=True)
class Batch:
    """The part of a batch that an objective sees beside the logits: n rows of m responses.

    With `Objective.pairs`, the second half of the rows are the partners of the first half: row i is
    paired with row n / 2 + i.

    Attributes
    ----------
    sample_weight : Tensor of shape (m,) or (members, m), or None
        Weights with mean 1, for the mean over the batch (over m / 2 pairs). They are needed only
        for risks that are not a sum over rows; otherwise the loss is multiplied by them later. None
        means 1.
    actions : Tensor of shape (n, K)
        1 acted, 0 did not act, NaN not logged; with `exposures` the number of actions.
    false_action_rate : Tensor of shape (K,) or (members, 1, K), or None
        P(y_k=1 | r*=0) of signal k, where r* is 1 if the user prefers the response. None if all are
        0. While the rates are estimated, each member has its own.
    exposures : Tensor of shape (n, K) or None
        How often the response was shown; None means once.
    response : Tensor of int of shape (n,) or None
        The response of each row, 0 to m - 1; None if every row is a response (m = n).
    labels : Tensor of shape (m,) or None
        Labels in [0, 1], NaN where unknown.
    propensity : Tensor of shape (n, K) or None
        P(y_k=1 | r*=1) where it is known, NaN elsewhere.
    age, delay : Tensor of shape (n, K) or None
        For late actions: the time since the row was shown, and the time until the action, NaN if
        not known.
    propensity_target : Tensor of shape (n, K) or None
        The target of the propensity head where nothing else teaches it, NaN elsewhere.
    action_rate : Tensor of shape (members, n) or None
        P(y=1 | x) from a preceding fit, if `Objective.prepare` returned it.
    propensity_estimate : Tensor of shape (members, n) or None
        The propensity as `Objective.prepare` estimated it.
    target : Tensor of shape (members, n) or None
        P(r*=1 | x, y) as `Objective.prepare` estimated it.
    stratum : Tensor of shape (n,) or None
        The stratum that `Objective.prepare` put the row into.
    auxiliary_logit : Tensor of shape (members, n) or None
        Logit of the third head, with `Objective.auxiliary_head`.
    representation : Tensor of shape (members, n, hidden) or None
        Last hidden layer of the reward head, with `Objective.representation`.
    measurement : Measurement or None
        The model of each column of `actions`; None means that all are positive actions.

    Examples
    --------
    >>> import torch
    >>> from implicitrm_sk.objectives import Batch
    >>> Batch(actions=torch.tensor([[1.0], [0.0]])).acted
    tensor([1., 0.])
    """

    actions: torch.Tensor
    false_action_rate: torch.Tensor | None = None
    exposures: torch.Tensor | None = None
    response: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    propensity: torch.Tensor | None = None
    age: torch.Tensor | None = None
    delay: torch.Tensor | None = None
    propensity_target: torch.Tensor | None = None
    sample_weight: torch.Tensor | None = None
    action_rate: torch.Tensor | None = None
    propensity_estimate: torch.Tensor | None = None
    target: torch.Tensor | None = None
    stratum: torch.Tensor | None = None
    auxiliary_logit: torch.Tensor | None = None
    representation: torch.Tensor | None = None
    measurement: Measurement | None = None

    @property
    def signals(self) -> Measurement:
        """The measurement model, by default that of positive actions.

        Examples
        --------
        >>> import torch
        >>> from implicitrm_sk.objectives import Batch
        >>> Batch(actions=torch.tensor([[1.0, 0.0]])).signals.signals
        (Action(target=1, false_rate=None), Action(target=1, false_rate=None))
        """
        return self.measurement or Measurement.of_actions(self.actions.shape[1])

    @property
    def acted(self) -> torch.Tensor:
        """The actions of a single signal, shape (n,).

        Examples
        --------
        >>> import torch
        >>> from implicitrm_sk.objectives import Batch
        >>> Batch(actions=torch.tensor([[1.0], [0.0]])).acted
        tensor([1., 0.])
        """
        return self.actions[:, 0]


@dataclass(frozen=True)
class TrainingLog:
    """The part of a log that a single-signal objective sees before training, one row per response.

    Attributes
    ----------
    X : ndarray of shape (n, d)
        The columns of the reward head.
    actions : ndarray of shape (n,)
        NaN where nothing is logged.
    sample_weight : ndarray of shape (n,)
    is_training : ndarray of bool of shape (n,)
        False for rows that validate or carry no information.
    propensity : ndarray of shape (n,) or None
        P(y=1 | r*=1) where it is known, NaN elsewhere.
    preference_rate : float or None
    action_probability : callable() -> ndarray of shape (members, n)
        Fits P(y=1 | x), one model per member with the settings of the estimator, and returns it.
    random_state : numpy.random.RandomState

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk.objectives import TrainingLog
    >>> log = TrainingLog(
    ...     X=np.zeros((4, 1)),
    ...     actions=np.array([1.0, 0.0, 0.0, 1.0]),
    ...     sample_weight=np.ones(4),
    ...     is_training=np.array([True, True, True, False]),
    ...     propensity=None,
    ...     preference_rate=None,
    ...     action_probability=lambda: np.full((2, 4), 0.5),
    ...     random_state=np.random.RandomState(0),
    ... )
    >>> round(log.action_rate, 2)
    0.33
    """

    X: np.ndarray
    actions: np.ndarray
    sample_weight: np.ndarray
    is_training: np.ndarray
    propensity: np.ndarray | None
    preference_rate: float | None
    action_probability: Callable
    random_state: np.random.RandomState

    @property
    def action_rate(self) -> float:
        """Weighted share of training rows with an action.

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk.objectives import TrainingLog
        >>> weight, training = np.array([2.0, 1.0, 1.0]), np.ones(3, dtype=bool)
        >>> y = np.array([1.0, 0.0, 0.0])
        >>> TrainingLog(np.zeros((3, 1)), y, weight, training, None, None, None, None).action_rate
        0.5
        """
        part = self.is_training
        return float(np.average(self.actions[part], weights=self.sample_weight[part]))


def cross_entropy(logit, target):
    """Return -t log p - (1 - t) log(1 - p) for p = sigmoid(logit) and target t, broadcast."""
    f = full_precision(logit)
    return binary_cross_entropy_with_logits(f, target.to(f).expand_as(f), reduction="none")


def product_model(reward_logit, propensity_logit, acted):
    """Return P(r*=1 | y), P(a=1 | y) and -log P(y) of P(y=1 | x) = R A, without false actions.

    This is the stratification posterior of one signal, at a fraction of the general cost.

    Parameters
    ----------
    reward_logit, propensity_logit, acted : Tensors that broadcast
    """
    f, u = full_precision(reward_logit), full_precision(propensity_logit)
    log_product = logsigmoid(f) + logsigmoid(u)
    product = log_product.exp()
    idle = -torch.expm1(log_product)
    idle = idle.clamp_min(torch.finfo(idle.dtype).tiny)
    acted = acted > 0
    preferred = torch.where(acted, 1.0, (torch.sigmoid(f) - product) / idle)
    active = torch.where(acted, 1.0, (torch.sigmoid(u) - product) / idle)
    return preferred, active, -torch.where(acted, log_product, torch.log(idle))


def any_action(actions: np.ndarray) -> np.ndarray:
    """Return 1 if any logged signal fired, 0 if none did, NaN if nothing is logged.

    Parameters
    ----------
    actions : ndarray of shape (n, K)
        0, 1 or NaN; with exposures the number of actions.

    Returns
    -------
    any_action : ndarray of shape (n, 1)
        As floats.

    Examples
    --------
    >>> import numpy as np
    >>> from implicitrm_sk.objectives import any_action
    >>> any_action(np.array([[0, 1], [0, np.nan], [np.nan, np.nan]]))
    array([[ 1.],
           [ 0.],
           [nan]])
    """
    fired = np.nanmax(np.where(np.isnan(actions), -1.0, actions), axis=1, keepdims=True)
    return np.where(fired < 0, np.nan, fired)


class Objective(BaseEstimator):
    """Base class of what the two heads are trained for.

    A subclass implements `loss`, and states in class attributes what it models. Its constructor
    parameters are ordinary scikit-learn parameters (reachable as ``objective__name``).

    Attributes
    ----------
    single_signal : bool
        Whether it works on one action signal; several are reduced to "any logged action".
    models_propensity : bool
        Whether it trains a propensity head. Otherwise the propensity is 1.
    models_actions : bool
        Whether R (the reward) and A (the propensity) together model P(y | x), so that likelihoods
        of actions are meaningful.
    calibrated : bool
        Whether R estimates the probability P(r*=1 | x) if the assumptions hold. Otherwise only the
        order of R is meaningful, or R estimates something else.
    needs_preference_rate : bool
        Whether `preference_rate` must be given, as a number. It then enters the loss and is not
        imposed.
    needs_both_polarities : bool
        Whether it works only on signals of both polarities.
    incremental : bool
        Whether the loss of a batch needs nothing but the batch, so that `partial_fit` works.
    pairs : {None, "different", "any"}
        Whether the loss compares pairs. Each row then gets a partner of the same group (of `fit`),
        drawn again in each epoch. With "different", the partner has a different action, or a
        different stratum if `prepare` returns strata. With "any", it is any other row. If the group
        has no such row, the partner comes from any group, or is the row itself if `across_prompts`
        is False.
    propensity_form : {"head", "constant", "reward", "trunk"}
        The form of the propensity: a network of its own, one number, the reward itself, or a linear
        function of the last hidden layer.
    auxiliary_head, representation : bool
        Whether `Batch` gets these. The third head has the form of the propensity head.
    assumption : str or None
        The condition for `identifies`.
    identifies : str
        The level of the reward, as in `Identification`. It is used only for objectives that
        are not a likelihood; for a likelihood, the level follows from the log.
    uses : frozenset of str
        The side information that `loss` uses: "response_id", "exposures", "labels", "propensity",
        "user_id" (arguments of `fit`), "preference_rate", "false_action_rate='estimate'" and
        "shared_examination=True". The estimator refuses any other. The first two are implied by
        `single_signal`, because actions are then reduced to one per response.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.objectives import Objective
    >>> class Brier(Objective):
    ...     single_signal = True
    ...     models_propensity = models_actions = False
    ...
    ...     def loss(self, reward_logit, propensity_logit, batch):
    ...         return (torch.sigmoid(reward_logit) - batch.acted) ** 2
    >>> X = np.random.default_rng(0).normal(size=(1000, 2))
    >>> y = (X[:, 0] > 0).astype(int)
    >>> est = ImplicitRewardEstimator(Brier(), learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> est.predict([[2.0, 0.0], [-2.0, 0.0]]).round(1)
    array([1., 0.], dtype=float32)
    """

    single_signal = False
    models_propensity = True
    models_actions = True
    calibrated = True
    needs_preference_rate = False
    needs_both_polarities = False
    incremental = True
    pairs: str | None = None
    across_prompts = True
    propensity_form = "head"
    auxiliary_head = False
    representation = False
    assumption: str | None = None
    identifies: str | None = None
    uses: frozenset[str] = frozenset()

    def prepare(self, log: TrainingLog) -> dict[str, np.ndarray]:
        """Learn before training what a batch cannot show, and return it by row.

        Only for single-signal objectives.

        Parameters
        ----------
        log : TrainingLog
            All rows, including those that validate.

        Returns
        -------
        fields : dict of str to ndarray of shape (n,) or (members, n)
            Further fields of `Batch`.

        Examples
        --------
        >>> from implicitrm_sk.objectives import Naive
        >>> Naive().prepare(log=None)  # a naive loss does not need any preparation
        {}
        """
        return {}

    def loss(
        self, reward_logit: torch.Tensor, propensity_logit: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        """Return the training loss of each member and row.

        Parameters
        ----------
        reward_logit : Tensor of shape (members, m)
            One per response; m = n unless ``batch.response`` is set.
        propensity_logit : Tensor of shape (members, n, K)
            Infinite if the objective does not model the propensity.
        batch : Batch
            Every response has at least one logged signal or a label.

        Returns
        -------
        loss : Tensor of shape (members, m)
            Per pair, (members, m / 2), with `pairs`.

        Raises
        ------
        NotImplementedError
            If a subclass does not define it.

        Examples
        --------
        >>> import torch
        >>> from implicitrm_sk.objectives import Batch, Naive
        >>> batch = Batch(actions=torch.tensor([[1.0], [0.0]]))
        >>> Naive().loss(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2, 1), batch)
        tensor([[0.6931, 2.1269]])
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not define loss. Define it, see Objective.loss."
        )

    def validation_loss(
        self, reward_logit: torch.Tensor, propensity_logit: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        """Return the held-out criterion of each member and row; by default, the loss.

        Early stopping uses its weighted mean over the validation rows; lower is better.

        Parameters
        ----------
        reward_logit, propensity_logit, batch : Tensor, Tensor and Batch
            As in `loss`.

        Returns
        -------
        loss : Tensor of shape (members, m)
            As for `loss`.

        Examples
        --------
        >>> import torch
        >>> from implicitrm_sk.objectives import Batch, Stratified
        >>> batch = Batch(actions=torch.tensor([[1.0], [0.0]]))
        >>> Stratified().validation_loss(torch.zeros(1, 2), torch.zeros(1, 2, 1), batch).exp()
        tensor([[4.0000, 1.3333]])
        """
        return self.loss(reward_logit, propensity_logit, batch)

    def initial_rates(self, action_rate: np.ndarray, any_rate: float) -> tuple[float, np.ndarray]:
        """Return the reward and propensities (K,) at which training starts.

        Parameters
        ----------
        action_rate : ndarray of shape (K,)
            Share of acted rows per signal, without false actions.
        any_rate : float
            Share of rows with any logged action, without false actions.

        Returns
        -------
        reward : float
            In (0, 1).
        propensities : ndarray of shape (K,)
            In (0, 1).

        Examples
        --------
        >>> import numpy as np
        >>> from implicitrm_sk.objectives import Stratified
        >>> reward, propensity = Stratified().initial_rates(np.array([0.25]), 0.25)
        >>> float(reward), propensity
        (0.5, array([0.5]))
        """
        return 0.5, np.full(len(action_rate), 0.5)

    def swap_symmetric(self, n_signals: int) -> bool:
        """Return whether reward and propensity could be swapped with equal likelihood.

        Parameters
        ----------
        n_signals : int
            Number of action signals K.

        Returns
        -------
        symmetric : bool
            Whether the fitted mixture then contains members and their mirror images.

        Examples
        --------
        >>> from implicitrm_sk.objectives import Stratified
        >>> Stratified().swap_symmetric(1), Stratified().swap_symmetric(2)
        (True, False)
        """
        return False


def check_uses(objective, side_information, assumptions):
    """Raise if an objective does not use a given argument, or lacks one that it needs.

    Parameters
    ----------
    objective : Objective
    side_information : dict
        Arguments of `fit` other than X and y, None if not given.
    assumptions : Assumptions
    """
    given = [name for name, value in side_information.items() if value is not None]
    given = [name for name in given if name != "sample_weight"]
    if objective.single_signal:
        given = [name for name in given if name not in ("response_id", "exposures")]
    if assumptions.preference_rate is not None:
        given.append("preference_rate")
    if assumptions.models_examination:
        given.append("shared_examination=True")
    if assumptions.estimates_false_actions:
        given.append("false_action_rate='estimate'")
    elif (
        objective.single_signal
        and assumptions.false_action_rate is not None
        and np.any(np.asarray(assumptions.false_action_rate) != 0)
    ):
        given.append("false_action_rate")
    if objective.needs_preference_rate and np.ndim(assumptions.preference_rate or ()) > 0:
        raise ImplicitRMError(
            f"{type(objective).__name__} needs the share of preferred responses as a number, got "
            f"preference_rate={assumptions.preference_rate!r}. If it is not known, use the mean "
            "reward of objective='elkan-noto', which assumes one propensity for all responses."
        )
    unused = [name for name in given if name not in objective.uses]
    if unused:
        raise ImplicitRMError(
            f"{type(objective).__name__} makes no use of {', '.join(unused)}. Leave "
            f"{'it' if len(unused) == 1 else 'them'} out, or use objective='stratified'."
        )
