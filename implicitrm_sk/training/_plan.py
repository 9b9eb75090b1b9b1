"""Plans of fits: heads, objective, assumptions, start values and steps, to run on data."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch

from .._assumptions import Assumptions
from .._device import resolve_device, resolve_dtype
from .._features import HeadColumns
from ..exceptions import ImplicitRMError
from ..measurement._action import Action
from ..measurement._model import Measurement, is_dispersed
from ..measurement._signal import initial_logit
from ..objectives import Objective, Stratified
from ._constant import ConstantFit
from ._constraint import RateConstraint
from ._data import FIXED_EPOCHS, member_logits
from ._level import LevelRows
from ._members import MembersInTraining
from ._modules import RewardModel
from ._net import build_net
from ._stack import joined, part_of
from ._users import UserWeights

#: The loadings of the activity of users at the start, member by member.
LOADING_STARTS = (1.0, 2.0)
#: The settings in which fits side by side may differ.
SIDE_BY_SIDE = (
    "learning_rate_init",
    "weight_decay",
    "dropout",
    "n_iter_no_change",
    "tol",
    "max_epochs",
)


@dataclass
class Hooks:
    """Functions that a fit calls while it trains.

    Attributes
    ----------
    epoch_begin : callable()
    epoch_end : callable(record) -> bool
        Called around each epoch, `record` being its losses. Training ends if it is True.
    checkpoint : TrainingState or None
        File to continue from and to write after each epoch.
    """

    epoch_begin: Callable = lambda: None
    epoch_end: Callable = lambda record: False
    checkpoint: Any = None


@dataclass(frozen=True, eq=False)
class FitPlan:
    """All settings of a fit, fixed before it trains.

    Attributes
    ----------
    columns : HeadColumns
    objective : Objective
    measurement : Measurement
        The measurement model of the signals, as the objective sees them.
    assumptions : Assumptions
        With a false-action rate for each signal.
    hidden_layer_sizes, propensity_hidden_layer_sizes : tuple of int
    n_members : int
        Number of members of one fit.
    learning_rate_init, weight_decay, dropout, n_iter_no_change, tol, max_epochs, batch_size,\
    device, dtype
        As in `ImplicitRewardEstimator`.
    starts : ndarray of shape (n_members,) or None
        Member m starts at the reward P(any action) ** starts[m]. None: the objective decides.
    estimates_rates : bool
        Whether each member learns its own false-action rates, on the validation rows.
    n_users : int or None
        Number of users who differ in activity; None if they do not.
    undersmoothing : float
        As in `MemberSettings`.
    tells_level : bool
        Whether the log may show the mean reward. The fit is then moved there, see `LevelRows`.
    fits : tuple of FitPlan
        Plans that this one trains side by side, from `stack`.
    """

    columns: HeadColumns
    objective: Objective
    measurement: Measurement
    assumptions: Assumptions
    hidden_layer_sizes: tuple
    propensity_hidden_layer_sizes: tuple
    n_members: int
    learning_rate_init: float
    weight_decay: float
    dropout: float
    n_iter_no_change: int
    tol: float
    max_epochs: int
    batch_size: int
    device: str
    dtype: str
    starts: Any = None
    estimates_rates: bool = False
    n_users: int | None = None
    undersmoothing: float = 1.0
    tells_level: bool = False
    fits: tuple = ()

    @classmethod
    def of(cls, estimator, columns, objective, measurement, assumptions, tells_level=False):
        """Return the plan for the parameters of an estimator."""
        sizes = layer_sizes(estimator, "hidden_layer_sizes")
        names = (*SIDE_BY_SIDE, "batch_size", "device", "dtype")
        return cls(
            columns=columns,
            objective=objective,
            measurement=measurement,
            assumptions=assumptions,
            hidden_layer_sizes=sizes,
            propensity_hidden_layer_sizes=(
                sizes
                if estimator.propensity_hidden_layer_sizes is None
                else layer_sizes(estimator, "propensity_hidden_layer_sizes")
            ),
            n_members=estimator.n_estimators,
            tells_level=tells_level,
            **{name: getattr(estimator, name) for name in names},
        )

    # ------------------------------------------------------------------ side by side

    @classmethod
    def stack(cls, plans):
        """Return a plan that trains several plans at once, which differ only in `SIDE_BY_SIDE`.

        It has the members of all plans, one plan after the other. `FitResult.unstack` separates
        them again.
        """
        plans = tuple(plans)
        return replace(plans[0], max_epochs=max(plan.max_epochs for plan in plans), fits=plans)

    def _per_member(self, name, device="cpu", dtype=torch.float64):
        values = torch.tensor([getattr(plan, name) for plan in self.fits], dtype=dtype)
        return values.repeat_interleave(self.n_members).to(device)

    def _member_settings(self, model):
        """Return `MemberSettings` as a dict."""
        steps = {name: getattr(self, name) for name in ("learning_rate_init", "weight_decay")}
        settings = steps | {
            "patience": self.n_iter_no_change,
            "tol": self.tol,
            "undersmoothing": self.undersmoothing,
        }
        if not self.fits:
            return settings
        parameter = next(model.parameters())
        device, dtype = parameter.device, parameter.dtype
        settings["patience"] = self._per_member("n_iter_no_change", device, dtype)
        settings["tol"] = self._per_member("tol", device, dtype)
        if len({(plan.learning_rate_init, plan.weight_decay) for plan in self.fits}) > 1:
            settings |= {name: self._per_member(name, device) for name in steps}
        return settings | {
            "max_epochs": self._per_member("max_epochs", dtype=torch.int64).tolist(),
            "n_fits": len(self.fits),
        }

    # ------------------------------------------------------------------ the model

    def new_model(self, data):
        """Return the heads, with arbitrary weights, on their device."""
        device = resolve_device(self.device)
        dtype, _ = resolve_dtype(self.dtype, device)
        reward_columns, propensity_columns = self.columns.positions
        model = RewardModel(
            n_members=self.n_members * max(len(self.fits), 1),
            n_in=data.X.shape[1],
            n_signals=self.measurement.n_outputs,
            hidden_layer_sizes=self.hidden_layer_sizes,
            propensity_hidden_layer_sizes=self.propensity_hidden_layer_sizes,
            dropout=self.dropout,
            with_propensity=self.objective.models_propensity,
            reward_columns=reward_columns,
            propensity_columns=propensity_columns,
            propensity_form=self._propensity_form(),
            auxiliary_head=self.objective.auxiliary_head,
            representation=self.objective.representation,
            examination=self.measurement.examined,
            loads=None if self.n_users is None else self.measurement.loads(),
            shared_logits=self.measurement.shared_logits(),
        ).to(device, dtype)
        self._set_loading(model)
        if self.fits:
            member = torch.arange(self.n_members, device=device).repeat(len(self.fits))
            p = self._per_member("dropout", device)
            for layer in model.dropouts():
                layer.draw_as(self.n_members, member)
                layer.p = p if (p != p[0]).any() else float(p[0])
        return model

    def _set_loading(self, model):
        """Set the loadings of the members of one fit, or of several, to their start values."""
        if self.n_users is not None:
            starts = np.resize(LOADING_STARTS, self.n_members)
            model.set_loading(np.resize(starts, model.config["n_members"]))

    def _propensity_form(self):
        form = self.objective.propensity_form
        shared = self.assumptions.shared_propensity and self.measurement.n_outputs > 1
        return "shared" if shared and form == "head" else form

    def initial_model(self, data, random_state, responses=None):
        """Return the heads at the weights at which training starts.

        Their biases follow from the actions of some responses; None means the training responses.
        """
        model = self.new_model(data)
        generator = torch.Generator().manual_seed(random_state.randint(2**31))
        one = model
        if self.fits:
            one = model.like(self.n_members)
            self._set_loading(one)
        responses = data.train if responses is None else responses
        one.initialize(generator, *self._initial_logits(data.log, responses))
        if self.fits:
            model.copy_members(one, model.dropouts()[0].drawn[1])
        return model

    def _initial_logits(self, log, responses):
        """Return the start logits of reward, propensities and perhaps looking."""
        rate, any_rates = log.rates(responses)
        e = np.zeros(1)
        if not self.objective.single_signal:
            e = self.assumptions.false_action_rate[log.acts.column]
        acted = np.maximum((rate - e) / (1 - e), 1e-3)
        any_acted = []
        for c in (0, 1):
            any_e = 1 - np.prod(1 - e[log.shows(c) & log.telling_of_level()])
            any_acted.append(max((any_rates[c] - any_e) / (1 - any_e), 1e-3))
        reward = self._initial_reward(log, any_acted, acted)
        interval = self.assumptions.preference_interval
        if interval is not None:
            reward = np.clip(reward, *interval)
        elif (
            self.starts is None
            and not self.measurement.examined
            and all(signal == Action() for signal in log.signals)
        ):
            reward, propensity = self.objective.initial_rates(acted, any_acted[1])
            return _tensors(initial_logit(reward), initial_logit(propensity))
        if any(is_dispersed(signal) for signal in log.signals):
            return self._logits_of_constants(log, responses)
        weight = np.zeros(log.n_responses)
        weight[responses] = log.sample_weight[responses]
        looked = 1.0
        if self.measurement.examined:
            # The silence of a row is split equally, in logs, between looking and acting.
            looked = np.sqrt(min(sum(any_acted), 1.0))
            acted = acted / looked
        first = np.searchsorted(log.acts.column, np.arange(log.n_signals))
        propensity = [
            signal.initial_logits(
                log.actions[:, k],
                log.per_row(weight),
                reward,
                acted[first[k]],
                **log.waits_of(k, signal.takes),
            )
            for k, signal in enumerate(log.signals)
        ]
        logits = initial_logit(reward), np.concatenate(propensity, axis=-1)
        return _tensors(*logits, *([initial_logit(looked)] if self.measurement.examined else []))

    def _logits_of_constants(self, log, responses):
        """Return the start logits of reward and propensities if exposures are correlated."""
        rate, interval = self.assumptions.false_action_rate, self.assumptions.preference_interval
        rewards = [None] if self.starts is None else self.starts
        if interval is not None:
            free = ConstantFit.of(log, responses, rate).reward_logit
            rewards = [np.clip(1 / (1 + np.exp(-free)), *interval)]
        fits = [ConstantFit.of(log, responses, rate, reward) for reward in rewards]
        reward, propensity = (
            np.array([getattr(fit, name) for fit in fits])
            for name in ("reward_logit", "propensity_logit")
        )
        return _tensors(reward[:, None], propensity)

    def _initial_reward(self, log, any_acted, acted):
        """Return the reward at which training starts: one number, or one per member (members, 1).

        With signals of both polarities, it lies between P(any positive action) and 1 - P(any
        negative action). Without `starts`, it is the reward at which both kinds are equally ready
        to act.
        """
        lower, upper = any_acted[1], 1 - any_acted[0]
        telling = log.telling_of_level()
        has_negative, has_positive = ((log.shows(c) & telling).any() for c in (0, 1))
        acted = acted[telling]
        if has_positive and has_negative:
            if self.starts is None:
                return lower / (lower + any_acted[0])
            return lower + (max(upper, lower) - lower) * (1 - self.starts[:, None])
        if has_negative:
            starts = 0.5 if self.starts is None else self.starts[:, None]
            return 1 - any_acted[0] ** starts
        if self.starts is None:
            return self.objective.initial_rates(acted, any_acted[1])[0]
        return any_acted[1] ** self.starts[:, None]

    def model_like(self, model, data):
        """Return the heads with the weights of a fitted model, which must have the same heads."""
        new = self.new_model(data)
        for name, value in new.config.items():
            if name != "dropout":
                check_same_setting(model, name, value)
        new.load_state_dict(model.state_dict())
        return new

    # ------------------------------------------------------------------ training

    def n_epochs(self, data, early_stopping):
        """Return the maximum number of epochs, which is small if no rows can be held out."""
        if early_stopping and not len(data.valid):
            return min(self.max_epochs, FIXED_EPOCHS)
        return self.max_epochs

    def net(self, model, constraint=None, hooks=None, user_factors=None):
        """Return the `RewardNet` that trains a model."""
        hooks = Hooks() if hooks is None else hooks
        device = next(model.parameters()).device
        users = None
        if self.n_users is not None:
            users = UserWeights(self.n_users, model.config["n_members"], device, user_factors)
        return build_net(
            model,
            self.objective,
            self.measurement,
            false_action_rate=self.assumptions.model_rates(self.objective),
            estimate_false_action_rate=self.estimates_rates,
            device=device,
            autocast_dtype=resolve_dtype(self.dtype, device)[1],
            constraint=constraint,
            users=users,
            epoch_begin=hooks.epoch_begin,
            epoch_end=hooks.epoch_end,
            **self._member_settings(model),
        )

    def rate_constraint(self, model, n_responses):
        """Return the constraint on the mean reward of this many responses, or None."""
        intervals = [plan.assumptions.preference_interval for plan in self.fits or (self,)]
        if all(one is None for one in intervals) or self.objective.needs_preference_rate:
            return None
        ends = np.array([(0.0, 1.0) if one is None else one for one in intervals])
        lower, upper = ends.repeat(self.n_members, axis=0).T
        device = next(model.parameters()).device
        n_batches = n_responses / self.batch_size
        return RateConstraint(lower, upper, model.config["n_members"], n_batches, device)

    def parts(self, data, model, random_state, further=None):
        """Return `ResidentRows` for training and for validation, None for an empty part."""
        return data.parts(
            model,
            self.objective,
            self.batch_size,
            random_state,
            weights=data.part_weights(),
            parts=(data.train, data.valid),
            further=further,
        )

    def run(
        self,
        data,
        model,
        epochs,
        random_state,
        *,
        hooks=None,
        further=None,
        progress=None,
        pause=None,
    ):
        """Train a model on data, and make it meet the preference rate.

        Parameters
        ----------
        data : TrainingData
            Split and scaled. Parts that training does not need are freed.
        model : RewardModel
            Trained in place.
        epochs : int
        random_state : numpy.random.RandomState
        hooks : Hooks, default=None
        further : dict of str to array, default=None
            Further fields of `Batch`, by response.
        progress : list of dict, default=None
            The states from which paused fits continue.
        pause : int, default=None
            The epoch after which to pause.

        Returns
        -------
        result : FitResult
        """
        hooks = Hooks() if hooks is None else hooks
        constraint = self.rate_constraint(model, len(data.train))
        level_rows = self._level_rows(data)
        net = self.net(model, constraint, hooks, data.user_factors)
        parts = self.parts(data, model, random_state, further)
        X, scaler, population = data.X, data.scaler, None
        if constraint is not None:
            rows = data.usable if data.log.first is None else data.log.first[data.usable]
            population = rows, data.population_weight()
        data.release()
        net.fit_loop(
            parts,
            epochs=epochs,
            progress=None if progress is None else joined(progress),
            pause=pause,
            checkpoint=hooks.checkpoint,
        )
        if any(net.members_.diverged):
            with torch.no_grad():
                for parameter in model.member_parameters():
                    # Members that diverged are dropped. Their logits need only be numbers.
                    parameter[:, torch.tensor(net.members_.diverged)] = 0.0
        if constraint is not None:
            self._impose_rate(constraint, model, X, scaler, *population)
        levels = () if level_rows is None else self._move_levels(level_rows, model, net.members_)
        return FitResult(self, model, net.members_, net.n_running_, net.progress_, levels=levels)

    def step(self, data, model, random_state, *, optimizer_state=None, epoch_end):
        """Train one pass over all usable rows; return the state of the optimiser.

        Parameters
        ----------
        data : TrainingData
            Scaled, not split.
        model : RewardModel
            Trained in place.
        random_state : numpy.random.RandomState
        optimizer_state : dict, default=None
            The result of an earlier pass.
        epoch_end : callable(record) -> bool
        """
        net = self.net(model, hooks=Hooks(epoch_end=epoch_end))
        if optimizer_state is not None:
            net.optimizer_.load_state_dict(optimizer_state)
        weight = data.log.sample_weight
        parts = data.parts(
            model,
            self.objective,
            self.batch_size,
            random_state,
            weights=(weight, weight),
            parts=(data.usable, data.usable[:0]),
        )
        net.fit_loop(parts, epochs=1)
        return net.optimizer_.state_dict()

    def _level_rows(self, data):
        """Return the rows that show the level of the fits, or None."""
        if (
            not self.tells_level
            or type(self.objective).loss is not Stratified.loss  # one of its own may pull the level
            or self.estimates_rates
            or self.n_users is not None
            or self._propensity_form() != "head"
        ):
            return None
        return LevelRows.of(data, self.measurement)

    def _move_levels(self, level_rows, model, members):
        """Move the mean reward of each fit, or of each replicate; return the levels of the fits.

        Members with starts of their own are compared by their levels, so they are not moved. Nor is
        a mean that is given.
        """
        logits = level_rows.logits(model, self.dtype)
        interval = self.assumptions.preference_interval or (0.0, 1.0)
        replicates, is_whole = level_rows.weight.ndim > 1, self.starts is None
        is_moved = is_whole and interval[0] < interval[1]
        size = self.n_members if is_whole and not replicates else 1
        given = self.measurement, self.assumptions.model_rates(self.objective)
        found = []
        for part in torch.arange(len(logits[0])).split(size):
            if any(members.diverged[member] for member in part.tolist()):
                found.append(None)
                continue
            weight = level_rows.weight[int(part)] if replicates else level_rows.weight
            if is_moved:
                average = level_rows.move(model, part, logits, weight, *given, interval)
            else:
                average = level_rows.average(part, logits)
            if not replicates:
                found.append(level_rows.level(*average, weight, *given))
        return tuple(found)

    def _impose_rate(self, constraint, model, X, scaler, rows, weight):
        """Shift the reward of each member, so that its mean over the rows of fit is exact."""
        if isinstance(X, np.ndarray):
            (reward_logit,) = member_logits(model, X[rows], scaler, ("reward_logit",), self.dtype)
        else:
            (reward_logit,) = member_logits(model, X, scaler, ("reward_logit",), self.dtype)
            reward_logit = reward_logit[:, rows]
        shift = constraint.shift(reward_logit, torch.as_tensor(weight))
        bias = model.reward.biases[-1]
        with torch.no_grad():
            bias.add_(shift.to(bias)[:, None])


@dataclass
class FitResult:
    """The result of running a plan.

    Attributes
    ----------
    plan : FitPlan
    model : RewardModel
    members : MembersInTraining or None
        Members of all fits side by side; None for one of them.
    n_running : int or None
        Number of members still improving at the end; None without validation.
    progress : dict or None
        The state from which a paused fit continues.
    n_epochs : int
        Number of epochs trained.
    levels : tuple of Level or None
        The level of each fit, or of each member with a start of its own; None for one that
        diverged. Empty if the log does not show it, and for replicates.
    """

    plan: FitPlan
    model: RewardModel
    members: MembersInTraining | None = None
    n_running: int | None = None
    progress: dict | None = None
    n_epochs: int = field(default=0)
    levels: tuple = ()

    def unstack(self):
        """Return the result of each stacked plan, None if it diverged."""
        found, members, size = [], self.members, self.plan.n_members
        for number, plan in enumerate(self.plan.fits):
            part = slice(number * size, (number + 1) * size)
            if any(members.diverged[part]):
                found.append(None)
                continue
            config = {"n_members": size, "dropout": plan.dropout}
            model = RewardModel(**self.model.config | config)
            parameter = next(self.model.parameters())
            model.to(parameter.device, parameter.dtype).copy_members(
                self.model, torch.arange(part.start, part.stop, device=parameter.device)
            )
            progress = None
            if self.progress is not None and any(self.progress["members"]["present"][part]):
                progress = part_of(self.progress, part)
            n_running = None if members.running is None else sum(members.running[part])
            n_epochs = max(members.epochs[part])
            levels = self.levels[number : number + 1]
            found.append(FitResult(plan, model, None, n_running, progress, n_epochs, levels))
        return found


def _tensors(*values):
    return [torch.as_tensor(value) for value in values]


def layer_sizes(estimator, name):
    """Return the hidden layer sizes in a parameter of an estimator as a tuple."""
    sizes = getattr(estimator, name)
    sizes = (sizes,) if isinstance(sizes, Integral) else tuple(sizes)
    if any(not isinstance(size, Integral) or size < 1 for size in sizes):
        raise ImplicitRMError(
            f"{name} must be a positive integer or a tuple of positive integers, got "
            f"{getattr(estimator, name)!r}."
        )
    return tuple(map(int, sizes))


def check_same_setting(model, name, new):
    """Raise unless a setting equals that of the heads whose training continues."""
    old = model.config[name]
    if old != new:
        shown = {"n_members": "n_estimators", "n_in": "the number of columns of X"}
        raise ImplicitRMError(
            f"training cannot continue from the fitted weights: {shown.get(name, name)} was {old} "
            f"and is now {new}. Use the same data layout and architecture, or fit a clone."
        )
