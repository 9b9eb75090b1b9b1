"""Debiased labels of a log as training data sets: unpaired (KTO) and paired (DPO)."""

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from .._fit import reread_log
from .._keys import codes_of, is_absent, plain
from .._optional import import_optional
from .._pipeline import split_pipeline
from .._prediction import FittedMixture, component_logits, user_codes
from .._tables import as_list, as_values, column_names, opened, taken
from .._typing import Rows
from ..exceptions import ImplicitRMError
from ..measurement import _mixture
from ._rewards import component_rewards

_RESPONSES = ("response", "completion")


def to_preference_dataset(
    est: Any,
    df: Any,
    *,
    form: str = "unpaired",
    X: Rows | None = None,
    actions: ArrayLike | None = None,
    user_id: ArrayLike | None = None,
    age: ArrayLike | None = None,
    min_confidence: float = 0.0,
    min_margin: float = 0.0,
    pairs_per_prompt: int = 1,
    output: str = "datasets",
) -> Any:
    """Turn a log into a preference data set whose labels come from the reward.

    The probability p = P(r*=1), that the user prefers a response, is its reward. With `actions`, it
    is the stratification posterior, which also knows what the user did. A missing action does not
    mean dislike there either.

    Parameters
    ----------
    est : ImplicitRewardEstimator or Pipeline
        A fitted estimator.
    df : DataFrame of pandas or polars, Arrow table or Hugging Face Dataset, of n rows
        Columns ``prompt`` and ``response`` (or ``completion``): text or chat messages. The optional
        column ``prompt_id`` distinguishes prompts; other columns are ignored. Rows without an id,
        or with different prompts, never share a prompt.
    form : {"unpaired", "paired"}, default="unpaired"
        The form "unpaired" has one row per response, for KTO [1]_: ``prompt``, ``completion``,
        ``label`` = p > 1/2, and ``weight`` = abs(2p - 1). The form "paired" has pairs of responses
        to one prompt, for DPO [2]_ or a reward model. Its columns are ``prompt``, ``chosen``,
        ``rejected``, ``reward_gap`` and ``confidence``. The gap is p of the chosen minus p of the
        rejected one, and the confidence is that the chosen one is better.
    X : array-like of shape (n, n_features), default=None
        Vectors of the rows. None: the text of `df`, if the estimator has an embedder.
    actions : array-like of shape (n,) or (n, n_signals), or list of str, default=None
        The actions of users, as in `fit`, or the names of these columns of `df`.
    user_id : array-like of shape (n,), or str, default=None
        The user of each row, for `actions`, as in `predict_proba`; or the name of this column of
        `df`. None: all are average users.
    age : array-like of shape (n,) or (n, n_signals), default=None
        The age of each row, for `actions` that may come late, as in `predict_proba`.
    min_confidence : float, default=0.0
        Minimum ``weight`` (unpaired) or ``confidence`` (paired, where chance is 0.5) of a row.
    min_margin : float, default=0.0
        Minimum ``reward_gap`` of a pair. Pairs without a gap, with equal responses or that repeat
        another pair are always left out.
    pairs_per_prompt : int, default=1
        Maximum number of pairs of a prompt: the best with the worst response, the second best with
        the second worst, and so on. So no response is in two pairs.
    output : {"datasets", "pandas"}, default="datasets"
        A Hugging Face ``Dataset`` (extra ``trl``) or a ``DataFrame``. Both have ``to_parquet``.

    Returns
    -------
    dataset : Dataset or DataFrame
        In the order of `df`. Prompts and responses are text if all of them are. Otherwise all are
        lists of chat messages, and text becomes one message. They consist of plain Python lists and
        dicts without null fields, because a table has every field in every row.

    Raises
    ------
    ValueError
        If an option is out of range, a column or a text is missing, or X and `df` differ in length.
        If `user_id` or `age` is given without `actions`, or for an estimator that was fitted
        without users or late actions.
    ImportError
        If pandas (extra ``data``) or, for `output`, datasets (extra ``trl``) is not installed.

    Notes
    -----
    A response is preferred with probability p, so its expected loss is p l(1) + (1 - p) l(0). If
    l(1) + l(0) is constant, as for KTO with equal weights, this is abs(2p - 1) l(label) plus a
    constant. So the weight makes one row carry the same information. TRL does not read the weight.
    Pass it on as sampling weight, or set `min_confidence`.

    The confidence is p_c (1 - p_r) / (p_c (1 - p_r) + p_r (1 - p_c)), for the chosen and the
    rejected response. It is the probability that the chosen one is preferred, given that exactly
    one is. It is averaged over the components of the mixture; if they disagree, it is near 1/2.

    References
    ----------
    .. [1] Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", ICML 2024.
    .. [2] Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a
       Reward Model", NeurIPS 2023.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from implicitrm_sk import ImplicitRewardEstimator
    >>> from implicitrm_sk.integrations import to_preference_dataset
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 2))
    >>> y = ((X[:, :1] > 0) & (rng.random((400, 2)) < 0.5)).astype(int)
    >>> est = ImplicitRewardEstimator(learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> log = pd.DataFrame({"prompt": ["How?", "How?"], "response": ["First ...", "No."]})
    >>> x = [[2.0, 0.0], [-2.0, 0.0]]
    >>> kto = to_preference_dataset(est, log, X=x, output="pandas")
    >>> kto[["completion", "label"]].to_dict("list")
    {'completion': ['First ...', 'No.'], 'label': [True, False]}
    >>> dpo = to_preference_dataset(est, log, form="paired", X=x, output="pandas")
    >>> dpo[["chosen", "rejected"]].to_dict("list")
    {'chosen': ['First ...'], 'rejected': ['No.']}
    """
    if form not in ("unpaired", "paired"):
        raise ImplicitRMError(
            f"form must be 'unpaired' or 'paired', got {form!r}. Pass one of them."
        )
    if output not in ("datasets", "pandas"):
        raise ImplicitRMError(
            f"output must be 'datasets' or 'pandas', got {output!r}. Pass one of them."
        )
    _check_limits(min_confidence, min_margin, pairs_per_prompt)
    pandas = import_optional("pandas", "data", "A preference data set")
    if output == "datasets":  # fails before the work, not after it
        datasets = import_optional("datasets", "trl", "output='datasets'")
    final, _ = split_pipeline(est)
    df = opened(df)
    names = column_names(df)
    prompts, responses = _texts(df, names)
    if X is None and final is est and getattr(est, "embedder_", None) is None:
        raise ImplicitRMError(
            "the estimator was fitted on vectors, so it cannot read the text of df. Pass the "
            "vectors of its rows as X=."
        )
    X = list(zip(prompts, responses, strict=True)) if X is None else opened(X)
    if len(X) != len(df):
        raise ImplicitRMError(
            f"X has {len(X)} rows and df {len(df)}; expected equal numbers. Pass as X= the vectors "
            "of the rows of df, in their order."
        )
    keys = _prompt_keys(df, names, prompts)
    actions, user_id = _actions(df, names, actions), _users(df, names, actions, user_id)
    if age is not None and actions is None:
        raise ImplicitRMError(
            "age is given without actions and has no effect. Pass actions= too, or leave age out."
        )
    prompts, responses = _same_form(prompts, responses)
    p, components = _probabilities(est, X, actions, user_id, age)
    make = _unpaired if form == "unpaired" else _paired
    table = make(
        prompts,
        responses,
        p,
        components,
        keys=keys,
        min_confidence=min_confidence,
        min_margin=min_margin,
        pairs_per_prompt=pairs_per_prompt,
    )
    if output == "datasets":
        return datasets.Dataset.from_dict(table)
    return pandas.DataFrame(table)


