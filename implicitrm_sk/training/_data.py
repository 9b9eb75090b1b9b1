"""The rows of a fit: their log, their split, their scaling and their batches."""

import numpy as np
import torch

from .._device import INFERENCE_ROWS, resolve_dtype
from .._log import check_constant, number_responses
from .._sources import StreamedX, chunks, picked
from .._tables import as_values
from .._validation import check_groups, in_range
from .._warnings import warn
from ..exceptions import ImplicitRMError
from ._net import batched_logits
from ._rows import Partners, ResidentRows
from ._split import cross_fitting_folds, row_codes, validation_split
from ._streaming import StreamedRows

#: Epochs of training if there is too little data to hold some out.
FIXED_EPOCHS = 50
#: Pairs of a row and a member that a pass over held-out rows computes at a time.
PAIRS_AT_A_TIME = 2**16
#: Acted rows, and not acted rows, that each side of a split needs.
MIN_ROWS_PER_CLASS = 5
#: With fewer groups than this, a split may fail because groups are not separated.
FEW_GROUPS = 20


class TrainingData:
    """X and the log of a fit, as the objective sees them, with their split and scaling.

    The rows of a response are adjacent. For objectives that use one signal, the signals are reduced
    to one.

    Parameters
    ----------
    X : ndarray of shape (n, d) or StreamedX
        The columns that the heads read.
    log : FeedbackLog
    columns : HeadColumns
    objective : Objective
    response_id, groups : array-like of shape (n,) or None
        Arguments of `fit`.

    Attributes
    ----------
    usable : ndarray of int
        The responses that carry information.
    train, valid : ndarray of int
        The usable responses to train on and those held out, after `split`.
    scaler : StandardScaler or None
        The scaler that standardises rows, after `update_scaler`.
    user_factors : list of two ndarrays of shape (members, users), or None
        After `resample`, the factors of the weights of the rows of a user, in training and in
        validation.
    """

    def __init__(self, X, log, columns, objective, *, response_id=None, groups=None):
        if objective.pairs and isinstance(X, StreamedX):
            raise X.refusal()
        groups = None if groups is None else check_groups(groups, len(X))
        if log.response is not None:
            ids = as_values(response_id)
            log.check_same_reward(columns.reward_part(X), ids)
            if groups is not None:
                codes, _ = number_responses(groups)
                check_constant(
                    codes, log.response, log.first, ids, "groups", "No split may cut a response"
                )
                groups = groups[log.first]
            log, order = log.sorted()
            X = X[order]
        if objective.single_signal:
            if log.response is not None:
                X = X[log.first]
            log = log.reduced()
        self.X = X
        self.log = log
        self.columns = columns
        self.groups = groups
        self.usable = self.train = log.usable()
        self.valid = self.usable[:0]
        self.scaler = None
        self._replicates = self.user_factors = self._codes = None

    # ------------------------------------------------------------------ parts

    def split(self, validation_fraction, random_state, max_epochs):
        """Hold out a share of the groups for validation, or warn that there are too few rows.

        Parameters
        ----------
        validation_fraction : float
        random_state : numpy.random.RandomState
        max_epochs : int
            Used in the warning.
        """
        chosen = validation_split(*self._strata_and_groups(), validation_fraction, random_state)
        rows = self._acted_and_not(chosen.astype(int), 2)
        if rows.min() >= MIN_ROWS_PER_CLASS:
            self.train, self.valid = self.usable[~chosen], self.usable[chosen]
            return
        cure = "Collect more rows, change validation_fraction, or"
        if rows.sum(axis=0).min() >= 2 * MIN_ROWS_PER_CLASS and (few := self._few_groups()):
            cure = f"{few} Or"
        warn(
            f"early_stopping needs at least {MIN_ROWS_PER_CLASS} acted and {MIN_ROWS_PER_CLASS} "
            "not acted rows on both sides of the validation split. Training would get "
            f"{rows[0, 1]} and {rows[0, 0]}, validation {rows[1, 1]} and {rows[1, 0]}. So "
            f"{min(max_epochs, FIXED_EPOCHS)} epochs are trained on all rows instead. {cure} set "
            "early_stopping=False and max_epochs.",
        )

    def _few_groups(self):
        """Return why no split separates the rows, in words; None if they have many groups."""
        n_groups = len(np.unique(self._strata_and_groups()[1]))
        if n_groups >= FEW_GROUPS or n_groups == len(self.usable):
            return None
        found = f"{n_groups} different value{'s' * (n_groups > 1)}"
        if self.groups is None:
            return (
                f"X has {found} in all {len(self.usable)} rows, and rows of equal X are never "
                "separated. Check X, or pass groups= if equal rows may be separated."
            )
        return (
            f"groups= has {found}, and rows of one group are never separated. Pass the prompt or "
            "the user of each row."
        )

    def held_out_folds(self, n_folds, random_state):
        """Return the responses that each fold holds out, a mask of shape (n_folds, m)."""
        fold = cross_fitting_folds(*self._strata_and_groups(), n_folds, random_state)
        if self._acted_and_not(fold, n_folds).min() < MIN_ROWS_PER_CLASS:
            lack, have = self._acted_and_not(np.zeros_like(fold), 1)[0]
            n_parts = len(np.unique(fold))
            cure = "Collect more, or pass a number."
            if n_parts < n_folds and self.groups is None:
                cure = f"Rows of equal X are one group: pass groups= if they are not. {cure}"
            raise ImplicitRMError(
                f"false_action_rate='estimate' needs at least {MIN_ROWS_PER_CLASS} responses with "
                f"an action and {MIN_ROWS_PER_CLASS} that lack one in each of {n_folds} parts of "
                f"the log. The log has {have} with one and {lack} that lack one, in {n_parts} "
                f"part{'s' * (n_parts > 1)} that keep{'s' * (n_parts == 1)} groups together. {cure}"
            )
        held_out = np.zeros((n_folds, self.log.n_responses), dtype=bool)
        held_out[fold, self.usable] = True
        return held_out

    def _acted_and_not(self, part, n_parts):
        """Return how many responses of each part lack some action, and how many have one."""
        kinds = [kind[self.usable] for kind in (self.log.rests(), self.log.fired())]
        return np.stack([np.bincount(part[kind], minlength=n_parts) for kind in kinds], axis=1)

    def _strata_and_groups(self):
        """Return the strata that each part of a split shares, and the groups it keeps together."""
        log, groups = self.log, self.groups
        if groups is None:
            if self._codes is None:  # a pass over X, which may be in files
                X = self.X
                self._codes = row_codes(
                    X if log.response is None else self.columns.reward_part(X)[log.first]
                )
            groups = self._codes
        stratum = log.balance()[self.usable]
        if log.labels is not None:
            # Labels are few, so each side of the split must get its share of them.
            label = log.labels[self.usable]
            stratum = stratum + np.where(np.isnan(label), 0.0, 2 + 2 * np.round(label))
        return stratum, groups[self.usable]

    def clusters(self):
        """Return a number for each usable response, equal if a split never separates two."""
        return np.unique(self._strata_and_groups()[1], return_inverse=True)[1]

    def resample(self, weight, validation_fraction, random_state):
        """Give each member weights of its own, and its own validation split if there is one.

        Parameters
        ----------
        weight : ndarray of shape (members, m)
            Factors of the weights of the responses; the same for all rows of a user.
        validation_fraction : float
        random_state : numpy.random.RandomState
        """
        train = weight * self.log.sample_weight
        valid = np.zeros_like(train)
        self.train, has_split = self.usable, len(self.valid) > 0
        if has_split:
            self.valid = self.usable
            strata_and_groups = self._strata_and_groups()
            for of_train, of_valid in zip(train, valid, strict=True):
                held = validation_split(*strata_and_groups, validation_fraction, random_state)
                held = self.usable[held]
                of_valid[held], of_train[held] = of_train[held], 0.0
        parts = (train, valid) if has_split else (train, train)
        means = [part[:, self.usable].mean(axis=1, keepdims=True) for part in parts]
        parts = [part / mean for part, mean in zip(parts, means, strict=True)]
        self._replicates = weight * self.log.sample_weight, *parts
        if self.log.user is not None:
            of_users = weight[:, np.unique(self.log.user, return_index=True)[1]]
            self.user_factors = [of_users / mean for mean in means]

    def part_weights(self):
        """Return the weights of the responses in training and in validation.

        The shape is (m,), or (members, m) if members have their own weights.
        """
        if self._replicates is not None:
            return self._replicates[1:]
        weight = self.balanced_weights()
        return weight, weight

    def population_weight(self):
        """Return the weights of the usable responses in both parts.

        The shape is (p,), or (members, p) if members have their own weights.
        """
        weight = self.log.sample_weight if self._replicates is None else self._replicates[0]
        return weight[..., self.usable]

    def balanced_weights(self):
        """Return the weights of the responses, with mean 1 over each part.

        Losses then stay in nats per row, and a batch mean is an unbiased estimate of their mean.
        """
        weight = self.log.sample_weight.copy()
        for part in (self.train, self.valid):
            weight[part] /= weight[part].mean() if len(part) else 1
        return weight

    # ------------------------------------------------------------------ scale

    def update_scaler(self, scaler):
        """Standardise by a scaler after it has learned the training rows; None means no scaling.

        Parameters
        ----------
        scaler : StandardScaler or None
            Updated in place; it may have seen earlier rows.
        """
        self.scaler = scaler
        if scaler is None:
            return
        log, rows = self.log, self.train
        if log.response is not None:
            rows = np.flatnonzero(np.isin(log.response, rows))
        weight = log.per_row(log.sample_weight)[rows]
        uniform = (weight == weight[0]).all()
        for part, block in picked(self.X, rows, INFERENCE_ROWS):
            # A float16 sum of squares overflows at 65504.
            block = block.astype(np.float32) if self.X.dtype == np.float16 else block
            # Without weights it is several times faster.
            scaler.partial_fit(block, sample_weight=None if uniform else weight[part])

    # ------------------------------------------------------------------ for the engine

    def parts(self, model, objective, batch_size, random_state, *, weights, parts, further=None):
        """Return `ResidentRows` to train on and to validate on, None for an empty part.

        Parameters
        ----------
        model : RewardModel
            The model, which gives device and number format.
        objective : Objective
        batch_size : int
        random_state : numpy.random.RandomState
        weights : (array, array)
            Weights of the responses, shape (m,) or (members, m), in training and in validation.
        parts : (array, array)
            The responses to train on and to validate on.
        further : dict of str to array, default=None
            Further fields of `Batch`, by response.
        """
        log, further = self.log, further or {}
        parameter = next(model.parameters())
        device, dtype = parameter.device, parameter.dtype
        generator = torch.Generator(device).manual_seed(random_state.randint(2**31))
        model.set_generator(generator)
        served, serve = self._served(device, dtype)

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
            age=log.age,
            delay=log.delay,
            propensity_target=log.propensity_target(),
        )
        if log.user is not None and model.log_loading is not None:
            rows["user"] = torch.as_tensor(log.user, device=device)
        responses = tensors(labels=log.labels, **further)
        offsets = None
        if log.response is not None:
            offsets = torch.as_tensor(np.append(log.first, len(log.response)), device=device)
        one_weight = weights[0] is weights[1]
        weights = [torch.as_tensor(weight, dtype=dtype, device=device) for weight in weights]
        found = []
        # Fewer rows at a time with many members: memory is then reused.
        many = min(INFERENCE_ROWS, max(batch_size, PAIRS_AT_A_TIME // model.config["n_members"]))
        for weight, part, size, shuffle in zip(
            weights, parts, (batch_size, many), (generator, None), strict=True
        ):
            if not len(part):
                found.append(None)
                continue
            part = torch.as_tensor(part, device=device)
            partners = self._partners(part, objective, further.get("stratum"), generator)
            found.append(
                serve(
                    served,
                    rows,
                    responses,
                    weights[0] if one_weight else weight,
                    part,
                    size,
                    offsets=offsets,
                    generator=shuffle,
                    partners=partners,
                )
            )
        return found

    def _served(self, device, dtype):
        """Return standardised X in the form in which it is served, and the class that serves it."""
        if isinstance(self.X, StreamedX):
            return self.X.scaled_by(self.scaler), StreamedRows
        served = torch.empty(self.X.shape, dtype=dtype, device=device)
        for start, chunk in standardized(self.X, self.scaler, dtype):
            served[start : start + len(chunk)] = chunk
        return served, ResidentRows

    def _partners(self, part, objective, stratum, generator):
        if not objective.pairs:
            return None
        n = len(self.X)
        kinds = np.arange(n)
        if objective.pairs == "different":
            kinds = np.nan_to_num(self.log.actions[:, 0]) if stratum is None else stratum
        codes = np.zeros(n, dtype=int)
        if self.groups is not None:
            codes = number_responses(self.groups)[0]
        codes, kinds = (torch.as_tensor(values, device=part.device) for values in (codes, kinds))
        return Partners(part, n, codes, kinds, generator, objective.across_prompts)

    def release(self):
        """Free the log, which fills the memory unless rows stay in files."""
        self.log = self.groups = self.usable = self.train = self.valid = None
        self._replicates = self._codes = None


def standardized(X, scaler, dtype):
    """Yield (start, chunk): standardised rows of X as tensors on the CPU.

    Columns that only the propensity reads stay NaN where they are missing.
    """
    compute = np.dtype(np.float32) if X.dtype == np.float16 else X.dtype
    if scaler is not None:
        mean, scale = (
            torch.from_numpy(part.astype(compute)) for part in (scaler.mean_, scaler.scale_)
        )
    for start, chunk in chunks(X, INFERENCE_ROWS):
        # torch shares memory, but does not accept read-only and reversed arrays.
        tensor = torch.from_numpy(np.require(chunk, compute, "CW"))
        if scaler is not None:
            tensor = (tensor - mean).div_(scale)
        yield start, in_range(tensor, dtype)


def member_logits(model, X, scaler, heads, dtype):
    """Return the logits of the members of a model, in float64 on the CPU.

    Parameters
    ----------
    model : RewardModel
    X : ndarray of shape (n, d) or StreamedX
    scaler : StandardScaler or None
    heads : sequence of {"reward_logit", "propensity_logit"}
    dtype : str
        Parameter of the estimator: the number format of the computation.
    """
    parameter = next(model.parameters())
    logits = batched_logits(
        model,
        (chunk for _, chunk in standardized(X, scaler, parameter.dtype)),
        heads,
        device=parameter.device,
        autocast_dtype=resolve_dtype(dtype, parameter.device)[1],
    )
    if any(torch.isnan(part).any() for part in logits):
        raise ImplicitRMError(
            "the reward of some rows is not a number: X lies far outside the range seen in fit "
            f"(largest |X| given: {np.abs(X).max():.3g}). Check the scale of X."
        )
    return logits