def _check_limits(min_confidence, min_margin, pairs_per_prompt):
    for name, value in (("min_confidence", min_confidence), ("min_margin", min_margin)):
        if not (isinstance(value, Real) and 0 <= value <= 1):
            raise ImplicitRMError(
                f"{name} must be a number from 0 to 1, got {value!r}. Correct it."
            )
    if not (isinstance(pairs_per_prompt, Integral) and pairs_per_prompt >= 1):
        raise ImplicitRMError(
            f"pairs_per_prompt must be an integer of at least 1, got {pairs_per_prompt!r}. Pass 1."
        )


def _texts(df, names):
    if names is None:
        raise TypeError(
            f"df is a {type(df).__name__}; expected a DataFrame with prompt and response. Convert "
            "it."
        )
    name = next((name for name in _RESPONSES if name in names), None)
    if "prompt" not in names or name is None:
        raise ImplicitRMError(
            f"df has the columns {names}; expected 'prompt' and 'response' (or 'completion'). "
            "Rename them."
        )
    return as_list(df["prompt"]), as_list(df[name])


def _actions(df, names, actions):
    if isinstance(actions, str):
        actions = [actions]
    if isinstance(actions, list | tuple) and all(isinstance(name, str) for name in actions):
        missing = [name for name in actions if name not in names]
        if missing:
            raise ImplicitRMError(
                f"df lacks the columns {missing}, which actions names. Correct the names."
            )
        return taken(df, [names.index(name) for name in actions])
    return actions


def _users(df, names, actions, user_id):
    if user_id is None:
        return None
    if actions is None:
        raise ImplicitRMError(
            "user_id is given without actions and has no effect: the reward is that of all users. "
            "Pass actions= too, or leave user_id out."
        )
    if not isinstance(user_id, str):
        return user_id
    if user_id not in names:
        raise ImplicitRMError(
            f"df lacks the column {user_id!r}, which user_id names. Correct the name."
        )
    return as_values(df[user_id])


def _prompt_keys(df, names, prompts):
    """Return a number for each prompt; rows of one id differ in it if their prompts do."""
    codes = codes_of(prompts)
    if "prompt_id" in names:
        both = np.stack([codes_of(as_values(df["prompt_id"])), codes], axis=1)
        codes = np.unique(both, axis=0, return_inverse=True)[1].ravel()
    return codes


def _same_form(prompts, responses):
    """Return prompts and responses as plain values: all text, or all chat messages."""
    prompts, responses = [[plain(value) for value in column] for column in (prompts, responses)]
    for name, column in (("prompt", prompts), ("response", responses)):
        row = next((row for row, value in enumerate(column) if is_absent(value)), None)
        if row is not None:
            raise ImplicitRMError(
                f'row {row} of df has no {name}. Leave such rows out, or write "" if it is known '
                "to be empty."
            )
        row = next((row for row, value in enumerate(column) if not _is_text(value)), None)
        if row is not None:
            raise TypeError(
                f"row {row} of df holds a {type(column[row]).__name__} as {name}; expected text or "
                "chat messages. Convert it."
            )
    if not all(isinstance(value, str) for value in [*prompts, *responses]):
        prompts, responses = (
            [_messages(value, role) for value in column]
            for column, role in ((prompts, "user"), (responses, "assistant"))
        )
    return prompts, responses


def _is_text(value):
    parts = value if isinstance(value, list) else [value]
    return isinstance(value, str) or all(isinstance(part, dict) for part in parts)


def _messages(value, role):
    """Return text or one message as a list of messages."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return [value] if isinstance(value, dict) else value


def _probabilities(est, X, actions, user_id, age):
    """Return P(r*=1 | x, y) of the mixture, (n,), and of each component, (components, n)."""
    if actions is None:
        components = component_rewards(est, X)
        return components.mean(axis=0), components
    est, transform = split_pipeline(est)
    mixture = FittedMixture.of(est)
    logits = component_logits(est, transform(X), "reward_logit", "propensity_logit")
    log = reread_log(est, logits[0].shape[1], actions, {"age": age}, name="actions")
    tensors = mixture.model_log(log).tensors()
    tensors["false_action_rate"] = mixture.false_action_rate
    preferred = [est.group_names_.index(name) for name in ("PA", "PP")]

    log_weight = mixture.log_weight(user_codes(est, user_id, len(log.actions)))

    def posterior(part):
        weight = log_weight
        if log_weight is not None and part != slice(None):
            weight = torch.log_softmax(log_weight[part], 0)
        groups = _mixture.group_posterior(
            mixture.measurement, *(values[part] for values in logits), log_weight=weight, **tensors
        )
        return groups[:, preferred].sum(-1).to(torch.float64).numpy()

    # Each member has one component for each node of the activity of users.
    n = est.model_.config["n_members"] if mixture.differs else len(logits[0])
    components = [posterior(slice(i, None, n)) for i in range(n)]
    return posterior(slice(None)), np.stack(components)


def _unpaired(prompts, responses, p, components, *, min_confidence, **_):
    weight = np.abs(2 * p - 1)
    rows = np.flatnonzero((weight >= min_confidence) & (weight > 0))
    return {
        "prompt": [prompts[i] for i in rows],
        "completion": [responses[i] for i in rows],
        "label": (p[rows] > 0.5).tolist(),
        "weight": weight[rows].tolist(),
    }


def _paired(
    prompts, responses, p, components, *, keys, min_confidence, min_margin, pairs_per_prompt
):
    # By prompt, within it from best to worst; equal ones in the order of the log.
    order = np.lexsort((np.arange(len(p)), -p, keys))
    sizes = np.bincount(keys[order]) if len(keys) else np.zeros(0, dtype=int)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else sizes
    chosen, rejected = [], []
    for k in range(pairs_per_prompt):
        some = sizes >= 2 * (k + 1)
        chosen.append(order[starts[some] + k])
        rejected.append(order[starts[some] + sizes[some] - 1 - k])
    chosen, rejected = (
        np.concatenate(part) if part else np.zeros(0, dtype=int) for part in (chosen, rejected)
    )
    gap = p[chosen] - p[rejected]
    a, b = components[:, chosen], components[:, rejected]
    right, wrong = a * (1 - b), b * (1 - a)
    with np.errstate(invalid="ignore"):
        confidence = np.where(right + wrong > 0, right / (right + wrong), 0.5).mean(axis=0)
    # Vectors of equal responses may differ: such a pair, or one both ways, teaches nothing.
    codes = codes_of(responses)
    kept = (gap > 0) & (gap >= min_margin) & (confidence >= min_confidence)
    kept &= codes[chosen] != codes[rejected]
    sides = np.sort([codes[chosen], codes[rejected]], axis=0)
    pairs = np.stack([keys[chosen], *sides], axis=1)
    kept = np.flatnonzero(kept)
    kept = kept[np.sort(np.unique(pairs[kept], axis=0, return_index=True)[1])]
    kept = kept[np.argsort(keys[chosen[kept]], kind="stable")]
    chosen, rejected = chosen[kept], rejected[kept]
    return {
        "prompt": [prompts[i] for i in chosen],
        "chosen": [responses[i] for i in chosen],
        "rejected": [responses[i] for i in rejected],
        "reward_gap": gap[kept].tolist(),
        "confidence": confidence[kept].tolist(),
    }
